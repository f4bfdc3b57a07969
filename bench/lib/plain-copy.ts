/**
 * A plain copy of a memory from one process to another over loopback TCP, nothing checked: what a
 * base image is measured against. As with an image, the bytes come from a memory of that size and
 * end in one that nobody has touched before.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { MIB } from '../../src/base/units.ts';

const HOST = '127.0.0.1';
const WRITE_BYTES = MIB;

function receive(port: number, bytes: number): void {
  const target = Buffer.allocUnsafeSlow(bytes);
  let filled = 0;
  const socket = connect(port, HOST);
  socket.on('data', (chunk) => {
    filled += chunk.copy(target, filled);
    if (filled === bytes) process.send?.({ last: target[bytes - 1] });
  });
  process.on('disconnect', () => process.exit());
}

/** Bytes that do not compress, every one of them written. */
export function sourceBytes(bytes: number): Buffer {
  const words = new Uint32Array(bytes / 4);
  for (let at = 0; at < words.length; at += 1) words[at] = Math.imul(at, 0x9e37_79b1);
  return Buffer.from(words.buffer);
}

async function pump(socket: Socket, source: Buffer): Promise<void> {
  for (let at = 0; at < source.byteLength; at += WRITE_BYTES)
    if (!socket.write(source.subarray(at, at + WRITE_BYTES))) await once(socket, 'drain');
}

/** Copies `source` once; bytes a second, until the last of them is in its place. */
export async function plainCopyInto(source: Buffer): Promise<number> {
  const server = createServer({ noDelay: true });
  server.listen(0, HOST);
  await once(server, 'listening');
  const accepted = once(server, 'connection');
  const { port } = server.address() as AddressInfo;
  const child = fork(fileURLToPath(import.meta.url), [
    '--receive-copy',
    String(port),
    String(source.byteLength),
  ]);
  const exited = once(child, 'exit');
  const [socket] = (await accepted) as [Socket];
  try {
    const done = once(child, 'message');
    const startMs = performance.now();
    await pump(socket, source);
    const [{ last }] = (await done) as [{ last: number }];
    const seconds = (performance.now() - startMs) / 1000;
    if (last !== source.at(-1)) throw new Error('the copy differs from its source');
    return source.byteLength / seconds;
  } finally {
    socket.on('error', () => socket.destroy());
    child.disconnect();
    await exited;
    socket.destroy();
    server.close();
  }
}

if (process.argv[2] === '--receive-copy') receive(Number(process.argv[3]), Number(process.argv[4]));
