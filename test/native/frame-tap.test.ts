/**
 * Goal: a tap reads at all times, keeps the order, counts what it drops, and tells its count to
 * another thread at once. Method: another process stands for QEMU at the far ends.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import type { RomulusError } from '../../src/base/errors.ts';
import { drainFrames, FrameTap, type FrameTapOptions } from '../../src/native/frame-tap.ts';
import { Memory } from '../../src/native/memory.ts';

const PEER = new URL('frame-peer.mjs', import.meta.url).pathname;
const EVENTUALLY_MS = 10_000;

interface Heard {
  readonly texts: string[];
  readonly ports: number[];
  readonly broken: RomulusError[];
  frames: number;
  lost: number;
  readyAgain: number;
}

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0).toReversed()) cleanup();
});

function open(options: Partial<FrameTapOptions> = {}): { tap: FrameTap; heard: Heard } {
  const heard: Heard = { texts: [], ports: [], broken: [], frames: 0, lost: 0, readyAgain: 0 };
  const tap = new FrameTap({
    ports: 1,
    onFrame: (frame, port) => {
      heard.frames += 1;
      heard.ports.push(port);
      if (frame.byteLength < 32) heard.texts.push(frame.toString('utf8', 4));
    },
    onLost: (count) => {
      heard.lost += count;
    },
    onReady: () => {
      heard.readyAgain += 1;
    },
    onBroken: (_port, error) => heard.broken.push(error),
    ...options,
  });
  cleanups.push(() => tap.close());
  return { tap, heard };
}

/** Starts the other side on the tap's far ends. */
function peer(tap: FrameTap, job: string, count = 0, bytes = 60): ChildProcess {
  const ends = tap.farEnds.flatMap(({ capture, inject }) => [capture, inject]);
  const child = spawn(process.execPath, [PEER, job, String(count), String(bytes)], {
    stdio: ['pipe', 'pipe', 'inherit', ...ends],
  });
  tap.closeFarEnds();
  cleanups.push(() => child.kill('SIGKILL'));
  return child;
}

async function said(child: ChildProcess): Promise<Record<string, unknown>> {
  const [chunk] = (await once(child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
  return JSON.parse(chunk.toString()) as Record<string, unknown>;
}

async function until(test: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + EVENTUALLY_MS;
  while (!test()) {
    if (performance.now() > deadlineMs) throw new Error('waited in vain');
    await sleep(2);
  }
}

function block(durationMs: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, durationMs);
}

describe('FrameTap', () => {
  it('brings the frames of all NICs, each in its order, and counts them', async () => {
    const { tap, heard } = open({ ports: 2 });
    await said(peer(tap, 'turns', 1000));
    expect(drainFrames(tap.id)).toBe(1000);
    await until(() => heard.frames === 1000);
    for (const port of [0, 1]) {
      const own = heard.texts.filter((_, index) => heard.ports[index] === port).map(Number);
      expect(own).toEqual(Array.from({ length: 500 }, (_, index) => 2 * index + port));
    }
    expect(heard.lost).toBe(0);
  });

  it('reads on while its own thread is blocked, and drops and counts what finds no room', async () => {
    const { tap, heard } = open({ framesMax: 5000 });
    const child = peer(tap, 'flood', 60_000, 1400);
    const done = said(child);
    // The other side must get through all of it while nothing runs here.
    const begunMs = performance.now();
    do block(2000);
    while (tap.counters.received < 60_000 && performance.now() - begunMs < EVENTUALLY_MS);
    const { received, waitingFrames } = tap.counters;
    expect(received).toBe(60_000);
    expect(waitingFrames).toBe(5000);
    await done;
    await until(() => heard.frames + heard.lost === 60_000);
    expect(heard.frames).toBe(5000);
    expect(tap.counters.dropped).toBe(55_000);
    expect(drainFrames(tap.id)).toBe(60_000);
  });

  it('tells its count to another thread while its own is blocked', async () => {
    const { tap } = open();
    const child = peer(tap, 'flood', 500);
    await said(child);
    const answer = new SharedArrayBuffer(8);
    const worker = new Worker(new URL('frame-drainer.mjs', import.meta.url), {
      workerData: { id: tap.id, answer },
    });
    await once(worker, 'online');
    // This thread delivers nothing until the other has answered.
    Atomics.wait(new Int32Array(answer), 1, 0, EVENTUALLY_MS);
    expect(new Int32Array(answer)[0]).toBe(500);
    await worker.terminate();
    tap.close();
    expect(() => drainFrames(tap.id)).toThrow(/not followed any more/);
  });

  it('writes frames back whole, says when it has no room, and when it has again', async () => {
    const { tap, heard } = open();
    const frame = Buffer.alloc(4 + 60_000, 'x');
    frame.writeUInt32BE(60_000);
    let written = 0;
    while (tap.ready && written < 1000) {
      tap.write(frame, 0);
      written += 1;
    }
    expect(written).toBeGreaterThan(1);
    expect(written).toBeLessThan(1000);
    expect(tap.unreadBytes).toBeGreaterThan(60_000);
    const child = peer(tap, 'read', written * frame.byteLength);
    expect(await said(child)).toEqual({
      starts: frame.toString('latin1', 0, 6),
      ends: 'xxxxxx',
    });
    await until(() => heard.readyAgain === 1);
    expect(tap.ready).toBe(true);
    expect(tap.unreadBytes).toBe(0);
  });

  it('tells when the other side breaks the format, or goes', async () => {
    const broken = open();
    peer(broken.tap, 'nonsense');
    await until(() => broken.heard.broken.length > 0);
    expect(broken.heard.broken[0]).toMatchObject({ code: 'ERR_LIMIT_NET_FRAME' });

    const gone = open();
    const child = peer(gone.tap, 'nothing');
    await said(child);
    child.kill('SIGKILL');
    // Both directions end.
    await until(() => gone.heard.broken.length === 2);
    expect(gone.heard.broken[0]).toMatchObject({ code: 'ERR_NET_TAP_LOST' });
    expect(() => gone.tap.write(Buffer.from('0000000141', 'hex'), 0)).not.toThrow();
  });

  it('beats while its own thread is blocked, and leaves nothing behind', () => {
    const before = readdirSync('/proc/self/fd').length;
    const memory = Memory.create({ name: 'beat', bytes: 4096 });
    const { tap } = open({ beat: { memory, index: 3 } });
    const beatMs = (): number => Number(memory.read(24, 8).readBigUInt64LE());
    const firstMs = beatMs();
    block(200);
    expect(beatMs()).toBeGreaterThan(firstMs);
    tap.close();
    tap.close();
    memory.close();
    expect(readdirSync('/proc/self/fd').length).toBe(before);
    expect(() =>
      open({ beat: { memory: Memory.create({ name: 'b', bytes: 4096 }), index: 512 } }),
    ).toThrow(/outside/);
  });
});
