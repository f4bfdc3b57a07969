/**
 * Goal: every write is kept, in one order over all disks, and counted before its reply; whatever a
 * client does, or this thread does not do, neither the other clients nor the bounds suffer. Method:
 * clients of a server with its intake, over real sockets.
 */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import {
  bytesWaiting,
  type DiskIntakeOptions,
  makeCounter,
  PIECE_BYTES_MAX,
  writesReceived,
} from '../../src/native/disk-intake.ts';
import { Memory } from '../../src/native/memory.ts';
import { request } from '../disks/nbd/nbd-client.ts';
import { type NbdPeer, NbdRig } from '../disks/nbd/nbd-rig.ts';

const MIB = 1024 * 1024;
const REPLY_BYTES = 16;
const ROOM_BYTES = 64;
const ENTRY_BYTES = 128;

let rig: NbdRig | null = null;
afterEach(() => {
  rig?.stop();
  rig = null;
});

async function start(
  disksBytes: readonly number[],
  options: Partial<DiskIntakeOptions> = {},
): Promise<NbdRig> {
  rig = await NbdRig.start(disksBytes, options);
  return rig;
}

async function write(peer: NbdPeer, offset: number, data: Uint8Array): Promise<void> {
  peer.socket.write(request({ type: 1, offset: BigInt(offset), data }));
  const reply = await peer.read(REPLY_BYTES);
  expect(reply.readUInt32BE(4)).toBe(0);
}

describe('DiskIntake', () => {
  it('keeps the writes of all disks in one order, counted before their replies', async () => {
    const counter = makeCounter();
    const started = await start([1000, 1000], { counter });
    const { intake } = started;
    const peers = [await started.open(0), await started.open(1)] as const;
    for (let round = 0; round < 40; round += 1) {
      await write(round % 2 === 0 ? peers[0] : peers[1], round, Buffer.from(`w${round}`));
      expect(writesReceived(counter)).toBe(round + 1);
    }
    peers[0].socket.write(request({ type: 4, offset: 1n, length: 9 }));
    await peers[0].read(REPLY_BYTES);
    const first = intake.takeThrough(10);
    const pieces = [...first, ...intake.takeThrough(41)];
    expect(first).toHaveLength(10);
    expect(pieces.map(({ disk, offset, data }) => [disk, offset, data?.toString()])).toEqual([
      ...Array.from({ length: 40 }, (_, round) => [round % 2, round, `w${round}`]),
      [0, 1, undefined],
    ]);
    expect(bytesWaiting(counter)).toBe(0);
    expect(() => intake.takeThrough(42)).toThrow(
      expect.objectContaining({ code: 'ERR_USAGE_NUMBER' }),
    );
  });

  it('counts on where an intake before it ended', async () => {
    const counter = makeCounter();
    const before = await start([1000], { counter });
    await write(await before.open(0), 0, Buffer.from('gone'));
    before.stop();
    expect([writesReceived(counter), bytesWaiting(counter)]).toEqual([1, 0]);
    const { intake } = await start([1000], { counter });
    await write((await rig?.open(0)) as NbdPeer, 5, Buffer.from('kept'));
    expect(intake.takeThrough(2)).toMatchObject([{ offset: 5 }]);
  });

  it('answers while this thread is blocked, and a thread beside it sees the count', async () => {
    const counter = makeCounter();
    const started = await start([MIB], { counter });
    const worker = new Worker(new URL('disk-writer.mjs', import.meta.url), {
      workerData: { path: started.server.path, counter, count: 200 },
    });
    await once(worker, 'message');
    const done = new SharedArrayBuffer(4);
    worker.postMessage(done);
    expect(Atomics.wait(new Int32Array(done), 0, 0, 10_000)).not.toBe('timed-out');
    // Each reply found its write counted.
    expect(new Int32Array(done)[0]).toBe(200);
    expect(started.intake.takeThrough(200)).toHaveLength(200);
    await worker.terminate();
  });

  it('lets long writes leave in pieces with room in front, and finds the zeros in them', async () => {
    const { intake } = await start([8 * MIB]);
    const peer = (await rig?.open(0)) as NbdPeer;
    const data = Buffer.alloc(2 * PIECE_BYTES_MAX + 4096);
    data[PIECE_BYTES_MAX] = 1;
    data[data.byteLength - 1] = 2;
    await write(peer, 512, data);
    await write(peer, 0, Buffer.from('small'));
    const pieces = intake.takeSome(8 * MIB);
    expect(
      pieces.map(({ offset, byteCount, roomBytes }) => [offset, byteCount, roomBytes]),
    ).toEqual([
      [512, PIECE_BYTES_MAX, 0],
      [512 + PIECE_BYTES_MAX, PIECE_BYTES_MAX, ROOM_BYTES],
      [512 + 2 * PIECE_BYTES_MAX, 4096, 0],
      [0, 5, 0],
    ]);
    expect(pieces[0]?.data).toBeNull();
    expect(pieces[1]?.data?.equals(data.subarray(PIECE_BYTES_MAX, 2 * PIECE_BYTES_MAX))).toBe(true);
    expect(pieces[2]?.data?.equals(data.subarray(2 * PIECE_BYTES_MAX))).toBe(true);
    expect(pieces[3]?.data?.toString()).toBe('small');
    // Of an epoch they leave as they came.
    await write(peer, 0, Buffer.alloc(4096));
    expect(intake.takeThrough(3)[0]?.data?.equals(Buffer.alloc(4096))).toBe(true);
    peer.socket.write(request({ type: 6, offset: 0n, length: 2 * PIECE_BYTES_MAX + 1 }));
    await peer.read(REPLY_BYTES);
    expect(intake.takeSome(1)).toMatchObject([
      { offset: 0, byteCount: PIECE_BYTES_MAX, data: null },
      { offset: PIECE_BYTES_MAX, byteCount: PIECE_BYTES_MAX, data: null },
      { offset: 2 * PIECE_BYTES_MAX, byteCount: 1, data: null },
    ]);
  });

  it('uses buffers that were given back, once', async () => {
    const { intake } = await start([8 * MIB]);
    const peer = (await rig?.open(0)) as NbdPeer;
    const data = Buffer.alloc(PIECE_BYTES_MAX, 7);
    const buffers: (ArrayBufferLike | undefined)[] = [];
    for (let round = 0; round < 4; round += 1) {
      await write(peer, 0, data);
      const [piece] = intake.takeSome(1);
      expect(piece?.data?.equals(data)).toBe(true);
      const buffer = piece?.data?.buffer as ArrayBuffer;
      buffers.push(buffer);
      if (round < 2) rig?.buffers.giveBack([buffer, new ArrayBuffer(10)]);
    }
    expect(buffers[1]).toBe(buffers[0]);
    expect(buffers[2]).toBe(buffers[0]);
    expect(buffers[3]).not.toBe(buffers[0]);
  });

  it('lets go of all disks when more waits than may', async () => {
    const waitingBytesMax = 1000 + 2 * ENTRY_BYTES;
    const { intake, gone, server } = await start([2000, 2000], { waitingBytesMax });
    const first = (await rig?.open(0)) as NbdPeer;
    const second = (await rig?.open(1)) as NbdPeer;
    await write(first, 0, Buffer.alloc(800, 1));
    await write(second, 0, Buffer.alloc(200, 1));
    second.socket.write(request({ type: 1, data: Buffer.alloc(1, 1) }));
    await Promise.all([first.closed(), second.closed()]);
    await expect.poll(() => gone.length).toBe(2);
    expect(gone.map(({ code }) => code)).toEqual(Array(2).fill('ERR_LIMIT_DISK_BACKLOG'));
    expect(intake.received).toBe(2);
    // For good.
    expect(server.isOpen(0)).toBe(false);
    const late = (await rig?.connect()) as NbdPeer;
    late.socket.destroy();
    expect(intake.takeThrough(2)).toHaveLength(2);
  });

  it('keeps only where it was written while it rests', async () => {
    const { intake } = await start([MIB, MIB]);
    const peer = (await rig?.open(1)) as NbdPeer;
    await write(peer, 3 * 4096, Buffer.alloc(100));
    intake.rest();
    expect(intake.waitingBytes).toBe(0);
    await write(peer, 9 * 4096 - 1, Buffer.alloc(2));
    const blocks = intake.resume();
    expect(blocks[0]?.some((bits) => bits !== 0)).toBe(false);
    expect([...(blocks[1] ?? [])].slice(0, 3)).toEqual([0b0000_1000, 0b0000_0011, 0]);
    await write(peer, 0, Buffer.from('anew'));
    expect(intake.takeThrough(3)).toMatchObject([{ disk: 1, offset: 0 }]);
    intake.rest();
    expect(intake.resume().map((bits) => bits.some((byte) => byte !== 0))).toEqual([false, false]);
  });

  it('tells when more waits than was asked for, once', async () => {
    const started = await start([MIB]);
    const { intake } = started;
    const peer = await started.open(0);
    await write(peer, 0, Buffer.alloc(100));
    await sleep(20);
    expect(started.waitingTold).toBe(0);
    intake.wakeAbove(0);
    await expect.poll(() => started.waitingTold).toBe(1);
    intake.wakeAbove(500);
    await write(peer, 0, Buffer.alloc(100));
    await sleep(20);
    expect(started.waitingTold).toBe(1);
    for (let more = 0; more < 3; more += 1) await write(peer, 0, Buffer.alloc(100));
    await expect.poll(() => started.waitingTold).toBe(2);
  });

  it('refuses what it does not serve, and ends who breaks the protocol', async () => {
    const { intake, gone } = await start([1000, 1000]);
    const peer = (await rig?.open(0)) as NbdPeer;
    const served = (await rig?.open(1)) as NbdPeer;
    for (const type of [0, 7]) peer.socket.write(request({ type, length: 512 }));
    const replies = await peer.read(2 * REPLY_BYTES);
    expect([replies.readUInt32BE(4), replies.readUInt32BE(20)]).toEqual([1, 22]);
    peer.socket.write(request({ type: 1, offset: 999n, data: Buffer.alloc(2) }));
    await peer.closed();
    await expect.poll(() => gone.map(({ code }) => code)).toEqual(['ERR_PROTOCOL_NBD']);
    expect(gone[0]?.message).toContain('a write of 2 bytes at 999');
    await write(served, 0, Buffer.from('on'));
    expect(intake.received).toBe(1);
  });

  it('does not wait for a client that does not read, nor bears it for ever', async () => {
    const { gone, intake } = await start([1000, 1000]);
    const deaf = (await rig?.open(0)) as NbdPeer;
    const served = (await rig?.open(1)) as NbdPeer;
    deaf.socket.pause();
    const flushes = Buffer.concat(Array<Buffer>(4096).fill(request({ type: 3 })));
    // Its replies fill the socket, and then the bound.
    for (let round = 0; round < 40; round += 1) deaf.socket.write(flushes);
    await expect.poll(() => gone.map(({ code }) => code)).toEqual(['ERR_PROTOCOL_NBD']);
    await deaf.closed();
    await write(served, 0, Buffer.from('on'));
    expect(intake.received).toBe(1);
  });

  it('forgets a write in whose middle its client went, and takes leave of those who do', async () => {
    const { gone, intake } = await start([8 * MIB]);
    const peer = (await rig?.open(0)) as NbdPeer;
    const data = Buffer.alloc(3 * MIB, 1);
    peer.socket.write(request({ type: 1, data }).subarray(0, 2 * MIB));
    await sleep(20);
    peer.socket.destroy();
    await expect.poll(() => gone.map(({ code }) => code)).toEqual(['ERR_DISK_LOST']);
    expect([intake.received, intake.waitingBytes]).toEqual([0, 0]);
    const next = (await rig?.open(0)) as NbdPeer;
    next.socket.write(Buffer.concat([request({ type: 3 }), request({ type: 2 })]));
    await next.read(REPLY_BYTES);
    await next.closed();
    await expect.poll(() => gone.length).toBe(2);
  });

  it('beats in both places as long as it lives', async () => {
    const shared = new SharedArrayBuffer(8);
    const page = Memory.create({ name: 'romulus-test-page', bytes: 4096 });
    const { intake } = await start([1000], { beats: { shared, page: { memory: page, word: 9 } } });
    const beats = (): readonly [number, number] => [
      Number(Atomics.load(new BigInt64Array(shared), 0)),
      Number(page.read(72, 8).readBigInt64LE()),
    ];
    await expect.poll(() => beats().every((beatMs) => beatMs > 0)).toBe(true);
    const first = beats();
    await expect
      .poll(() => beats().every((beatMs, place) => beatMs > (first[place] ?? 0)))
      .toBe(true);
    intake.close();
    intake.close();
    expect(beats()).toEqual([0, 0]);
    page.close();
  });
});
