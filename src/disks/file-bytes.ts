/** A disk's file, opened for reading while QEMU writes to it. */
import { closeSync, constants, fstatSync, openSync, read } from 'node:fs';
import { promisify } from 'node:util';
import type { FoundFile } from '../base/disk-file.ts';
import { RomulusError } from '../base/errors.ts';
import {
  adviseNoReadahead,
  adviseReadOnce,
  forgetCached,
  nextData,
} from '../native/descriptors.ts';
import { readError } from './readable-disk.ts';

const readAsync = promisify(read);

/** The bytes of a file, whatever they mean. */
export class FileBytes {
  readonly path: string;
  readonly #fd: number;
  /**
   * Writes that pass by the kernel's cache, as QEMU's may (`cache=none`), leave a block device's cached pages as
   * they were when they end later than they were asked for (`blkdev_direct_write` in block/fops.c); a file's not.
   */
  readonly #isBlockDevice: boolean;

  private constructor(path: string, fd: number, isBlockDevice: boolean) {
    this.path = path;
    this.#fd = fd;
    this.#isBlockDevice = isBlockDevice;
    adviseReadOnce(fd);
    if (isBlockDevice) adviseNoReadahead(fd);
  }

  /** @throws {RomulusError} ERR_DISK_READ when it cannot be opened, or is not the file that was found. */
  static open({ path, identity }: FoundFile): FileBytes {
    let fd: number | null = null;
    try {
      // Where a descriptor of QEMU's is named, a pipe may be by now, at which opening would wait for a writer.
      fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      const facts = fstatSync(fd, { bigint: true });
      const isFound =
        identity === undefined || (facts.dev === identity.device && facts.ino === identity.inode);
      const isBlockDevice = facts.isBlockDevice();
      if (!isFound || (!isBlockDevice && !facts.isFile()))
        throw readError(path, 'another file is there by now');
      return new FileBytes(path, fd, isBlockDevice);
    } catch (cause) {
      if (fd !== null) closeSync(fd);
      throw cause instanceof RomulusError ? cause : readError(path, reasonOf(cause), cause);
    }
  }

  /** Its size; null for a block device, which says none here. */
  get bytes(): number | null {
    return this.#isBlockDevice ? null : fstatSync(this.#fd).size;
  }

  /** Where its next bytes are that are no hole, from an offset on; null when there are none. */
  nextData(offset: number): number | null {
    return nextData(this.#fd, offset);
  }

  /**
   * Reads into `data`, until it is full or the file ends. Gives the bytes read.
   * @throws {RomulusError} ERR_DISK_READ.
   */
  async fill(data: Buffer, offset: number): Promise<number> {
    if (this.#isBlockDevice) forgetCached(this.#fd, offset, data.byteLength);
    let filled = 0;
    while (filled < data.byteLength) {
      const bytesRead = await this.#readSome(data.subarray(filled), offset + filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return filled;
  }

  /**
   * Reads exactly so many bytes.
   * @throws {RomulusError} ERR_DISK_READ, also when the file ends before.
   */
  async read(offset: number, byteCount: number): Promise<Buffer> {
    const data = Buffer.alloc(byteCount);
    const filled = await this.fill(data, offset);
    if (filled === byteCount) return data;
    throw readError(this.path, `it ends at byte ${offset + filled}, in the middle of a table`);
  }

  close(): void {
    closeSync(this.#fd);
  }

  async #readSome(data: Buffer, offset: number): Promise<number> {
    try {
      return (await readAsync(this.#fd, data, 0, data.byteLength, offset)).bytesRead;
    } catch (cause) {
      throw readError(this.path, reasonOf(cause), cause);
    }
  }
}

function reasonOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
