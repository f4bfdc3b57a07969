/**
 * What a new image lacks of a machine's disks, read piece by piece while the machine writes to them.
 *
 * A write that is under way may be found in a piece whole, in part, or not at all. That does no harm,
 * because it is received after the piece was begun and applied after it; so pieces must be read only
 * when every write received before is on its way already, and what is received then must not overtake them.
 *
 * Storage may take minutes for one piece. Nobody waits here that long: a handful is read beside what else there
 * is to do, and when too much was received meanwhile, that goes first and the handful is read again.
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
/**
 * How long who asks for the next handful is kept waiting, milliseconds: other orders wait behind him, and what is
 * received meanwhile has to find room.
 */
const TURN_MS = 200;

/** Reads one of the disks; `DiskReaders` is one. */
export type PieceReaders = Pick<DiskReaders, 'disks' | 'prepare' | 'read' | 'interrupt' | 'close'>;

/** Pieces that are being read. */
interface Handful {
  /** What they are of, so far. */
  readonly stretches: DiskStretch[];
  /** Never rejects. */
  readonly pieces: Promise<DiskChunk[] | RomulusError>;
  isOvertaken: boolean;
}

/** A walk over stretches of disks. */
export class DiskReading {
  /** The epoch that will complete the image. */
  readonly epoch: number;
  readonly #readers: PieceReaders;
  readonly #stretches: Iterator<DiskStretch>;
  readonly #turnMs: number;
  /** To be read before more of `#stretches`: what was overtaken. */
  #again: DiskStretch[] = [];
  #handful: Handful | null = null;
  /** What is under way, to be waited for before what is read from is closed. */
  #pending: Promise<unknown> = Promise.resolve();
  #beginning: 'not asked' | 'under way' | 'done' = 'not asked';
  #failure: RomulusError | null = null;

  constructor(options: {
    readonly readers: PieceReaders;
    readonly stretches: Iterator<DiskStretch>;
    readonly epoch: number;
    readonly turnMs?: number;
  }) {
    this.epoch = options.epoch;
    this.#readers = options.readers;
    this.#stretches = options.stretches;
    this.#turnMs = options.turnMs ?? TURN_MS;
  }

  /** The disks that are read. */
  get disks(): readonly number[] {
    return this.#readers.disks;
  }

  /** Whether a handful is being read that nothing may overtake. */
  get isUnderWay(): boolean {
    return this.#handful !== null && !this.#handful.isOvertaken;
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
   * The next handful; empty when all was read, null when it takes its time: to be asked for again after `whenRead`.
   * What was received before this was asked must be on its way.
   * @throws {RomulusError} ERR_DISK_READ.
   */
  async next(): Promise<DiskChunk[] | null> {
    const endMs = performance.now() + this.#turnMs;
    for (;;) {
      this.#handful ??= this.#take();
      const handful = this.#handful;
      const read = await settledWithin(handful.pieces, endMs - performance.now());
      if (read === null) return null;
      this.#handful = null;
      if (!Array.isArray(read)) throw read;
      if (!handful.isOvertaken) return read;
      this.#again.push(...handful.stretches);
    }
  }

  /** Calls back once what `next` did not wait for is there, or has failed. */
  whenRead(onRead: () => void): void {
    void this.#pending.then(onRead);
  }

  /** What was received since the handful was begun goes first: it will be read again. */
  overtake(): void {
    if (this.#handful !== null) this.#handful.isOvertaken = true;
  }

  /** Closes what is read from. What waits for QEMU is ended first, since it may wait long. */
  async close(): Promise<void> {
    this.#readers.interrupt();
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

  #take(): Handful {
    const stretches: DiskStretch[] = [];
    const pieces = this.#read(stretches).catch(toRomulusError);
    this.#pending = pieces;
    return { stretches, pieces, isOvertaken: false };
  }

  async #read(stretches: DiskStretch[]): Promise<DiskChunk[]> {
    if (this.#failure !== null) throw this.#failure;
    const chunks: DiskChunk[] = [];
    const endMs = performance.now() + HANDFUL_MS;
    let bytes = 0;
    while (bytes < HANDFUL_BYTES && chunks.length < HANDFUL_CHUNKS && performance.now() < endMs) {
      const stretch = this.#again.shift() ?? this.#stretches.next().value;
      if (stretch === undefined) break;
      stretches.push(stretch);
      const { disk, offset, byteCount } = stretch;
      const data = await this.#readers.read(disk, offset, byteCount);
      chunks.push({ disk, offset, byteCount, data, roomBytes: data?.byteOffset ?? 0 });
      bytes += data?.byteLength ?? 0;
    }
    return chunks;
  }
}

/** What a promise gives; null when it takes longer. */
async function settledWithin<T>(promise: Promise<T>, withinMs: number): Promise<T | null> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(resolve, withinMs, null);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
