/** The bytes of a machine's disk while the machine writes to it: what to read them from, and their file. */
import { closeSync, fstatSync, openSync, read } from 'node:fs';
import { promisify } from 'node:util';
import { RomulusError } from '../base/errors.ts';
import { SpareBuffers } from '../base/spare-buffers.ts';
import { adviseReadOnce, nextData } from '../native/descriptors.ts';
import { HEADER_ROOM_BYTES } from './disk.ts';

/** Longest stretch read at once. */
export const READ_BYTES_MAX: number = 1024 * 1024;
/** A file that ends inside its last sector stands for a disk of whole ones. */
const SECTOR_BYTES = 512;

const readAsync = promisify(read);
const ZEROS = Buffer.alloc(READ_BYTES_MAX);

/** A disk's bytes, as the guest sees them. */
export interface ReadableDisk {
  /**
   * What stands there, in a buffer of its own, in which the bytes before it are nobody's; null when all
   * of it is zeros. At most `READ_BYTES_MAX`.
   * @throws {RomulusError} ERR_DISK_READ.
   */
  read(offset: number, byteCount: number): Promise<Buffer | null>;
  close(): void;
}

export interface DiskImageOptions {
  readonly path: string;
  readonly diskBytes: number;
  /** Read into; large enough for `READ_BYTES_MAX` behind `HEADER_ROOM_BYTES`. */
  readonly buffers: SpareBuffers;
}

/** Buffers for pieces of disks; more than `countMax` that wait are left to the collector. */
export function pieceBuffers(countMax: number): SpareBuffers {
  return new SpareBuffers({ bytes: HEADER_ROOM_BYTES + READ_BYTES_MAX, countMax });
}

/** A disk's file, opened for reading. */
export class DiskImage implements ReadableDisk {
  readonly #fd: number;
  readonly #path: string;
  readonly #diskBytes: number;
  readonly #buffers: SpareBuffers;

  private constructor(fd: number, options: DiskImageOptions) {
    this.#fd = fd;
    this.#path = options.path;
    this.#diskBytes = options.diskBytes;
    this.#buffers = options.buffers;
    adviseReadOnce(fd);
  }

  /** @throws {RomulusError} ERR_DISK_READ when it cannot be opened or is of another size. */
  static open(options: DiskImageOptions): DiskImage {
    const { path, diskBytes } = options;
    let fd: number;
    try {
      fd = openSync(path, 'r');
    } catch (cause) {
      throw readError(path, cause instanceof Error ? cause.message : String(cause), cause);
    }
    const stat = fstatSync(fd);
    // A block device says no size here; reading beyond its end fails by itself.
    if (stat.isBlockDevice() || isWhole(stat.size, diskBytes)) return new DiskImage(fd, options);
    closeSync(fd);
    throw readError(path, `it has ${stat.size} bytes, the disk ${diskBytes}`);
  }

  async read(offset: number, byteCount: number): Promise<Buffer | null> {
    if (this.#isHole(offset, byteCount)) return null;
    // A buffer of its own, so that it can move to another thread.
    const buffer = this.#buffers.take();
    const data = Buffer.from(buffer, HEADER_ROOM_BYTES, byteCount);
    let filled = 0;
    while (filled < byteCount) {
      let bytesRead = 0;
      try {
        ({ bytesRead } = await readAsync(
          this.#fd,
          data,
          filled,
          byteCount - filled,
          offset + filled,
        ));
      } catch (cause) {
        throw readError(this.#path, cause instanceof Error ? cause.message : String(cause), cause);
      }
      if (bytesRead === 0) {
        if (offset + filled > this.#diskBytes - SECTOR_BYTES) {
          // The rest of the last sector.
          data.fill(0, filled);
          break;
        }
        throw readError(this.#path, `it ends at byte ${offset + filled}, before the disk does`);
      }
      filled += bytesRead;
    }
    if (nullIfZeros(data) !== null) return data;
    this.#buffers.giveBack([buffer]);
    return null;
  }

  close(): void {
    closeSync(this.#fd);
  }

  #isHole(offset: number, byteCount: number): boolean {
    const dataAt = nextData(this.#fd, offset);
    if (dataAt !== null) return dataAt >= offset + byteCount;
    // Behind the end of a file that was cut off there is no data either.
    return isWhole(fstatSync(this.#fd).size, this.#diskBytes);
  }
}

function isWhole(fileBytes: number, diskBytes: number): boolean {
  return fileBytes <= diskBytes && fileBytes > diskBytes - SECTOR_BYTES;
}

/** At most `READ_BYTES_MAX`, or null in their place when all are zeros. */
export function nullIfZeros(data: Buffer): Buffer | null {
  return data.equals(ZEROS.subarray(0, data.byteLength)) ? null : data;
}

/** An ERR_DISK_READ; `disk` is a path or a name. */
export function readError(disk: string, reason: string, cause?: unknown): RomulusError {
  return new RomulusError('ERR_DISK_READ', `cannot read the disk ${disk}: ${reason}`, {
    remedy: 'Check that the machine runs and that this user may read its disk.',
    ...(cause === undefined ? {} : { cause }),
    details: { disk },
  });
}
