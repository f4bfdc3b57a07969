/**
 * In which epoch each block of a machine's disks was written last: what a backup lacks that holds
 * the disks as of an earlier epoch.
 *
 * A write whose epoch nobody will ever have (no backup is there) counts as later than all epochs,
 * until an image is made that contains it. So what is told is never too little; it may be too much
 * by blocks whose writes the backup has.
 *
 * Memory: eight bytes for each 64 KiB of disk, of which the kernel provides only what is written to:
 * at most an 8192nd part of the disks' sizes.
 */
import { assert } from '../base/assert.ts';

/** Size of a block. */
export const BLOCK_BYTES: number = 64 * 1024;
/** Every block was written after it. */
const BEFORE_ALL = -1;
/** The epoch of writes that belong to none yet. */
const LATER_THAN_ALL = Number.POSITIVE_INFINITY;

/** A stretch of one disk. */
export interface DiskStretch {
  readonly disk: number;
  readonly offset: number;
  readonly byteCount: number;
}

/** Blocks of several disks, with epochs. */
export class BlockEpochs {
  readonly #disksBytes: readonly number[];
  readonly #written: readonly Float64Array[];

  constructor(disksBytes: readonly number[]) {
    this.#disksBytes = disksBytes;
    this.#written = disksBytes.map((bytes) => new Float64Array(Math.ceil(bytes / BLOCK_BYTES)));
  }

  /** These bytes are written by `epoch`. */
  note({ disk, offset, byteCount }: DiskStretch, epoch: number): void {
    const written = this.#written[disk];
    assert(written !== undefined, `no disk ${disk}`);
    const last = Math.floor((offset + byteCount - 1) / BLOCK_BYTES);
    for (let block = Math.floor(offset / BLOCK_BYTES); block <= last; block += 1)
      written[block] = Math.max(written[block] ?? 0, epoch);
  }

  /** Whether none of these bytes' blocks was noted as written. */
  isUnwritten({ disk, offset, byteCount }: DiskStretch): boolean {
    const first = Math.floor(offset / BLOCK_BYTES);
    const end = Math.ceil((offset + byteCount) / BLOCK_BYTES);
    return this.#written[disk]?.subarray(first, end).every((epoch) => epoch === 0) ?? false;
  }

  /** These blocks of a disk are written, one bit for each, lowest first; no epoch contains that yet. */
  noteLater(disk: number, blocks: Uint8Array): void {
    const written = this.#written[disk];
    assert(written !== undefined, `no disk ${disk}`);
    for (const [index, bits] of blocks.entries())
      for (let bit = 0; bits >> bit > 0; bit += 1)
        if (((bits >> bit) & 1) === 1) written[8 * index + bit] = LATER_THAN_ALL;
  }

  /** What belonged to no epoch will be in the image that this epoch completes. */
  settle(epoch: number): void {
    for (const written of this.#written)
      for (let block = 0; block < written.length; block += 1)
        if (written[block] === LATER_THAN_ALL) written[block] = epoch;
  }

  /** All of these disks, in stretches of `bytesMax`. */
  allOf(disks: readonly number[], bytesMax: number): Generator<DiskStretch> {
    return this.#writtenAfter(BEFORE_ALL, disks, bytesMax);
  }

  /** All that was written after an epoch, neighbouring blocks together up to `bytesMax`. */
  changedSince(epoch: number, bytesMax: number): Generator<DiskStretch> {
    return this.#writtenAfter(epoch, [...this.#written.keys()], bytesMax);
  }

  *#writtenAfter(
    epoch: number,
    disks: readonly number[],
    bytesMax: number,
  ): Generator<DiskStretch> {
    assert(bytesMax >= BLOCK_BYTES, 'a stretch is a block at least');
    for (const disk of disks) {
      const written = this.#written[disk];
      assert(written !== undefined, `no disk ${disk}`);
      const diskBytes = this.#disksBytes[disk] ?? 0;
      let block = 0;
      while (block < written.length) {
        if ((written[block] ?? 0) <= epoch) {
          block += 1;
          continue;
        }
        const offset = block * BLOCK_BYTES;
        const blocksMax = Math.floor(bytesMax / BLOCK_BYTES);
        const first = block;
        while (block - first < blocksMax && (written[block] ?? 0) > epoch) block += 1;
        yield { disk, offset, byteCount: Math.min(block * BLOCK_BYTES, diskBytes) - offset };
      }
    }
  }

  /** Bytes in all blocks written after an epoch. */
  bytesSince(epoch: number): number {
    let bytes = 0;
    for (const { byteCount } of this.changedSince(epoch, Number.MAX_SAFE_INTEGER))
      bytes += byteCount;
    return bytes;
  }
}
