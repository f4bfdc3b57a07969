/** Goal: memory of a first copy is used again, and never while somebody has it. */
import { expect, test } from 'vitest';
import { BaseBuffers } from '../../src/disks/base-buffers.ts';
import { HEADER_ROOM_BYTES } from '../../src/disks/disk.ts';
import { PIECE_BYTES_MAX } from '../../src/disks/write-log.ts';

function bufferOf({ buffer }: Buffer): ArrayBuffer {
  if (!(buffer instanceof ArrayBuffer)) throw new TypeError('a buffer that cannot be moved');
  return buffer;
}

test('every piece has a buffer of its own, with room for a header in front', () => {
  const buffers = new BaseBuffers();
  for (const byteCount of [1, 4096, PIECE_BYTES_MAX, 3 * PIECE_BYTES_MAX]) {
    const piece = buffers.allocate(byteCount);
    expect(piece.byteLength).toBe(byteCount);
    expect(piece.byteOffset).toBe(HEADER_ROOM_BYTES);
    expect(piece.buffer.byteLength).toBe(HEADER_ROOM_BYTES + byteCount);
  }
});

test('what is given back is handed out once, to pieces of its size', () => {
  const buffers = new BaseBuffers();
  const back = bufferOf(buffers.allocate(PIECE_BYTES_MAX));
  buffers.giveBack([back]);
  expect(buffers.allocate(PIECE_BYTES_MAX - 1).buffer).not.toBe(back);
  expect(buffers.allocate(PIECE_BYTES_MAX).buffer).toBe(back);
  expect(buffers.allocate(PIECE_BYTES_MAX).buffer).not.toBe(back);
});

test('buffers of other sizes, and more than a bound, are not kept', () => {
  const buffers = new BaseBuffers();
  const odd = bufferOf(buffers.allocate(4096));
  const many = Array.from({ length: 100 }, () => bufferOf(buffers.allocate(PIECE_BYTES_MAX)));
  buffers.giveBack([odd, ...many]);
  const known = new Set(many);
  const again = Array.from({ length: 100 }, () => bufferOf(buffers.allocate(PIECE_BYTES_MAX)));
  expect(again.filter((buffer) => known.has(buffer))).toHaveLength(64);
});
