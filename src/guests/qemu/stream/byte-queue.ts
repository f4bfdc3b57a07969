/**
 * Bytes that arrived in chunks and are read in order. Reads within a chunk are views, not copies.
 * It never holds more than what was pushed and not yet read; whoever pushes bounds that by parsing
 * after each push.
 */
import { assert } from '../../../base/assert.ts';

/** A first-in first-out of bytes with a cursor. */
export class ByteQueue {
  #chunk: Uint8Array = new Uint8Array(0);
  #position = 0;
  readonly #later: Uint8Array[] = [];
  #laterBytes = 0;
  #offset = 0;

  /** How many bytes can be read now. */
  get availableBytes(): number {
    return this.#chunk.byteLength - this.#position + this.#laterBytes;
  }

  /** Where the next byte stands in the whole of what was pushed. */
  get offset(): number {
    return this.#offset;
  }

  /** Appends a chunk, which must not change until it is read. */
  push(chunk: Uint8Array): void {
    if (chunk.byteLength === 0) return;
    if (this.#position === this.#chunk.byteLength && this.#later.length === 0) {
      this.#chunk = chunk;
      this.#position = 0;
      return;
    }
    this.#laterBytes += chunk.byteLength;
    let last = chunk;
    // Many tiny chunks would cost far more than their bytes: join equals, so that few remain.
    for (;;) {
      const before = this.#later.at(-1);
      if (before === undefined || before.byteLength > last.byteLength) break;
      this.#later.pop();
      const joined = new Uint8Array(before.byteLength + last.byteLength);
      joined.set(before);
      joined.set(last, before.byteLength);
      last = joined;
    }
    this.#later.push(last);
  }

  /** The next bytes; the caller made sure that they are there. */
  take(byteCount: number): Uint8Array {
    assert(byteCount <= this.availableBytes, 'more bytes are read than arrived');
    const end = this.#position + byteCount;
    this.#offset += byteCount;
    if (end <= this.#chunk.byteLength) {
      const view = this.#chunk.subarray(this.#position, end);
      this.#position = end;
      return view;
    }
    const joined = new Uint8Array(byteCount);
    let filled = 0;
    while (filled < byteCount) {
      if (this.#position === this.#chunk.byteLength) this.#next();
      const part = this.#chunk.subarray(this.#position, this.#position + byteCount - filled);
      joined.set(part, filled);
      filled += part.byteLength;
      this.#position += part.byteLength;
    }
    return joined;
  }

  /** The next byte, left where it is; -1 when none is there. */
  peek(): number {
    if (this.#position === this.#chunk.byteLength && this.#later.length > 0) this.#next();
    return this.#chunk[this.#position] ?? -1;
  }

  u8(): number {
    return this.take(1)[0] ?? 0;
  }

  u16(): number {
    return this.u8() * 0x100 + this.u8();
  }

  u32(): number {
    const bytes = this.take(4);
    return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0);
  }

  u64(): bigint {
    const bytes = this.take(8);
    return new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0);
  }

  /** Forgets everything, for instance after an error. */
  clear(): void {
    this.#chunk = new Uint8Array(0);
    this.#position = 0;
    this.#later.length = 0;
    this.#laterBytes = 0;
  }

  #next(): void {
    const chunk = this.#later.shift();
    assert(chunk !== undefined, 'the queue of bytes counts more than it holds');
    this.#chunk = chunk;
    this.#position = 0;
    this.#laterBytes -= chunk.byteLength;
  }
}
