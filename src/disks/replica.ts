/**
 * The backup's replica of a disk: a file or a memfd to which the writes of committed epochs are
 * applied, in order. Calls are synchronous: they belong in the apply thread, off the path of
 * acknowledgements.
 *
 * All writes of an epoch are checked before the first is made. In a file, a crash in the middle
 * of an epoch leaves a mixture; that does no harm because an instance of an image ends with its
 * process, and the next one starts from a new first copy.
 */
import { createHash } from 'node:crypto';
import { closeSync, fdatasyncSync, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { assert } from '../base/assert.ts';
import { RomulusError } from '../base/errors.ts';
import { punchHole } from '../native/descriptors.ts';
import type { DiskChunk, DiskSync, DiskWrite, DiskZeros } from './disk.ts';

const COMPARE_BYTES = 1024 * 1024;
const ZEROS = Buffer.alloc(COMPARE_BYTES);
const HOLE_BYTES_MIN = 64 * 1024;

/** Where the replica is: a descriptor that stays the caller's, or a file that we open and close. */
export type ReplicaTarget = { readonly fd: number } | { readonly path: string };

/** A disk image that follows another. */
export class DiskReplica {
  readonly diskBytes: number;
  readonly fd: number;
  readonly #sync: DiskSync;
  readonly #owned: boolean;
  #closed = false;
  #writesApplied = 0;
  #epochsUnsynced = 0;

  /** @throws {RomulusError} ERR_DISK_OPEN, ERR_DISK_SIZE when it is smaller than the disk. */
  constructor(options: { target: ReplicaTarget; diskBytes: number; sync: DiskSync }) {
    this.diskBytes = options.diskBytes;
    assert(
      typeof options.sync === 'string' || options.sync.everyEpochs >= 1,
      'a replica is synced every epoch at most',
    );
    this.#sync = options.sync;
    this.#owned = 'path' in options.target;
    this.fd = 'path' in options.target ? openReplica(options.target.path) : options.target.fd;
    const stat = fstatSync(this.fd);
    const { size } = stat;
    // A block device says no size here; writing beyond its end fails by itself.
    if (size >= this.diskBytes || stat.isBlockDevice()) return;
    this.close();
    throw new RomulusError(
      'ERR_DISK_SIZE',
      `the replica holds ${size} bytes, the disk ${this.diskBytes}`,
      {
        remedy: "Give the replica at least the size of the primary's disk.",
        details: { replicaBytes: size, diskBytes: this.diskBytes },
      },
    );
  }

  /** Writes applied so far. */
  get writesApplied(): number {
    return this.#writesApplied;
  }

  /**
   * Applies a piece of the first copy.
   * @throws {RomulusError} ERR_DISK_WRITE_OUTSIDE, ERR_DISK_WRITE, ERR_DISK_FULL.
   */
  applyBase(chunk: DiskChunk): void {
    this.#check(chunk.offset, chunk.byteCount);
    if (chunk.data !== null) {
      assert(
        chunk.data.byteLength === chunk.byteCount,
        'a chunk carries another size than it says',
      );
      this.#write(chunk.offset, chunk.data);
      return;
    }
    this.#writeZeros(chunk.offset, chunk.byteCount);
  }

  /**
   * Applies all writes of one committed epoch; with `commit` they are on stable storage after,
   * with `everyEpochs` when that many have been applied since the last time.
   * @throws {RomulusError} ERR_DISK_WRITE_OUTSIDE before anything was written, ERR_DISK_WRITE,
   *   ERR_DISK_FULL.
   */
  apply(writes: readonly (DiskWrite | DiskZeros)[]): void {
    for (const write of writes) this.#check(write.offset, bytesOf(write));
    for (const write of writes)
      if (write.data === null) this.#writeZeros(write.offset, write.byteCount);
      else this.#write(write.offset, write.data);
    this.#writesApplied += writes.length;
    if (this.#sync === 'off' || writes.length === 0) return;
    this.#epochsUnsynced += 1;
    const everyEpochs = this.#sync === 'commit' ? 1 : this.#sync.everyEpochs;
    if (this.#epochsUnsynced >= everyEpochs) this.flush();
  }

  /** Epochs that wrote something since the last flush; always 0 after an epoch with `commit`. */
  get epochsUnsynced(): number {
    return this.#epochsUnsynced;
  }

  /**
   * Puts everything applied on stable storage.
   * @throws {RomulusError} ERR_DISK_WRITE; the replica cannot be trusted after.
   */
  flush(): void {
    try {
      fdatasyncSync(this.fd);
    } catch (cause) {
      // The kernel may have dropped what it could not write: a second try would wrongly succeed.
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new RomulusError('ERR_DISK_WRITE', `cannot sync the disk's replica: ${reason}`, {
        remedy: 'Check the storage under the replica, then synchronise anew.',
        cause,
      });
    }
    this.#epochsUnsynced = 0;
  }

  /** SHA-256 of the whole disk, hexadecimal. */
  digest(): string {
    return digestDisk(this.fd, this.diskBytes);
  }

  /** Closes what was opened here. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#owned) closeSync(this.fd);
  }

  #check(offset: number, byteCount: number): void {
    const inside =
      Number.isSafeInteger(offset) &&
      Number.isSafeInteger(byteCount) &&
      offset >= 0 &&
      byteCount >= 0 &&
      offset + byteCount <= this.diskBytes;
    if (inside) return;
    throw new RomulusError(
      'ERR_DISK_WRITE_OUTSIDE',
      `a disk write of ${byteCount} bytes at ${offset} lies outside the disk's ${this.diskBytes} bytes`,
      {
        remedy: 'The epoch is not applied; synchronise the backup anew.',
        details: { offset, byteCount, diskBytes: this.diskBytes },
      },
    );
  }

  #writeZeros(offset: number, byteCount: number): void {
    // Holes keep a replica as thin as the disk; for a few bytes they are not worth a call.
    if (byteCount >= HOLE_BYTES_MIN && this.#punch(offset, byteCount)) return;
    for (let done = 0; done < byteCount; done += COMPARE_BYTES)
      this.#write(offset + done, ZEROS.subarray(0, Math.min(COMPARE_BYTES, byteCount - done)));
  }

  #punch(offset: number, byteCount: number): boolean {
    try {
      return punchHole(this.fd, offset, byteCount);
    } catch (error) {
      throw writeError(offset, error);
    }
  }

  #write(offset: number, data: Uint8Array): void {
    let done = 0;
    while (done < data.byteLength) {
      try {
        done += writeSync(this.fd, data, done, data.byteLength - done, offset + done);
      } catch (cause) {
        throw writeError(offset + done, cause);
      }
    }
  }
}

function writeError(offset: number, cause: unknown): RomulusError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  const code = cause instanceof Error && 'code' in cause ? cause.code : '';
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new RomulusError('ERR_DISK_FULL', `no room for the disk's replica: ${reason}`, {
      remedy: 'Make room under the replica; the backup then synchronises anew by itself.',
      cause,
      details: { offset },
    });
  return new RomulusError('ERR_DISK_WRITE', `cannot write to the disk's replica: ${reason}`, {
    remedy: 'Check the storage under the replica and its permissions, then synchronise anew.',
    cause,
    details: { offset },
  });
}

function bytesOf(write: DiskWrite | DiskZeros): number {
  return write.data === null ? write.byteCount : write.data.byteLength;
}

/** SHA-256 of the first `diskBytes` bytes behind a descriptor, hexadecimal. */
export function digestDisk(fd: number, diskBytes: number): string {
  const hash = createHash('sha256');
  const piece = Buffer.allocUnsafe(COMPARE_BYTES);
  for (let offset = 0; offset < diskBytes; offset += COMPARE_BYTES) {
    const byteCount = Math.min(COMPARE_BYTES, diskBytes - offset);
    readExactly(fd, piece, offset, byteCount);
    hash.update(piece.subarray(0, byteCount));
  }
  return hash.digest('hex');
}

/** Offset of the first byte in which two disks differ, or -1. */
export function compareDisks(fdA: number, fdB: number, diskBytes: number): number {
  const pieceA = Buffer.allocUnsafe(COMPARE_BYTES);
  const pieceB = Buffer.allocUnsafe(COMPARE_BYTES);
  for (let offset = 0; offset < diskBytes; offset += COMPARE_BYTES) {
    const byteCount = Math.min(COMPARE_BYTES, diskBytes - offset);
    readExactly(fdA, pieceA, offset, byteCount);
    readExactly(fdB, pieceB, offset, byteCount);
    if (pieceA.compare(pieceB, 0, byteCount, 0, byteCount) === 0) continue;
    for (let index = 0; index < byteCount; index += 1) {
      if (pieceA[index] !== pieceB[index]) return offset + index;
    }
  }
  return -1;
}

function readExactly(fd: number, into: Buffer, offset: number, byteCount: number): void {
  let filled = 0;
  while (filled < byteCount) {
    const bytesRead = readSync(fd, into, filled, byteCount - filled, offset + filled);
    if (bytesRead === 0) {
      throw new RomulusError('ERR_DISK_READ', `a disk ends at byte ${offset + filled}`, {
        remedy: 'Check the size of the disk images.',
        details: { offset: offset + filled },
      });
    }
    filled += bytesRead;
  }
}

function openReplica(path: string): number {
  try {
    return openSync(path, 'r+');
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new RomulusError('ERR_DISK_OPEN', `cannot open the disk's replica ${path}: ${reason}`, {
      remedy: 'Create the file with the size of the disk, writable for this user.',
      cause,
      details: { path },
    });
  }
}
