/**
 * Gives a backup its base image while the machine runs on: round 0 sends every page (or those
 * changed since an epoch the backup provably holds), each later round what was written during the
 * one before (pre-copy, Clark et al., NSDI 2005). Pages may be torn; the final checkpoint, taken
 * with the machine stopped, contains every page that was.
 */
import { asEpoch, type Generation, PAGE_BYTES } from '../base/units.ts';
import type { Compressor } from '../codec/compress.ts';
import { encodeMessage } from '../codec/messages.ts';
import type { GuestDescriptor } from '../guests/guest.ts';
import type { DiskChunk, SourceDisk } from '../disks/disk.ts';
import type { SliceResult } from './capture-types.ts';
import type { CaptureMethods } from './capture-worker.ts';
import type { SealedBatch } from './sealed-batch.ts';
import { BaseSums, batchFrame } from './epoch-frames.ts';
import type { Outbox } from './outbox.ts';
import type { ThreadClient } from './thread-rpc.ts';

/** One slice: small enough to stay in the cache from copy to encoding, large enough to cost nothing. */
const SLICE_PAGES = 1024;
/** Slices after round 0 hold few pages each, so they may span more of the block. */
const LATER_SLICE_PAGES = 65_536;
/** Slices asked for ahead, so that the capture thread does not wait for this one. */
const SLICES_AHEAD = 2;
/** The link's own queue stays below this, so that an image never fills memory. */
const LINK_QUEUE_BYTES_MAX = 16 * 1024 * 1024;

export interface SyncProgress {
  /** `changed`: the backup holds an older image, and is sent what was written since. */
  readonly plan: 'full' | 'changed';
  readonly round: number;
  readonly pages: number;
  readonly bytes: number;
  /** Of the disks: what was sent, zeros and rewritten stretches included, and what is to be at least. */
  readonly diskBytes: number;
  readonly diskTotalBytes: number;
  /** How far memory was gone through in this round, pages without need to be sent included. */
  readonly memoryBytes: number;
  readonly memoryTotalBytes: number;
  /** Since it began, or what it took in all. */
  readonly elapsedMs: number;
}

export interface SyncOptions {
  readonly capture: ThreadClient<CaptureMethods>;
  readonly descriptor: GuestDescriptor;
  readonly disk: SourceDisk | null;
  readonly link: Outbox;
  readonly generation: Generation;
  readonly compressor: Compressor;
  /** The epoch that will complete the image; pages of the base are stamped with it. */
  readonly epoch: number;
  readonly plan: { readonly kind: 'full' } | { readonly kind: 'changed'; readonly since: number };
  readonly bytesPerSecondMax: number | null;
  readonly nowMs: () => number;
  readonly signal: AbortSignal;
}

/** A walk over one block. */
interface Walk {
  readonly slicePages: number;
  readonly block: { readonly bytes: number };
  /** Slices are of so many pages; else only each slice tells where the next one begins. */
  readonly isEven: boolean;
  readonly take: (stretch: Stretch, transfer: ArrayBuffer[]) => Promise<SliceResult>;
}

interface Stretch {
  readonly fromPage: number;
  readonly pageLimit: number;
  /** Buffers of earlier batches that have left: the capture thread writes the next ones into them. */
  readonly spares: readonly ArrayBuffer[];
}

/** Buffers given to a link, until it needs them no more. */
class LentBuffers {
  readonly #link: Outbox;
  /** With how much had been sent by their end. */
  #lent: { readonly buffer: ArrayBuffer; readonly leftAtBytes: number }[] = [];

  constructor(link: Outbox) {
    this.#link = link;
  }

  /** What was sent last lies in this buffer. */
  lend(buffer: ArrayBuffer): void {
    this.#lent.push({ buffer, leftAtBytes: this.#link.sentBytes });
  }

  /** Those that have left. What a broken link still held is left to the collector. */
  take(): ArrayBuffer[] {
    const { leftBytes } = this.#link;
    const free = this.#lent.filter(({ leftAtBytes }) => leftAtBytes <= leftBytes);
    this.#lent = this.#lent.filter(({ leftAtBytes }) => leftAtBytes > leftBytes);
    return free.map(({ buffer }) => buffer);
  }
}

/**
 * A chunk's frame in one piece, its small parts put into the room before the data: the other side then
 * receives header and payload in one buffer, and need not put them together.
 */
function inOnePiece(
  frame: readonly Uint8Array[],
  { data, roomBytes = 0 }: DiskChunk,
): readonly Uint8Array[] {
  const small = frame.slice(0, -1);
  const smallBytes = small.reduce((sum, part) => sum + part.byteLength, 0);
  // Compressed, it is not the data that is sent.
  if (data === null || frame.at(-1) !== data || smallBytes > roomBytes) return frame;
  const from = data.byteOffset - smallBytes;
  const whole = new Uint8Array(data.buffer, from, smallBytes + data.byteLength);
  let at = 0;
  for (const part of small) {
    whole.set(part, at);
    at += part.byteLength;
  }
  return [whole];
}

/** One synchronisation with one backup over one link. */
export class SyncDriver {
  readonly #options: SyncOptions;
  readonly #sums = new BaseSums();
  readonly #startedMs: number;
  /** Of batches, and of pieces of the disks. */
  readonly #lentBatches: LentBuffers;
  readonly #lentChunks: LentBuffers;
  #round = 0;
  /** Of memory, in this round. */
  #walkedBytes = 0;

  constructor(options: SyncOptions) {
    this.#options = options;
    this.#startedMs = options.nowMs();
    this.#lentBatches = new LentBuffers(options.link);
    this.#lentChunks = new LentBuffers(options.link);
  }

  get progress(): SyncProgress {
    const { pages, bytes, diskBytes } = this.#sums;
    const { disk, descriptor, nowMs, plan } = this.#options;
    return {
      plan: plan.kind,
      round: this.#round,
      pages,
      bytes,
      diskBytes,
      diskTotalBytes: disk?.diskBytes ?? 0,
      memoryBytes: this.#walkedBytes,
      memoryTotalBytes: descriptor.blocks.reduce((sum, block) => sum + block.bytes, 0),
      elapsedMs: nowMs() - this.#startedMs,
    };
  }

  /**
   * Round 0: the disks, or what changed of them, then the image. The disks first: what the machine
   * writes to them while memory is sent goes out in between, and never piles up. Gives the pages sent.
   */
  async first(): Promise<number> {
    const { capture, plan, descriptor, epoch } = this.#options;
    await capture.call('resetBaselines', { ram: plan.kind === 'full' });
    await this.#sendDisk();
    let pages = 0;
    for (const block of descriptor.blocks) {
      const { id: blockId } = block;
      pages += await this.#slices(
        plan.kind === 'full'
          ? {
              slicePages: SLICE_PAGES,
              block,
              isEven: true,
              take: (stretch, transfer) =>
                capture.call('slice', { blockId, ...stretch, full: true, epoch }, transfer),
            }
          : {
              slicePages: SLICE_PAGES,
              block,
              isEven: false,
              take: (stretch, transfer) =>
                capture.call('changedSlice', { blockId, ...stretch, since: plan.since }, transfer),
            },
      );
    }
    return pages;
  }

  /** A later round: what was written since the last. Gives the pages sent. */
  async next(round: number): Promise<number> {
    const { capture, descriptor, epoch } = this.#options;
    this.#round = round;
    this.#walkedBytes = 0;
    let pages = 0;
    for (const block of descriptor.blocks) {
      const { id: blockId } = block;
      pages += await this.#slices({
        slicePages: LATER_SLICE_PAGES,
        block,
        isEven: true,
        take: (stretch, transfer) =>
          capture.call('slice', { blockId, ...stretch, full: false, epoch }, transfer),
      });
    }
    return pages;
  }

  /** The message that ends the base image. */
  end(): Uint8Array[] {
    const { pages, batches, diskBytes, digest } = this.#sums;
    return encodeMessage(
      { kind: 'baseEnd', epoch: asEpoch(this.#options.epoch), pages, batches, diskBytes, digest },
      { generation: this.#options.generation },
    );
  }

  async #slices({ slicePages, block, isEven, take }: Walk): Promise<number> {
    const { link, signal } = this.#options;
    // A successor may have begun anew by now: what is captured for nobody would be taken for sent.
    signal.throwIfAborted();
    const blockPages = block.bytes / PAGE_BYTES;
    const walkedBefore = this.#walkedBytes;
    let donePages = 0;
    let pages = 0;
    let nextPage: number | null = 0;
    const asked: Promise<SliceResult>[] = [];
    const ask = (): void => {
      while (nextPage !== null && asked.length < SLICES_AHEAD) {
        const spares = this.#lentBatches.take();
        const slice = take({ fromPage: nextPage, pageLimit: slicePages, spares }, spares);
        // Awaited below, unless the synchronisation ends before its turn.
        slice.catch(() => undefined);
        asked.push(slice);
        const next: number = nextPage + slicePages;
        nextPage = isEven && next < blockPages ? next : null;
      }
    };
    ask();
    for (let slice = asked.shift(); slice !== undefined; slice = asked.shift()) {
      const result = await slice;
      signal.throwIfAborted();
      if (!isEven) nextPage = result.nextPage;
      donePages = isEven ? donePages + slicePages : (result.nextPage ?? blockPages);
      this.#walkedBytes = walkedBefore + Math.min(donePages, blockPages) * PAGE_BYTES;
      ask();
      pages += result.totals.pages;
      for (const batch of result.batches) this.#sendBatch(batch);
      await link.drained(LINK_QUEUE_BYTES_MAX);
      signal.throwIfAborted();
      await this.#pace();
      await this.#sendWaiting();
      signal.throwIfAborted();
    }
    return pages;
  }

  #sendBatch(batch: SealedBatch): void {
    const { link, generation } = this.#options;
    const frame = batchFrame('baseImage', batch, 0, generation);
    this.#sums.pages += batch.pages;
    this.#sums.batches += 1;
    this.#sums.count(frame);
    link.send(frame);
    const { buffer } = batch.payload;
    if (!batch.compressed && buffer instanceof ArrayBuffer) this.#lentBatches.lend(buffer);
  }

  async #sendDisk(): Promise<void> {
    const { disk } = this.#options;
    if (disk === null) return;
    for await (const chunk of disk.readBase()) {
      await this.#sendChunk(chunk);
      await this.#pace();
    }
  }

  /** Not paced: the machine sets the pace of its writes, and they must not pile up. */
  async #sendWaiting(): Promise<void> {
    const { disk } = this.#options;
    if (disk === null) return;
    for await (const chunk of disk.readWaiting()) await this.#sendChunk(chunk);
  }

  async #sendChunk(chunk: DiskChunk): Promise<void> {
    const { link, generation, compressor, signal } = this.#options;
    const { disk = 0, offset, byteCount, data, roomBytes = 0 } = chunk;
    const write = { disk, offset, lengthBytes: byteCount, data };
    const frame = encodeMessage({ kind: 'baseDisk', write }, { generation, compressor });
    this.#sums.diskBytes += byteCount;
    this.#sums.count(frame);
    link.send(inOnePiece(frame, chunk));
    if (data !== null && roomBytes > 0 && data.buffer instanceof ArrayBuffer)
      this.#lentChunks.lend(data.buffer);
    await link.drained(LINK_QUEUE_BYTES_MAX);
    this.#options.disk?.giveBack?.(this.#lentChunks.take());
    signal.throwIfAborted();
  }

  /** Keeps the sync within the bandwidth the operator gave it. */
  async #pace(): Promise<void> {
    const { bytesPerSecondMax, nowMs } = this.#options;
    if (bytesPerSecondMax === null) return;
    const dueMs = this.#startedMs + (this.#sums.bytes / bytesPerSecondMax) * 1000;
    const waitMs = dueMs - nowMs();
    if (waitMs > 1) await new Promise((resolve) => setTimeout(resolve, waitMs));
  }
}
