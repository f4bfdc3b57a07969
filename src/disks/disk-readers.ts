/**
 * Disks of a running QEMU, opened for reading while it writes to them: through their own files where
 * these hold the bytes as the guest sees them, and else through QEMU.
 */
import { assert } from '../base/assert.ts';
import { toRomulusError } from '../base/errors.ts';
import type { SpareBuffers } from '../base/spare-buffers.ts';
import { DiskImage, type ReadableDisk } from './disk-image.ts';
import { type DescriptorMonitor, QemuExport } from './qemu-export.ts';
import type { FoundDisk } from './qemu-mirror.ts';

/** A disk to be read. */
export interface DiskToRead extends FoundDisk {
  /** Its file, if that holds its bytes as they are. */
  readonly imagePath: string | null;
}

export interface DiskReadersOptions {
  /** By their numbers. */
  readonly disks: readonly DiskToRead[];
  /** Files are read into these. */
  readonly buffers: SpareBuffers;
}

/** Some disks, open until closed. */
export class DiskReaders {
  readonly #readers: ReadonlyMap<number, ReadableDisk>;
  readonly #export: QemuExport | null;

  private constructor(readers: ReadonlyMap<number, ReadableDisk>, served: QemuExport | null) {
    this.#readers = readers;
    this.#export = served;
  }

  /**
   * Opens all. QEMU's server, where it is needed, will listen at `exportPath`.
   * @throws {RomulusError} ERR_DISK_READ, and the monitor's own; nothing is open then.
   */
  static async open(
    monitor: DescriptorMonitor,
    options: DiskReadersOptions & { readonly exportPath: string },
  ): Promise<DiskReaders> {
    const { disks, exportPath, buffers } = options;
    const unread = disks.flatMap(({ imagePath, node }, disk) =>
      imagePath === null ? [{ disk, node }] : [],
    );
    const served = unread.length === 0 ? null : await QemuExport.open(monitor, exportPath, unread);
    const readers = new Map<number, ReadableDisk>();
    try {
      for (const [disk, { imagePath, diskBytes }] of disks.entries())
        if (imagePath !== null)
          readers.set(disk, DiskImage.open({ path: imagePath, diskBytes, buffers }));
        else if (served !== null) readers.set(disk, await served.reader(disk, diskBytes));
    } catch (error) {
      await new DiskReaders(readers, served).close();
      throw error;
    }
    return new DiskReaders(readers, served);
  }

  /** Opens those whose files can be read; the others are not among its `disks`. */
  static ofFiles({ disks, buffers }: DiskReadersOptions): DiskReaders {
    const readers = new Map<number, ReadableDisk>();
    for (const [disk, { imagePath, diskBytes }] of disks.entries())
      try {
        if (imagePath !== null)
          readers.set(disk, DiskImage.open({ path: imagePath, diskBytes, buffers }));
      } catch (error) {
        // Nothing is lost by it: QEMU can read what we cannot.
        if (toRomulusError(error).code !== 'ERR_DISK_READ') throw error;
      }
    return new DiskReaders(readers, null);
  }

  /** Which disks are open, by their numbers. */
  get disks(): readonly number[] {
    return [...this.#readers.keys()];
  }

  /**
   * What stands there on a disk; null when all of it is zeros. At most `READ_BYTES_MAX`.
   * @throws {RomulusError} ERR_DISK_READ.
   */
  read(disk: number, offset: number, byteCount: number): Promise<Buffer | null> {
    const reader = this.#readers.get(disk);
    assert(reader !== undefined, `there is no disk ${disk} to read`);
    return reader.read(offset, byteCount);
  }

  /** Closes all. A QEMU that does not answer is heard of elsewhere; who attaches next ends its server. */
  async close(): Promise<void> {
    for (const reader of this.#readers.values()) reader.close();
    await this.#export?.close().catch(() => undefined);
  }
}
