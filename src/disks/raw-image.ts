/** A disk whose file holds its bytes as the guest sees them. */
import type { FoundFile } from '../base/disk-file.ts';
import type { SpareBuffers } from '../base/spare-buffers.ts';
import { FileBytes } from './file-bytes.ts';
import { type ReadableDisk, readError, readPiece } from './readable-disk.ts';

/** A file that ends inside its last sector stands for a disk of whole ones. */
const SECTOR_BYTES = 512;

export interface RawImageOptions {
  readonly file: FoundFile;
  readonly diskBytes: number;
  /** Read into; from `pieceBuffers`. */
  readonly buffers: SpareBuffers;
}

/** A disk's file, opened for reading. */
export class RawImage implements ReadableDisk {
  readonly #file: FileBytes;
  readonly #diskBytes: number;
  readonly #buffers: SpareBuffers;

  private constructor(file: FileBytes, { diskBytes, buffers }: RawImageOptions) {
    this.#file = file;
    this.#diskBytes = diskBytes;
    this.#buffers = buffers;
  }

  /** @throws {RomulusError} ERR_DISK_READ when it cannot be opened or is of another size. */
  static open(options: RawImageOptions): RawImage {
    const file = FileBytes.open(options.file);
    const { bytes } = file;
    // Reading beyond a block device's end fails by itself.
    if (bytes === null || isWhole(bytes, options.diskBytes)) return new RawImage(file, options);
    file.close();
    throw readError(file.path, `it has ${bytes} bytes, the disk ${options.diskBytes}`);
  }

  async read(offset: number, byteCount: number): Promise<Buffer | null> {
    if (this.#isHole(offset, byteCount)) return null;
    return readPiece(this.#buffers, byteCount, async (data) => {
      const filled = await this.#file.fill(data, offset);
      // The rest of the last sector.
      if (filled === byteCount || offset + filled > this.#diskBytes - SECTOR_BYTES)
        data.fill(0, filled);
      else
        throw readError(
          this.#file.path,
          `it ends at byte ${offset + filled}, before the disk does`,
        );
    });
  }

  close(): void {
    this.#file.close();
  }

  #isHole(offset: number, byteCount: number): boolean {
    const dataAt = this.#file.nextData(offset);
    if (dataAt !== null) return dataAt >= offset + byteCount;
    const { bytes } = this.#file;
    // Behind the end of a file that was cut off there is no data either.
    return bytes !== null && isWhole(bytes, this.#diskBytes);
  }
}

function isWhole(fileBytes: number, diskBytes: number): boolean {
  return fileBytes <= diskBytes && fileBytes > diskBytes - SECTOR_BYTES;
}
