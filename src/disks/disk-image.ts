/** The bytes of a machine's disk while the machine writes to it: what to read them from, and their file. */
import { closeSync, fstatSync, openSync, read } from 'node:fs';
import { promisify } from 'node:util';
import { RomulusError } from '../base/errors.ts';

/** Longest stretch read at once. */
export const READ_BYTES_MAX: number = 1024 * 1024;
/** A file that ends inside its last sector stands for a disk of whole ones. */
const SECTOR_BYTES = 512;

const readAsync = promisify(read);
const ZEROS = Buffer.alloc(READ_BYTES_MAX);

/** A disk's bytes, as the guest sees them. */
export interface ReadableDisk {
  /**
   * What stands there, in a buffer of its own; null when all of it is zeros. At most `READ_BYTES_MAX`.
   * @throws {RomulusError} ERR_DISK_READ.
   */
  read(offset: number, byteCount: number): Promise<Buffer | null>;
  close(): void;
}

/** A disk's file, opened for reading. */
export class DiskImage implements ReadableDisk {
  readonly #fd: number;
  readonly #path: string;
  readonly #diskBytes: number;

  private constructor(fd: number, path: string, diskBytes: number) {
    this.#fd = fd;
    this.#path = path;
    this.#diskBytes = diskBytes;
  }

  /** @throws {RomulusError} ERR_DISK_READ when it cannot be opened or is of another size. */
  static open(path: string, diskBytes: number): DiskImage {
    let fd: number;
    try {
      fd = openSync(path, 'r');
    } catch (cause) {
      throw readError(path, cause instanceof Error ? cause.message : String(cause), cause);
    }
    const stat = fstatSync(fd);
    const isWhole = stat.size <= diskBytes && stat.size > diskBytes - SECTOR_BYTES;
    // A block device says no size here; reading beyond its end fails by itself.
    if (stat.isBlockDevice() || isWhole) return new DiskImage(fd, path, diskBytes);
    closeSync(fd);
    throw readError(path, `it has ${stat.size} bytes, the disk ${diskBytes}`);
  }

  async read(offset: number, byteCount: number): Promise<Buffer | null> {
    // A buffer of its own, so that it can move to another thread.
    const data = Buffer.from(new ArrayBuffer(byteCount));
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
        // The rest of the last sector, which is already zeros here.
        if (offset + filled > this.#diskBytes - SECTOR_BYTES) break;
        throw readError(this.#path, `it ends at byte ${offset + filled}, before the disk does`);
      }
      filled += bytesRead;
    }
    return nullIfZeros(data);
  }

  close(): void {
    closeSync(this.#fd);
  }
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
