/**
 * A disk in a qcow2 file, read while QEMU writes to it: from the file where it is known to hold what
 * the guest sees, and through QEMU where it is not.
 */
import type { FoundFile } from '../../base/disk-file.ts';
import type { SpareBuffers } from '../../base/spare-buffers.ts';
import { FileBytes } from '../file-bytes.ts';
import { type FlushableDisk, type ReadableDisk, readError, readPiece } from '../readable-disk.ts';
import { ClusterMap, type Run } from './cluster-map.ts';

export interface Qcow2ImageOptions {
  readonly file: FoundFile;
  readonly diskBytes: number;
  /** Read into; from `pieceBuffers`. */
  readonly buffers: SpareBuffers;
  /** Whether the machine did not write there since before it was prepared for reading, as far as is known. */
  readonly isUnwritten: (offset: number, byteCount: number) => boolean;
}

/** A disk's file, opened for reading, beside QEMU's own server of the disk. */
export class Qcow2Image implements ReadableDisk {
  readonly #file: FileBytes;
  readonly #map: ClusterMap;
  readonly #served: FlushableDisk;
  readonly #options: Qcow2ImageOptions;

  private constructor(
    options: Qcow2ImageOptions,
    parts: { file: FileBytes; map: ClusterMap; served: FlushableDisk },
  ) {
    this.#options = options;
    this.#file = parts.file;
    this.#map = parts.map;
    this.#served = parts.served;
  }

  /**
   * `openServed` gives the disk as QEMU serves it; it is closed with this.
   * @throws {RomulusError} ERR_DISK_READ when the file cannot be opened or is not one that can be read so, or that
   *   is worth it.
   */
  static async open(
    options: Qcow2ImageOptions,
    openServed: () => Promise<FlushableDisk>,
  ): Promise<Qcow2Image> {
    const file = FileBytes.open(options.file);
    try {
      const map = await ClusterMap.open(file, options.diskBytes);
      if (!(await map.isMostlyPlain()))
        throw readError(file.path, 'most of it is compressed or shared with snapshots');
      return new Qcow2Image(options, { file, map, served: await openServed() });
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /** Has QEMU write its tables. */
  prepare(): Promise<void> {
    return this.#served.flush();
  }

  async read(offset: number, byteCount: number): Promise<Buffer | null> {
    if (!this.#isAsFlushed(offset, byteCount)) return this.#served.read(offset, byteCount);
    const runs = await this.#map.runs(offset, byteCount);
    if (runs.some(({ place }) => place === 'unknown')) return this.#served.read(offset, byteCount);
    if (runs.every(({ place }) => place === 'zeros')) return null;
    return readPiece(this.#options.buffers, byteCount, async (data) => this.#fill(data, runs));
  }

  close(): void {
    this.#file.close();
    this.#served.close();
  }

  /** A cluster is moved as a whole when part of it is written. */
  #isAsFlushed(offset: number, byteCount: number): boolean {
    const { clusterBytes } = this.#map;
    const from = Math.floor(offset / clusterBytes) * clusterBytes;
    const end = Math.ceil((offset + byteCount) / clusterBytes) * clusterBytes;
    return this.#options.isUnwritten(from, end - from);
  }

  async #fill(data: Buffer, runs: readonly Run[]): Promise<void> {
    let at = 0;
    for (const { byteCount, place } of runs) {
      const part = data.subarray(at, at + byteCount);
      // A file may end inside its last cluster; the rest are zeros.
      const filled = typeof place === 'number' ? await this.#file.fill(part, place) : 0;
      part.fill(0, filled);
      at += byteCount;
    }
  }
}
