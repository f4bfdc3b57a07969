/**
 * Disk writes as the simulated machine sends them: `[u32 BE length][u64 BE offset][data]`, the
 * length counting the data only. Every length and offset is checked against the disk before a
 * byte is kept.
 */
import { RomulusError } from '../base/errors.ts';
import type { DiskWrite } from './disk.ts';

export const DISK_WRITE_BYTES_MAX: number = 1024 * 1024;
const HEADER_BYTES = 12;

/** Cuts a byte stream into disk writes; holds at most one write. */
export class DiskWriteDecoder {
  readonly #diskBytes: number;
  readonly #header = Buffer.alloc(HEADER_BYTES);
  #headerBytes = 0;
  #offset = 0;
  #data: Buffer | null = null;
  #dataBytes = 0;
  #broken: RomulusError | null = null;

  constructor(options: { diskBytes: number }) {
    this.#diskBytes = options.diskBytes;
  }

  /**
   * Takes the next bytes and gives the writes they complete. The data is copied out of the chunk.
   * @throws {RomulusError} ERR_LIMIT_DISK_WRITE, ERR_DISK_WRITE_OUTSIDE; final for this stream.
   */
  push(chunk: Buffer): DiskWrite[] {
    if (this.#broken !== null) throw this.#broken;
    const writes: DiskWrite[] = [];
    let at = 0;
    while (at < chunk.byteLength) {
      if (this.#data === null) {
        const taken = chunk.copy(this.#header, this.#headerBytes, at);
        this.#headerBytes += taken;
        at += taken;
        if (this.#headerBytes < HEADER_BYTES) break;
        this.#headerBytes = 0;
        this.#begin();
      } else {
        const taken = chunk.copy(this.#data, this.#dataBytes, at);
        this.#dataBytes += taken;
        at += taken;
      }
      this.#finishIfWhole(writes);
    }
    return writes;
  }

  #begin(): void {
    const length = this.#header.readUInt32BE(0);
    const offset = this.#header.readBigUInt64BE(4);
    if (length > DISK_WRITE_BYTES_MAX) {
      this.#fail(
        'ERR_LIMIT_DISK_WRITE',
        `a disk write announces ${length} bytes, more than the ${DISK_WRITE_BYTES_MAX} allowed`,
      );
    }
    if (offset + BigInt(length) > BigInt(this.#diskBytes)) {
      this.#fail(
        'ERR_DISK_WRITE_OUTSIDE',
        `a disk write of ${length} bytes at ${offset} ends beyond the disk's ${this.#diskBytes} bytes`,
      );
    }
    this.#offset = Number(offset);
    // Copied, not viewed: a write may be kept for many epochs, its chunk is much larger.
    this.#data = Buffer.allocUnsafe(length);
    this.#dataBytes = 0;
  }

  #finishIfWhole(writes: DiskWrite[]): void {
    if (this.#data === null || this.#dataBytes < this.#data.byteLength) return;
    writes.push({ offset: this.#offset, data: this.#data });
    this.#data = null;
  }

  #fail(code: 'ERR_LIMIT_DISK_WRITE' | 'ERR_DISK_WRITE_OUTSIDE', message: string): never {
    this.#broken = new RomulusError(code, message, {
      remedy: 'Check that the machine was given the disk size that the engine was told.',
      details: { diskBytes: this.#diskBytes },
    });
    throw this.#broken;
  }
}
