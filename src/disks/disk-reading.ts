/**
 * What a new image lacks of a machine's disks, read piece by piece while the machine writes to them.
 *
 * A write that is under way may be found in a piece whole, in part, or not at all. That does no harm,
 * because it is received after the piece was begun and applied after it; so pieces must be read only
 * when every write received before is on its way already.
 */
import { type RomulusError, toRomulusError } from '../base/errors.ts';
import type { DiskStretch } from './block-epochs.ts';
import type { DiskChunk } from './disk.ts';
import type { DiskReaders } from './disk-readers.ts';

/** About as much is read at once. */
const HANDFUL_BYTES = 4 * 1024 * 1024;
/** Also of what carries no bytes, because it is zeros. */
const HANDFUL_CHUNKS = 256;
/** About as long is read at once, milliseconds: what the machine writes meanwhile waits. */
const HANDFUL_MS = 100;

/** A walk over stretches of disks. */
export class DiskReading {
  /** The epoch that will complete the image. */
  readonly epoch: number;
  readonly #readers: DiskReaders;
  readonly #stretches: Iterator<DiskStretch>;
  /** What is under way, to be waited for before what is read from is closed. */
  #pending: Promise<unknown> = Promise.resolve();
  #beginning: 'not asked' | 'under way' | 'done' = 'not asked';
  #failure: RomulusError | null = null;

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
   * Whether it has begun, and `next` can be asked. When this is asked first, what that takes is started, and
   * `onBegun` called after. To be asked once no write passes by the mirror any more.
   */
  isBegun(onBegun: () => void): boolean {
    if (this.#beginning === 'not asked') {
      const preparing = this.#readers.prepare();
      this.#beginning = preparing === null ? 'done' : 'under way';
      if (preparing !== null) this.#pending = this.#begin(preparing, onBegun);
    }
    return this.#beginning === 'done';
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

  async #begin(preparing: Promise<unknown>, onBegun: () => void): Promise<void> {
    try {
      await preparing;
    } catch (error) {
      this.#failure = toRomulusError(error);
    }
    this.#beginning = 'done';
    onBegun();
  }

  async #handful(): Promise<DiskChunk[]> {
    if (this.#failure !== null) throw this.#failure;
    const chunks: DiskChunk[] = [];
    const endMs = performance.now() + HANDFUL_MS;
    let bytes = 0;
    while (bytes < HANDFUL_BYTES && chunks.length < HANDFUL_CHUNKS && performance.now() < endMs) {
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
