/**
 * The writes of several disks in one order of receipt, cut into a first copy and epochs.
 *
 * Everything before `endBase` belongs to the first copy and leaves in order by `nextBase`; what
 * comes later waits for its epoch. Nothing is ever left out: when more waits than the bound, the
 * writes can no longer be followed, `push` throws, and it is final.
 *
 * The count of writes received lives in memory that other threads can read: who stops the machine
 * reads it while the machine stands, and that is the epoch's mark.
 */
import { assert } from '../base/assert.ts';
import { RomulusError } from '../base/errors.ts';
import type { DiskChunk, DiskWrite, DiskZeros } from './disk.ts';

/** Bytes of writes that may wait, for the first copy or their epoch. */
export const WAITING_BYTES_MAX: number = 256 * 1024 * 1024;
/** What a waiting write weighs besides its data. */
const ENTRY_BYTES = 128;
/** Longest piece that leaves here; longer writes leave in several. */
export const PIECE_BYTES_MAX: number = 1024 * 1024;

const ZEROS = Buffer.alloc(PIECE_BYTES_MAX);

/** A write as it came. */
export interface LoggedWrite {
  readonly disk: number;
  readonly offset: number;
  readonly byteCount: number;
  /** Null when all of it is zeros. */
  readonly data: Buffer | null;
}

interface Mark {
  readonly epoch: number;
  readonly throughCount: number;
}

/** Reads the count of writes received; usable on any thread. */
export function writesReceived(counter: SharedArrayBuffer): number {
  return Number(Atomics.load(new BigInt64Array(counter), 0));
}

/** Keeps writes until they are taken. */
export class WriteLog {
  /** See `writesReceived`. */
  readonly counter: SharedArrayBuffer = new SharedArrayBuffer(8);
  readonly #count = new BigInt64Array(this.counter);
  readonly #waitingBytesMax: number;
  #base: LoggedWrite[] = [];
  #baseHead = 0;
  #baseEnded = false;
  #writes: LoggedWrite[] = [];
  #waitingBytes = 0;
  #received = 0;
  /** How many have left for an epoch, or belong to the first copy. */
  #takenCount = 0;
  #marks: Mark[] = [];
  #broken: RomulusError | null = null;

  constructor(options: { waitingBytesMax?: number } = {}) {
    this.#waitingBytesMax = options.waitingBytesMax ?? WAITING_BYTES_MAX;
  }

  /** Writes pushed so far. */
  get received(): number {
    return this.#received;
  }

  /** Bytes that wait, for the first copy or an epoch. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** True when no write belongs to the first copy any more. */
  get baseEnded(): boolean {
    return this.#baseEnded;
  }

  /** @throws {RomulusError} ERR_LIMIT_DISK_BACKLOG when too much waits. */
  push(write: LoggedWrite): void {
    if (this.#broken !== null) throw this.#broken;
    const bytes = weight(write);
    if (this.#waitingBytes + bytes > this.#waitingBytesMax) {
      this.clear();
      this.#broken = new RomulusError(
        'ERR_LIMIT_DISK_BACKLOG',
        `more than ${this.#waitingBytesMax} bytes of disk writes wait to be sent`,
        {
          remedy: 'Shorten the interval between checkpoints, or let the machine write less.',
          details: { waitingBytesMax: this.#waitingBytesMax },
        },
      );
      throw this.#broken;
    }
    this.#waitingBytes += bytes;
    (this.#baseEnded ? this.#writes : this.#base).push(write);
    this.#received += 1;
    Atomics.store(this.#count, 0, BigInt(this.#received));
  }

  /** What came so far is the first copy; what comes from now on belongs to epochs. */
  endBase(): void {
    if (this.#baseEnded) return;
    this.#baseEnded = true;
    this.#takenCount = this.#received;
  }

  /** The first copy's next pieces, in order; empty when nothing waits. */
  nextBase(): DiskChunk[] {
    const write = this.#base[this.#baseHead];
    if (write === undefined) return [];
    this.#baseHead += 1;
    if (this.#baseHead === this.#base.length) {
      this.#base = [];
      this.#baseHead = 0;
    }
    this.#waitingBytes -= weight(write);
    return piecesOf(write).map((piece) => ({
      disk: piece.disk,
      offset: piece.offset,
      byteCount: piece.byteCount,
      data: piece.data !== null && isZero(piece.data) ? null : piece.data,
    }));
  }

  /** The writes with a count up to `throughCount` belong to `epoch` or one before it. */
  mark(epoch: number, throughCount: number): void {
    assert(Number.isSafeInteger(throughCount) && throughCount >= 0, 'a bad count of disk writes');
    assert(throughCount <= this.#received, `epoch ${epoch} counts writes that never came`);
    const last = this.#marks.at(-1);
    assert(last === undefined || epoch > last.epoch, `epoch ${epoch} is marked out of order`);
    assert(
      throughCount >= (last?.throughCount ?? 0),
      `the disk mark of epoch ${epoch} lies before an earlier one`,
    );
    this.#marks.push({ epoch, throughCount });
  }

  /** The writes of a marked epoch, in order, those of marks before it included. */
  take(epoch: number): (DiskWrite | DiskZeros)[] {
    const mark = this.#marks.find((candidate) => candidate.epoch === epoch);
    assert(mark !== undefined, `epoch ${epoch} was not marked on the disk`);
    this.#marks = this.#marks.filter((candidate) => candidate.epoch > epoch);
    // A mark made during the first copy has no writes of its own.
    const count = Math.max(0, mark.throughCount - this.#takenCount);
    const taken = this.#writes.splice(0, count);
    assert(taken.length === count, 'marked disk writes are gone');
    this.#takenCount += count;
    for (const write of taken) this.#waitingBytes -= weight(write);
    return taken.flatMap((write) =>
      piecesOf(write).map(({ disk, offset, byteCount, data }) =>
        data === null ? { disk, offset, byteCount, data } : { disk, offset, data },
      ),
    );
  }

  /** Forgets everything that waits. */
  clear(): void {
    this.#base = [];
    this.#baseHead = 0;
    this.#writes = [];
    this.#waitingBytes = 0;
  }
}

function weight(write: LoggedWrite): number {
  return ENTRY_BYTES + (write.data?.byteLength ?? 0);
}

function piecesOf(write: LoggedWrite): LoggedWrite[] {
  if (write.byteCount <= PIECE_BYTES_MAX) return [write];
  const pieces: LoggedWrite[] = [];
  for (let done = 0; done < write.byteCount; done += PIECE_BYTES_MAX) {
    const byteCount = Math.min(PIECE_BYTES_MAX, write.byteCount - done);
    const data = write.data?.subarray(done, done + byteCount) ?? null;
    pieces.push({ disk: write.disk, offset: write.offset + done, byteCount, data });
  }
  return pieces;
}

function isZero(data: Buffer): boolean {
  return data.equals(ZEROS.subarray(0, data.byteLength));
}
