/** Goal: what a disk's server says is believed only where it is right, and waited for only so long. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { goReplies, greeting, optionReply } from '../../../src/disks/nbd/protocol.ts';
import { NbdReader } from '../../../src/disks/nbd/reader.ts';

const DISK_BYTES = 8192;
const GO = 7;
const MIB = 1024 * 1024;
const REFUSED_UNKNOWN = 0x80000006;

let directory: string;
let server: Server;
let sockets: Socket[];
/** What is answered to the client's first words, and to each request. */
let grant: Buffer;
let answer: (request: Buffer) => Buffer | null;

function dataReply(request: Buffer, data: Buffer, fields: { magic?: number; errno?: number } = {}) {
  const head = Buffer.alloc(16);
  head.writeUInt32BE(fields.magic ?? 0x67446698, 0);
  head.writeUInt32BE(fields.errno ?? 0, 4);
  request.copy(head, 8, 8, 16);
  return Buffer.concat([head, data]);
}

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'romulus-nbd-reader-'));
  sockets = [];
  grant = goReplies(DISK_BYTES);
  answer = (request) => dataReply(request, Buffer.alloc(request.readUInt32BE(24), 7));
  server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
    let isOpen = false;
    socket.on('data', (chunk: Buffer) => {
      const words = isOpen ? answer(chunk) : grant;
      isOpen = true;
      if (words === null) socket.destroy();
      else socket.write(words);
    });
    socket.write(greeting());
  });
  await new Promise<void>((resolve) => {
    server.listen(join(directory, 'nbd.sock'), resolve);
  });
});

afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => server.close(resolve));
  rmSync(directory, { recursive: true, force: true });
});

function open(
  diskBytes = DISK_BYTES,
  bounds: { answerTimeoutMs?: number; readTimeoutMs?: number } = {},
): Promise<NbdReader> {
  return NbdReader.open({
    path: join(directory, 'nbd.sock'),
    exportName: 'x0',
    diskBytes,
    ...bounds,
  });
}

describe('an NBD reader', () => {
  it('gives what it is told, in buffers of their own, and null for zeros', async () => {
    const reader = await open();
    const data = await reader.read(4096, 512);
    expect(data?.equals(Buffer.alloc(512, 7))).toBe(true);
    expect(data?.buffer.byteLength).toBe(512);
    answer = (request) => dataReply(request, Buffer.alloc(request.readUInt32BE(24)));
    expect(await reader.read(0, 8192)).toBeNull();
    reader.close();
  });

  it.each([
    ['refuses the export', () => optionReply(GO, REFUSED_UNKNOWN, Buffer.from('no such thing'))],
    ['has another size', () => goReplies(DISK_BYTES + 512)],
    ['answers another option', () => optionReply(6, 1)],
    ['announces an endless reply', () => optionReply(GO, 3, Buffer.alloc(5000))],
    ['does not tell its size', () => optionReply(GO, 1)],
    ['goes on replying', () => Buffer.concat(Array.from({ length: 40 }, () => optionReply(GO, 3)))],
    ['speaks nonsense', () => Buffer.alloc(64, 0x5a)],
  ])('says so when the server %s', async (_, words) => {
    grant = words();
    await expect(open()).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
  });

  it.each([
    ['fails', (request: Buffer) => dataReply(request, Buffer.alloc(0), { errno: 5 })],
    ['answers nonsense', (request: Buffer) => dataReply(request, Buffer.alloc(0), { magic: 1 })],
    ['answers something else', () => dataReply(Buffer.alloc(28, 9), Buffer.alloc(512))],
    ['goes away', () => null],
  ])('says so when the server %s a request', async (_, words) => {
    const reader = await open();
    answer = words;
    await expect(reader.read(0, 512)).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
    reader.close();
  });

  it('has the server flush, and says so when it cannot', async () => {
    const reader = await open();
    const asked: number[] = [];
    answer = (request) => {
      asked.push(request.readUInt16BE(6));
      return dataReply(request, Buffer.alloc(0), { errno: asked.length === 1 ? 0 : 5 });
    };
    await reader.flush();
    await expect(reader.flush()).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
    expect(asked).toEqual([3, 3]);
    reader.close();
  });

  it('ends a server that sends without end', async () => {
    const reader = await open();
    answer = (request) => dataReply(request, Buffer.alloc(3 * MIB));
    await expect(reader.read(0, 512).then(() => reader.read(0, MIB))).rejects.toMatchObject({
      code: 'ERR_DISK_READ',
    });
    await expect.poll(() => sockets[0]?.destroyed).toBe(true);
    reader.close();
  });

  it('waits for an answer only so long', async () => {
    const reader = await open(DISK_BYTES, { answerTimeoutMs: 1000 });
    answer = () => Buffer.alloc(8);
    await expect(reader.read(0, 512)).rejects.toMatchObject({
      code: 'ERR_DISK_READ',
      message: expect.stringContaining('no answer within 1000 ms'),
    });
    reader.close();
    grant = Buffer.alloc(8);
    await expect(open(DISK_BYTES, { answerTimeoutMs: 50 })).rejects.toMatchObject({
      code: 'ERR_DISK_READ',
    });
  });

  it('waits for storage as long as it is told to, whatever it waits for other answers', async () => {
    const reader = await open(DISK_BYTES, { readTimeoutMs: 1 });
    answer = () => Buffer.alloc(0);
    await expect(reader.read(0, 512)).rejects.toThrow('no answer within 1 ms');
    reader.close();
  });

  it.each([
    ['a flush', (reader: NbdReader) => reader.flush()],
    ['a read', (reader: NbdReader) => reader.read(0, 512)],
  ])('ends %s that is waited for when it is closed', async (_, ask) => {
    const reader = await open(DISK_BYTES, { readTimeoutMs: 600_000 });
    answer = () => Buffer.alloc(0);
    const asked = ask(reader);
    reader.close();
    await expect(asked).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
  });

  it('knows whether a server answers at a path', async () => {
    expect(await NbdReader.isServed(join(directory, 'nbd.sock'))).toBe(true);
    await expect.poll(() => sockets[0]?.destroyed).toBe(true);
    expect(await NbdReader.isServed(join(directory, 'none.sock'))).toBe(false);
  });

  it('says so when nobody listens, and when the server goes in the middle of an answer', async () => {
    const reader = await open();
    answer = (request) => {
      setImmediate(() => sockets[0]?.end());
      return dataReply(request, Buffer.alloc(100));
    };
    await expect(reader.read(0, 512)).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
    reader.close();
    const missing = NbdReader.open({
      path: join(directory, 'none.sock'),
      exportName: 'x0',
      diskBytes: DISK_BYTES,
    });
    await expect(missing).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
  });
});
