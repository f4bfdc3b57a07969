/**
 * Disks of a running QEMU, opened for reading while it writes to them: through their own files as far
 * as these hold the bytes as the guest sees them, and else through QEMU.
 */
import { isDeepStrictEqual } from 'node:util';
import { assert } from '../base/assert.ts';
import type { DiskFile } from '../base/disk-file.ts';
import { type RomulusError, toRomulusError } from '../base/errors.ts';
import type { SpareBuffers } from '../base/spare-buffers.ts';
import { ANSWER_TIMEOUT_MS, type NbdReader, STORAGE_TIMEOUT_MS } from './nbd/reader.ts';
import { Qcow2Image } from './qcow2/image.ts';
import { oldWithIothreads } from './old-iothreads.ts';
import { type DescriptorMonitor, QemuExport } from './qemu-export.ts';
import type { FoundDisk } from './found-disks.ts';
import { mayMissWrites } from './queued-writes.ts';
import { RawImage } from './raw-image.ts';
import type { ReadableDisk } from './readable-disk.ts';

/** A disk to be read. */
export interface DiskToRead extends FoundDisk {
  /** Where its bytes lie, if that is known. */
  readonly file: DiskFile | null;
}

/**
 * The file that was found for a disk, unless QEMU has given the disk another one since, or holds part of the disk
 * elsewhere: what a file does not hold would be taken for zeros.
 */
export function fileOfFound({ image, isWhole }: FoundDisk, file: DiskFile | null): DiskFile | null {
  const { known } = file ?? {};
  if (image === null || !isWhole) return null;
  return known === undefined || isDeepStrictEqual(known, image) ? file : null;
}

export interface DiskReadersOptions {
  /** By their numbers. */
  readonly disks: readonly DiskToRead[];
  /** Files are read into these. */
  readonly buffers: SpareBuffers;
  /** QEMU's server, where it is needed, will listen there. */
  readonly exportPath: string;
}

/** Some disks, open until closed. */
export class DiskReaders {
  readonly #monitor: DescriptorMonitor;
  readonly #options: DiskReadersOptions;
  readonly #readers = new Map<number, ReadableDisk>();
  /** Those of them that ask QEMU, or that are asked for part of a disk. */
  readonly #served: NbdReader[] = [];
  #export: QemuExport | null = null;
  /** Why there is no server, once that is known: a QEMU that was late, or refused, is not asked again for each disk. */
  #refusal: RomulusError | null = null;

  private constructor(monitor: DescriptorMonitor, options: DiskReadersOptions) {
    this.#monitor = monitor;
    this.#options = options;
  }

  /**
   * Opens all: raw disks through their files, the others through QEMU.
   * @throws {RomulusError} ERR_DISK_READ, and the monitor's own; nothing is open then.
   */
  static async open(monitor: DescriptorMonitor, options: DiskReadersOptions): Promise<DiskReaders> {
    const opened = new DiskReaders(monitor, options);
    try {
      for (const [disk, found] of options.disks.entries())
        opened.#readers.set(
          disk,
          opened.#openRaw(found) ?? (await opened.#openServed(disk, ANSWER_TIMEOUT_MS)),
        );
    } catch (error) {
      await opened.close();
      throw error;
    }
    return opened;
  }

  /**
   * Opens those whose files can be read; the others are not among its `disks`. `isUnwritten` tells whether
   * the machine did not write there since, as far as is known when a stretch is read.
   * @throws {RomulusError} the monitor's own; nothing is open then.
   */
  static async ofFiles(
    monitor: DescriptorMonitor,
    options: DiskReadersOptions & {
      readonly isUnwritten: (disk: number, offset: number, byteCount: number) => boolean;
    },
  ): Promise<DiskReaders> {
    const opened = new DiskReaders(monitor, options);
    // A write that its mirror does not bring might end after its place was read.
    if ((await oldWithIothreads(monitor)) !== null) return opened;
    for (const [disk, found] of options.disks.entries())
      try {
        if (found.file === null || (await mayMissWrites(monitor, found))) continue;
        const reader =
          opened.#openRaw(found) ?? (await opened.#openQcow2(disk, options.isUnwritten));
        if (reader !== null) opened.#readers.set(disk, reader);
      } catch (error) {
        // Nothing is lost by it: QEMU can read what we cannot.
        if (toRomulusError(error).code === 'ERR_DISK_READ') continue;
        await opened.close();
        throw error;
      }
    // Started for a disk that could not be opened there either.
    if (opened.#served.length === 0) await opened.#closeExport();
    return opened;
  }

  /** Which disks are open, by their numbers. */
  get disks(): readonly number[] {
    return [...this.#readers.keys()];
  }

  /** Does what must be done before the first piece is read; null when that is nothing. */
  prepare(): Promise<unknown> | null {
    const preparing = [...this.#readers.values()].flatMap((reader) => reader.prepare?.() ?? []);
    return preparing.length === 0 ? null : Promise.all(preparing);
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

  /** Ends at once what waits for QEMU; nothing can be read there any more. */
  interrupt(): void {
    for (const reader of this.#served) reader.close();
  }

  /** Closes all. A QEMU that does not answer is heard of elsewhere; who attaches next ends its server. */
  async close(): Promise<void> {
    for (const reader of this.#readers.values()) reader.close();
    await this.#closeExport();
  }

  async #closeExport(): Promise<void> {
    const served = this.#export;
    this.#export = null;
    await served?.close().catch(() => undefined);
  }

  #openRaw({ file, diskBytes }: DiskToRead): RawImage | null {
    if (file?.format !== 'raw') return null;
    return RawImage.open({ file, diskBytes, buffers: this.#options.buffers });
  }

  async #openQcow2(
    disk: number,
    isUnwritten: (disk: number, offset: number, byteCount: number) => boolean,
  ): Promise<Qcow2Image | null> {
    const { file, diskBytes } = this.#disk(disk);
    if (file?.format !== 'qcow2') return null;
    return Qcow2Image.open(
      {
        file,
        diskBytes,
        buffers: this.#options.buffers,
        isUnwritten: (offset, byteCount) => isUnwritten(disk, offset, byteCount),
      },
      () => this.#openServed(disk, STORAGE_TIMEOUT_MS),
    );
  }

  async #openServed(disk: number, readTimeoutMs: number): Promise<NbdReader> {
    this.#export ??= await this.#openExport();
    const reader = await this.#export.reader(disk, this.#disk(disk), readTimeoutMs);
    this.#served.push(reader);
    return reader;
  }

  async #openExport(): Promise<QemuExport> {
    if (this.#refusal !== null) throw this.#refusal;
    try {
      return await QemuExport.open(this.#monitor, this.#options.exportPath);
    } catch (error) {
      this.#refusal = toRomulusError(error);
      throw this.#refusal;
    }
  }

  #disk(disk: number): DiskToRead {
    const found = this.#options.disks[disk];
    assert(found !== undefined, `there is no disk ${disk}`);
    return found;
  }
}
