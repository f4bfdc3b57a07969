/**
 * Memory for the data of writes. Most of a first copy comes in pieces of one size: their buffers go
 * to another thread, from there into the link, and come back to be filled again. A fresh megabyte for
 * each would cost page faults, and, worse, V8 marks the whole heap for every 64 of them.
 */
import { HEADER_ROOM_BYTES } from './disk.ts';
import { PIECE_BYTES_MAX } from './write-log.ts';

/** Buffers that wait to be filled; more are left to the collector. */
const SPARES_MAX = 64;
const BUFFER_BYTES = HEADER_ROOM_BYTES + PIECE_BYTES_MAX;

/** Hands out memory, and takes some of it back. */
export class BaseBuffers {
  #spares: ArrayBuffer[] = [];

  /** Memory of that size, not cleared, with a buffer of its own and `HEADER_ROOM_BYTES` before it. */
  allocate(byteCount: number): Buffer {
    const spare = byteCount === PIECE_BYTES_MAX ? this.#spares.pop() : undefined;
    const bytes = HEADER_ROOM_BYTES + byteCount;
    return Buffer.from(spare ?? Buffer.allocUnsafeSlow(bytes).buffer, HEADER_ROOM_BYTES, byteCount);
  }

  /** Takes buffers back, whichever they are. */
  giveBack(buffers: readonly ArrayBuffer[]): void {
    const fitting = buffers.filter(({ byteLength }) => byteLength === BUFFER_BYTES);
    this.#spares = [...this.#spares, ...fitting].slice(0, SPARES_MAX);
  }
}
