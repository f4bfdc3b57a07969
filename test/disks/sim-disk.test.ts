/**
 * Goal: every write reaches its epoch, in order, or the disk says that it cannot be followed.
 * Method: a real unix socket in the machine's place, a real file as the disk.
 */
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type RomulusError, RomulusError as RomulusErrorClass } from '../../src/base/errors.ts';
import { DISK_WRITE_BYTES_MAX, DiskWriteDecoder } from '../../src/disks/disk-frames.ts';
import { BASE_CHUNK_BYTES, connectSimDisk, type SimDisk } from '../../src/disks/sim-disk.ts';

const DISK_BYTES = 3 * BASE_CHUNK_BYTES + 4096;

function frame(offset: number | bigint, data: Uint8Array): Buffer {
  const header = Buffer.alloc(12);
  header.writeUInt32BE(data.byteLength, 0);
  header.writeBigUInt64BE(BigInt(offset), 4);
  return Buffer.concat([header, data]);
}

describe('SimDisk', () => {
  let directory: string;
  let server: Server;
  let imagePath: string;
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'romulus-disk-'));
    imagePath = join(directory, 'image');
    server = createServer();
    server.listen(join(directory, 'disk'));
    await once(server, 'listening');
  });
  afterEach(async () => {
    server.close();
    await once(server, 'close');
    rmSync(directory, { recursive: true });
  });

  async function connectPair(
    bounds: { writesBytesMax?: number; takeTimeoutMs?: number } = {},
  ): Promise<{ machine: Socket; disk: SimDisk; lost: RomulusError[] }> {
    const accepted = once(server, 'connection');
    const lost: RomulusError[] = [];
    const disk = await connectSimDisk({
      path: join(directory, 'disk'),
      imagePath,
      diskBytes: DISK_BYTES,
      onLost: (error) => lost.push(error),
      ...bounds,
    });
    const [machine] = (await accepted) as [Socket];
    machine.on('error', () => {});
    return { machine, disk, lost };
  }

  async function until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
  }

  it('cuts writes into epochs by count, also those that come after their mark', async () => {
    const { machine, disk } = await connectPair();
    machine.write(frame(0, Buffer.from('a')));
    await until(() => disk.writesReceived === 1);
    disk.mark(1, 1);
    disk.mark(2, 1);
    disk.mark(3, 3);
    expect(await disk.take(1)).toEqual([{ offset: 0, data: Buffer.from('a') }]);
    expect(await disk.take(2)).toEqual([]);
    const third = disk.take(3);
    machine.write(frame(8, Buffer.from('b')));
    machine.write(frame(16, Buffer.from('c')));
    machine.write(frame(24, Buffer.from('d')));
    expect((await third).map((write) => write.offset)).toEqual([8, 16]);
    await until(() => disk.writesReceived === 4);
    expect(disk.pendingBytes).toBe(1);
    disk.close();
    machine.destroy();
  });

  it('says so when counted writes do not come', async () => {
    const { machine, disk } = await connectPair({ takeTimeoutMs: 20 });
    disk.mark(1, 1);
    await expect(disk.take(1)).rejects.toMatchObject({ code: 'ERR_TIMEOUT_DISK_WRITES' });
    disk.close();
    machine.destroy();
  });

  it('gives up, and wakes whoever waits, when the machine goes or too much waits', async () => {
    const gone = await connectPair();
    gone.disk.mark(1, 1);
    const waiting = gone.disk.take(1);
    gone.machine.destroy();
    await expect(waiting).rejects.toMatchObject({ code: 'ERR_DISK_LOST' });
    expect(gone.lost).toHaveLength(1);
    const full = await connectPair({ writesBytesMax: 100 });
    full.machine.write(frame(0, Buffer.alloc(101)));
    await until(() => full.lost.length > 0);
    expect(full.lost).toMatchObject([{ code: 'ERR_LIMIT_DISK_BACKLOG' }]);
    full.disk.mark(1, 1);
    await expect(full.disk.take(1)).rejects.toMatchObject({ code: 'ERR_LIMIT_DISK_BACKLOG' });
    full.machine.destroy();
  });

  it('believes no write outside the disk', async () => {
    const { machine, disk, lost } = await connectPair();
    machine.write(frame(DISK_BYTES - 1, Buffer.alloc(2)));
    await until(() => lost.length > 0);
    expect(lost).toMatchObject([{ code: 'ERR_DISK_WRITE_OUTSIDE' }]);
    disk.close();
    machine.destroy();
  });

  it('reads the whole disk in pieces, zeros as such', async () => {
    const image = Buffer.alloc(DISK_BYTES);
    image.write('start', 0);
    image.write('end', DISK_BYTES - 3);
    writeFileSync(imagePath, image);
    const { machine, disk } = await connectPair();
    const copy = Buffer.alloc(DISK_BYTES, 0xee);
    const zeroChunks: number[] = [];
    for await (const chunk of disk.readBase()) {
      if (chunk.data === null) {
        copy.fill(0, chunk.offset, chunk.offset + chunk.byteCount);
        zeroChunks.push(chunk.offset);
      } else {
        copy.set(chunk.data, chunk.offset);
      }
    }
    expect(copy.equals(image)).toBe(true);
    expect(zeroChunks).toEqual([BASE_CHUNK_BYTES, 2 * BASE_CHUNK_BYTES]);
    writeFileSync(imagePath, image.subarray(0, 5000));
    await expect(disk.readBase().next()).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
    disk.close();
    machine.destroy();
  });

  it('says that no disk is there', async () => {
    const connecting = connectSimDisk({
      path: join(directory, 'none'),
      imagePath,
      diskBytes: DISK_BYTES,
      onLost: () => {},
    });
    await expect(connecting).rejects.toMatchObject({ code: 'ERR_DISK_SOCKET' });
  });
});

describe('DiskWriteDecoder', () => {
  it('gives the same writes however the stream is cut', () => {
    const anyWrite = fc.record({
      offset: fc.nat(1000),
      data: fc.uint8Array({ maxLength: 100 }).map((bytes) => Buffer.from(bytes)),
    });
    fc.assert(
      fc.property(
        fc.array(anyWrite, { maxLength: 20 }),
        fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 20 }),
        (writes, cuts) => {
          const stream = Buffer.concat(writes.map((write) => frame(write.offset, write.data)));
          const decoder = new DiskWriteDecoder({ diskBytes: 4096 });
          const decoded = [];
          let at = 0;
          for (let index = 0; at < stream.byteLength; index += 1) {
            const end = at + (cuts[index % cuts.length] ?? 1);
            decoded.push(...decoder.push(stream.subarray(at, end)));
            at = end;
          }
          expect(decoded).toEqual(writes);
        },
      ),
    );
  });

  it('gives writes or one typed error for any bytes', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 64 }), { maxLength: 20 }), (chunks) => {
        const decoder = new DiskWriteDecoder({ diskBytes: 1 << 24 });
        for (const chunk of chunks) {
          try {
            for (const write of decoder.push(Buffer.from(chunk))) {
              expect(write.offset + write.data.byteLength).toBeLessThanOrEqual(1 << 24);
            }
          } catch (error) {
            expect(error).toBeInstanceOf(RomulusErrorClass);
          }
        }
      }),
    );
  });

  it('refuses lengths and offsets that no disk has', () => {
    const decode = (bytes: Buffer): unknown =>
      new DiskWriteDecoder({ diskBytes: 1 << 30 }).push(bytes);
    const long = Buffer.alloc(12);
    long.writeUInt32BE(DISK_WRITE_BYTES_MAX + 1);
    expect(() => decode(long)).toThrow(/more than/);
    expect(() => decode(frame(2n ** 64n - 1n, Buffer.from('x')))).toThrow(/beyond/);
  });
});
