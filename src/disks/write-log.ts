/**
 * The writes of several disks in one order of receipt, until they leave: ahead, as part of a first
 * copy, or with their epoch.
 *
 * Nothing is ever left out: when more waits than the bound, the writes can no longer be followed,
 * `push` throws, and it is final.
 *
 * The count of writes received lives in memory that other threads can read: who stops the machine
 * reads it while the machine stands, and that is the epoch's mark. So does what waits, for the
 * status.
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
/** Writes that left are forgotten so many at a time. */
const FORGET_COUNT = 4096;

const ZEROS = Buffer.alloc(PIECE_BYTES_MAX);
const RECEIVED_AT = 0;
const WAITING_AT = 1;

/** A write as it came. */
export interface LoggedWrite {
  readonly disk: number;
  readonly offset: number;
  readonly byteCount: number;
  /** Null when all of it is zeros. */
  readonly data: Buffer | null;
  /** See `DiskChunk`. */
  readonly roomBytes?: number;
}

interface Mark {
  readonly epoch: number;
  readonly throughCount: number;
}

/** Memory for the counts of a log; counting goes on where a log before it ended. */
export function makeCounter(): SharedArrayBuffer {
  return new SharedArrayBuffer(16);
}

/** Reads the count of writes received; usable on any thread. */
export function writesReceived(counter: SharedArrayBuffer): number {
  return Number(Atomics.load(new BigInt64Array(counter), RECEIVED_AT));
}

/** Reads how many bytes of writes wait; usable on any thread. */
export function bytesWaiting(counter: SharedArrayBuffer): number {
  return Number(Atomics.load(new BigInt64Array(counter), WAITING_AT));
}

/** Keeps writes until they are taken. */
export class WriteLog {
  readonly #counts: BigInt64Array;
  readonly #waitingBytesMax: number;
  #writes: LoggedWrite[] = [];
  /** Where in `#writes` the oldest that waits stands. */
  #head = 0;
  #waitingBytes = 0;
  #received: number;
  #takenCount: number;
  #marks: Mark[] = [];
  #broken: RomulusError | null = null;

  constructor(options: { counter?: SharedArrayBuffer; waitingBytesMax?: number } = {}) {
    this.#counts = new BigInt64Array(options.counter ?? makeCounter());
    this.#received = Number(Atomics.load(this.#counts, RECEIVED_AT));
    this.#takenCount = this.#received;
    this.#waitingBytesMax = options.waitingBytesMax ?? WAITING_BYTES_MAX;
    this.#setWaiting(0);
  }

  /** Writes counted so far, those of earlier logs with the same counter included. */
  get received(): number {
    return this.#received;
  }

  /** Bytes that wait. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** @throws {RomulusError} ERR_LIMIT_DISK_BACKLOG when too much waits. */
  push(write: LoggedWrite): void {
    if (this.#broken !== null) throw this.#broken;
    const bytes = weight(write);
    if (this.#waitingBytes + bytes > this.#waitingBytesMax) {
      this.drop();
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
    this.#setWaiting(this.#waitingBytes + bytes);
    this.#writes.push(write);
    this.count();
  }

  /** Counts a write that nobody is to be given. */
  count(): void {
    this.#received += 1;
    Atomics.store(this.#counts, RECEIVED_AT, BigInt(this.#received));
  }

  /** The oldest write that waits, in pieces, to go ahead; empty when none does. */
  nextPieces(): DiskChunk[] {
    assert(this.#marks.length === 0, 'what is marked belongs to its epoch');
    const write = this.#shift();
    if (write === null) return [];
    return piecesOf(write).map(withoutZeros);
  }

  /** The writes with a count up to `throughCount` belong to `epoch` or one before it. */
  mark(epoch: number, throughCount: number): void {
    assert(Number.isSafeInteger(throughCount) && throughCount >= 0, 'a bad count of disk writes');
    assert(throughCount <= this.#received, `epoch ${epoch} counts writes that never came`);
    const last = this.#marks.at(-1);
    assert(last === undefined || epoch > last.epoch, `epoch ${epoch} is marked out of order`);
    assert(
      throughCount >= (last?.throughCount ?? this.#takenCount),
      `the disk mark of epoch ${epoch} lies before an earlier one`,
    );
    this.#marks.push({ epoch, throughCount });
  }

  /** The writes of a marked epoch, in order, those of marks before it included. */
  take(epoch: number): (DiskWrite | DiskZeros)[] {
    const mark = this.#marks.find((candidate) => candidate.epoch === epoch);
    assert(mark !== undefined, `epoch ${epoch} was not marked on the disk`);
    this.#marks = this.#marks.filter((candidate) => candidate.epoch > epoch);
    const taken: (DiskWrite | DiskZeros)[] = [];
    while (this.#takenCount < mark.throughCount) {
      const write = this.#shift();
      assert(write !== null, 'marked disk writes are gone');
      for (const { disk, offset, byteCount, data } of piecesOf(write))
        taken.push(data === null ? { disk, offset, byteCount, data } : { disk, offset, data });
    }
    return taken;
  }

  /** Forgets everything that waits, and every mark: only what comes from now on is anybody's. */
  drop(): LoggedWrite[] {
    const dropped = this.#writes.slice(this.#head);
    this.#writes = [];
    this.#head = 0;
    this.#marks = [];
    this.#takenCount = this.#received;
    this.#setWaiting(0);
    return dropped;
  }

  #shift(): LoggedWrite | null {
    const write = this.#writes[this.#head];
    if (write === undefined) return null;
    this.#head += 1;
    this.#takenCount += 1;
    if (this.#head === this.#writes.length || this.#head === FORGET_COUNT) {
      this.#writes = this.#writes.slice(this.#head);
      this.#head = 0;
    }
    this.#setWaiting(this.#waitingBytes - weight(write));
    return write;
  }

  #setWaiting(bytes: number): void {
    this.#waitingBytes = bytes;
    Atomics.store(this.#counts, WAITING_AT, BigInt(bytes));
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

function withoutZeros(piece: LoggedWrite): DiskChunk {
  if (piece.data === null || !isZero(piece.data)) return piece;
  const { disk, offset, byteCount } = piece;
  return { disk, offset, byteCount, data: null };
}

function isZero(data: Buffer): boolean {
  return data.equals(ZEROS.subarray(0, data.byteLength));
}
