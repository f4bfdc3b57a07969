/**
 * What a new image lacks of a machine's disks, read piece by piece while the machine writes to them.
 *
 * A write that is under way may be found in a piece whole, in part, or not at all. That does no harm,
 * because it is received after the piece was begun and applied after it; so pieces must be read only
 * when every write received before is on its way already.
 */
import type { DiskStretch } from './block-epochs.ts';
import type { DiskChunk } from './disk.ts';
import type { DiskReaders } from './disk-readers.ts';

/** About as much is read at once. */
const HANDFUL_BYTES = 4 * 1024 * 1024;
/** Also of what carries no bytes, because it is zeros. */
const HANDFUL_CHUNKS = 256;

/** A walk over stretches of disks. */
export class DiskReading {
  /** The epoch that will complete the image. */
  readonly epoch: number;
  readonly #readers: DiskReaders;
  readonly #stretches: Iterator<DiskStretch>;
  /** The read that is under way. */
  #pending: Promise<unknown> = Promise.resolve();

  constructor(options: {
    readonly readers: DiskReaders;
    readonly stretches: Iterator<DiskStretch>;
    readonly epoch: number;
  }) {
    this.epoch = options.epoch;
    this.#readers = options.readers;
    this.#stretches = options.stretches;
  }

  /** The disks that are read. */
  get disks(): readonly number[] {
    return this.#readers.disks;
  }

  /**
   * The next handful; empty when all was read.
   * @throws {RomulusError} ERR_DISK_READ.
   */
  next(): Promise<DiskChunk[]> {
    const handful = this.#handful();
    this.#pending = handful.catch(() => undefined);
    return handful;
  }

  /** Closes what is read from, once nothing reads there. */
  async close(): Promise<void> {
    await this.#pending;
    await this.#readers.close();
  }

  async #handful(): Promise<DiskChunk[]> {
    const chunks: DiskChunk[] = [];
    let bytes = 0;
    while (bytes < HANDFUL_BYTES && chunks.length < HANDFUL_CHUNKS) {
      const stretch = this.#stretches.next();
      if (stretch.done === true) break;
      const { disk, offset, byteCount } = stretch.value;
      const data = await this.#readers.read(disk, offset, byteCount);
      chunks.push({ disk, offset, byteCount, data, roomBytes: data?.byteOffset ?? 0 });
      bytes += data?.byteLength ?? 0;
    }
    return chunks;
  }
}
