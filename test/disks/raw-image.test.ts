/** Goal: what is read of a disk's file is what stands there, whatever stood in the buffer before. */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RawImage } from '../../src/disks/raw-image.ts';
import { pieceBuffers, READ_BYTES_MAX } from '../../src/disks/readable-disk.ts';
import { HEADER_ROOM_BYTES } from '../../src/disks/disk.ts';

const SECTOR_BYTES = 512;

let directory: string;
let path: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'romulus-image-'));
  path = join(directory, 'disk.raw');
});

afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

/** One buffer goes round, full of what nobody must see. */
function dirtyBuffers(): ReturnType<typeof pieceBuffers> {
  const buffers = pieceBuffers(1);
  buffers.giveBack([new Uint8Array(buffers.bytes).fill(0xee).buffer]);
  return buffers;
}

describe("a disk's file", () => {
  it('is read behind the room for a header, into a buffer that was given back', async () => {
    writeFileSync(path, Buffer.alloc(2 * READ_BYTES_MAX, 7));
    const buffers = dirtyBuffers();
    const [spare] = buffers.waiting;
    const image = RawImage.open({ file: { path }, diskBytes: 2 * READ_BYTES_MAX, buffers });
    const data = await image.read(READ_BYTES_MAX, READ_BYTES_MAX);
    image.close();
    expect(data?.equals(Buffer.alloc(READ_BYTES_MAX, 7))).toBe(true);
    expect(data?.byteOffset).toBe(HEADER_ROOM_BYTES);
    expect(data?.buffer).toBe(spare);
    expect(buffers.waiting).toEqual([]);
  });

  it('ends inside its last sector, whose rest is zeros', async () => {
    writeFileSync(path, Buffer.alloc(SECTOR_BYTES + 3, 7));
    const image = RawImage.open({
      file: { path },
      diskBytes: 2 * SECTOR_BYTES,
      buffers: dirtyBuffers(),
    });
    const data = await image.read(0, 2 * SECTOR_BYTES);
    image.close();
    const rest = Buffer.alloc(SECTOR_BYTES - 3);
    expect(data?.equals(Buffer.concat([Buffer.alloc(SECTOR_BYTES + 3, 7), rest]))).toBe(true);
  });

  it('holds zeros where it has holes, and where zeros are written; no buffer is lost on them', async () => {
    writeFileSync(path, Buffer.alloc(READ_BYTES_MAX));
    truncateSync(path, 3 * READ_BYTES_MAX);
    const buffers = dirtyBuffers();
    const image = RawImage.open({ file: { path }, diskBytes: 3 * READ_BYTES_MAX, buffers });
    for (const piece of [0, 1, 2])
      expect(await image.read(piece * READ_BYTES_MAX, READ_BYTES_MAX)).toBeNull();
    image.close();
    expect(buffers.waiting).toHaveLength(1);
  });

  it('is refused when it is not the disk, and when it ends before the disk does', async () => {
    writeFileSync(path, Buffer.alloc(READ_BYTES_MAX, 7));
    const open = (diskBytes: number): RawImage =>
      RawImage.open({ file: { path }, diskBytes, buffers: pieceBuffers(1) });
    const refusal = expect.objectContaining({ code: 'ERR_DISK_READ' }) as Error;
    expect(() => open(READ_BYTES_MAX + SECTOR_BYTES)).toThrow(refusal);
    expect(() => open(READ_BYTES_MAX - SECTOR_BYTES)).toThrow(refusal);
    const image = open(READ_BYTES_MAX);
    truncateSync(path, READ_BYTES_MAX / 2);
    await expect(image.read(0, READ_BYTES_MAX)).rejects.toThrow(refusal);
    await expect(image.read(READ_BYTES_MAX / 2, SECTOR_BYTES)).rejects.toThrow(refusal);
    image.close();
  });
});
