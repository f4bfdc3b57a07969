/**
 * Gives a backup its base image while the machine runs on: round 0 sends every page (or those
 * changed since an epoch the backup provably holds), each later round what was written during the
 * one before (pre-copy, Clark et al., NSDI 2005). Pages may be torn; the final checkpoint, taken
 * with the machine stopped, contains every page that was.
 */
import { asEpoch, type Generation } from '../base/units.ts';
import type { Compressor } from '../codec/compress.ts';
import { encodeMessage } from '../codec/messages.ts';
import type { GuestDescriptor } from '../guests/guest.ts';
import type { SourceDisk } from '../disks/disk.ts';
import type { CaptureMethods, SliceResult } from './capture-worker.ts';
import { BaseSums, batchFrame } from './epoch-frames.ts';
import type { Outbox } from './outbox.ts';
import type { ThreadClient } from './thread-rpc.ts';

/** One slice: small enough to pace and to show progress, large enough to cost nothing. */
const SLICE_PAGES = 4096;
/** Slices after round 0 hold few pages each, so they may span more of the block. */
const LATER_SLICE_PAGES = 65_536;
/** The link's own queue stays below this, so that an image never fills memory. */
const LINK_QUEUE_BYTES_MAX = 16 * 1024 * 1024;

export interface SyncProgress {
  readonly round: number;
  readonly pages: number;
  readonly bytes: number;
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

/** One synchronisation with one backup over one link. */
export class SyncDriver {
  readonly #options: SyncOptions;
  readonly #sums = new BaseSums();
  readonly #startedMs: number;
  #round = 0;

  constructor(options: SyncOptions) {
    this.#options = options;
    this.#startedMs = options.nowMs();
  }

  get progress(): SyncProgress {
    return { round: this.#round, pages: this.#sums.pages, bytes: this.#sums.bytes };
  }

  /** Round 0: the image, or what changed of it, and the disk. Gives the pages sent. */
  async first(): Promise<number> {
    const { capture, plan, descriptor } = this.#options;
    await capture.call('resetBaselines', { ram: plan.kind === 'full' });
    let pages = 0;
    for (const block of descriptor.blocks) {
      pages += await this.#slices(SLICE_PAGES, (fromPage, pageLimit) =>
        plan.kind === 'full'
          ? capture.call('slice', {
              blockId: block.id,
              fromPage,
              pageLimit,
              full: true,
              epoch: this.#options.epoch,
            })
          : capture.call('changedSlice', {
              blockId: block.id,
              fromPage,
              pageLimit,
              since: plan.since,
            }),
      );
    }
    await this.#disk();
    return pages;
  }

  /** A later round: what was written since the last. Gives the pages sent. */
  async next(round: number): Promise<number> {
    const { capture, descriptor, epoch } = this.#options;
    this.#round = round;
    let pages = 0;
    for (const block of descriptor.blocks) {
      pages += await this.#slices(LATER_SLICE_PAGES, (fromPage, pageLimit) =>
        capture.call('slice', { blockId: block.id, fromPage, pageLimit, full: false, epoch }),
      );
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

  async #slices(
    slicePages: number,
    take: (fromPage: number, pageLimit: number) => Promise<SliceResult>,
  ): Promise<number> {
    const { link, signal } = this.#options;
    let pages = 0;
    let pending: Promise<SliceResult> | null = take(0, slicePages);
    while (pending !== null) {
      const result: SliceResult = await pending;
      signal.throwIfAborted();
      // The next slice is captured while this one is being sent.
      pending = result.nextPage === null ? null : take(result.nextPage, slicePages);
      pending?.catch(() => undefined);
      pages += result.totals.pages;
      for (const batch of result.batches) {
        const frame = batchFrame('baseImage', batch, 0, this.#options.generation);
        this.#sums.pages += batch.pages;
        this.#sums.batches += 1;
        this.#sums.count(frame);
        link.send(frame);
      }
      await link.drained(LINK_QUEUE_BYTES_MAX);
      signal.throwIfAborted();
      await this.#pace();
    }
    return pages;
  }

  async #disk(): Promise<void> {
    const { disk, link, generation, compressor, signal } = this.#options;
    if (disk === null) return;
    for await (const { offset, byteCount, data } of disk.readBase()) {
      const write = { offset, lengthBytes: byteCount, data };
      const frame = encodeMessage({ kind: 'baseDisk', write }, { generation, compressor });
      this.#sums.diskBytes += byteCount;
      this.#sums.count(frame);
      link.send(frame);
      await link.drained(LINK_QUEUE_BYTES_MAX);
      signal.throwIfAborted();
      await this.#pace();
    }
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
