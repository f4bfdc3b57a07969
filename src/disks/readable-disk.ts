/** The bytes of a machine's disk while the machine writes to it: what all who read them have in common. */
import { RomulusError } from '../base/errors.ts';
import { SpareBuffers } from '../base/spare-buffers.ts';
import { HEADER_ROOM_BYTES } from './disk.ts';

/** Longest stretch read at once. */
export const READ_BYTES_MAX: number = 1024 * 1024;

const ZEROS = Buffer.alloc(READ_BYTES_MAX);

/** A disk's bytes, as the guest sees them. */
export interface ReadableDisk {
  /**
   * What stands there, in a buffer of its own, in which the bytes before it are nobody's; null when all
   * of it is zeros. At most `READ_BYTES_MAX`.
   * @throws {RomulusError} ERR_DISK_READ.
   */
  read(offset: number, byteCount: number): Promise<Buffer | null>;
  /** What must be done before the first piece is read, while the machine's writes are noted already. */
  prepare?(): Promise<void>;
  close(): void;
}

/** A disk behind a cache that can be told to write. */
export interface FlushableDisk extends ReadableDisk {
  /** Has it write what it keeps in memory. */
  flush(): Promise<void>;
}

/** Buffers for pieces of disks; more than `countMax` that wait are left to the collector. */
export function pieceBuffers(countMax: number): SpareBuffers {
  return new SpareBuffers({ bytes: HEADER_ROOM_BYTES + READ_BYTES_MAX, countMax });
}

/**
 * A piece in a buffer of its own, so that it can move to another thread, filled by `fill`; null, and the
 * buffer given back, when all of it is zeros.
 */
export async function readPiece(
  buffers: SpareBuffers,
  byteCount: number,
  fill: (data: Buffer) => Promise<void>,
): Promise<Buffer | null> {
  const buffer = buffers.take();
  const data = Buffer.from(buffer, HEADER_ROOM_BYTES, byteCount);
  await fill(data);
  if (nullIfZeros(data) !== null) return data;
  buffers.giveBack([buffer]);
  return null;
}

/** At most `READ_BYTES_MAX`, or null in their place when all are zeros. */
export function nullIfZeros(data: Buffer): Buffer | null {
  return data.equals(ZEROS.subarray(0, data.byteLength)) ? null : data;
}

/** An ERR_DISK_READ; `disk` is a path or a name. */
export function readError(disk: string, reason: string, cause?: unknown): RomulusError {
  return new RomulusError('ERR_DISK_READ', `cannot read the disk ${disk}: ${reason}`, {
    remedy:
      'Check that the machine runs, that this user may read its disk, and that its storage is not overloaded.',
    ...(cause === undefined ? {} : { cause }),
    details: { disk },
  });
}
