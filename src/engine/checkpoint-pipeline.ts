/**
 * From the machine to frames in the queue: takes checkpoints, runs synchronisations, and knows what
 * can be proved of the images made so far. It sends to whom it is told and decides nothing.
 *
 * The *lineage* is what the baseline stands for: the last version of every page that was captured.
 * A capture that fails half-way breaks it, because which pages were dirty is then no longer known;
 * from there on only a whole new image is right.
 */
import { type RomulusError, toRomulusError } from '../base/errors.ts';
import { asEpoch, type Epoch, type Generation } from '../base/units.ts';
import { Compressor } from '../codec/compress.ts';
import type { SourceDisk } from '../disks/disk.ts';
import type { GuestDescriptor } from '../guests/guest.ts';
import type { CheckpointResult } from './capture-types.ts';
import type { CaptureMethods } from './capture-worker.ts';
import { nowMs, nowNs } from './clock.ts';
import type { DiskTarget } from './disk-worker.ts';
import { epochFrames } from './epoch-frames.ts';
import { EpochQueue, type QueuedEpoch } from './epoch-queue.ts';
import { EpochMeters } from './meters.ts';
import type { NodeParts } from './node-parts.ts';
import type { Outbox } from './outbox.ts';
import { SyncDriver, type SyncProgress } from './sync-driver.ts';
import type { ThreadClient } from './thread-rpc.ts';

export interface PipelineOptions {
  readonly parts: NodeParts;
  readonly capture: ThreadClient<CaptureMethods>;
  readonly descriptor: GuestDescriptor;
  /** Opens a view of the machine's disks for one image: their writes are followed from then on. */
  readonly openDisk: (target: DiskTarget) => Promise<SourceDisk | null>;
}

/** Whom an image is made for, and how. */
export interface SyncTarget {
  readonly linkId: number;
  readonly outbox: Outbox;
  readonly plan: { readonly kind: 'full' } | { readonly kind: 'changed'; readonly since: Epoch };
  readonly generation: Generation;
  /** The epoch that will complete the image. */
  readonly epoch: number;
}

interface Sync {
  readonly target: SyncTarget;
  readonly abort: AbortController;
  driver: SyncDriver | null;
}

/** What a backup's hello is measured against. */
export interface Proofs {
  /** Oldest epoch that can be sent again. */
  readonly oldestRetainedEpoch: Epoch | null;
  /** Oldest epoch since whose end it is known what changed. */
  readonly provenSinceEpoch: Epoch | null;
  /** False when no image made so far can be carried on. */
  readonly lineageIntact: boolean;
}

export type CheckpointOutcome =
  | { readonly kind: 'taken'; readonly checkpoint: CheckpointResult; readonly queued: QueuedEpoch }
  | { readonly kind: 'skipped'; readonly error: RomulusError; readonly lineageBroken: boolean };

export class CheckpointPipeline {
  readonly #options: PipelineOptions;
  readonly #compressor = new Compressor();
  readonly queue: EpochQueue;
  readonly meters: EpochMeters = new EpochMeters();
  #sync: Sync | null = null;
  #disk: SourceDisk | null = null;
  #provenSince: number | null = null;
  #lineageIntact = true;

  constructor(options: PipelineOptions) {
    this.#options = options;
    this.queue = new EpochQueue({ retainedBytesMax: 2 * options.parts.config.queueHighBytes });
  }

  get syncProgress(): SyncProgress | null {
    return this.#sync?.driver?.progress ?? null;
  }

  get proofs(): Proofs {
    const oldest = this.queue.oldestEpoch;
    return {
      oldestRetainedEpoch: oldest === null ? null : asEpoch(oldest),
      provenSinceEpoch: this.#provenSince === null ? null : asEpoch(this.#provenSince),
      lineageIntact: this.#lineageIntact,
    };
  }

  /** Round 0 of an image for this target; replaces a synchronisation under way. Gives the pages sent. */
  async startSync(target: SyncTarget): Promise<number> {
    const { parts, capture, descriptor, openDisk } = this.#options;
    this.stopSync('another synchronisation begins');
    this.queue.clear();
    const sync: Sync = { target, abort: new AbortController(), driver: null };
    this.#sync = sync;
    this.stopDisk();
    const { plan, epoch } = target;
    const disk = await openDisk({ since: plan.kind === 'full' ? null : plan.since, epoch });
    if (sync.abort.signal.aborted) disk?.close();
    sync.abort.signal.throwIfAborted();
    this.#disk = disk;
    if (target.plan.kind === 'full') this.#provenSince = null;
    sync.driver = new SyncDriver({
      capture,
      descriptor,
      disk,
      link: target.outbox,
      generation: target.generation,
      compressor: this.#compressor,
      epoch: target.epoch,
      plan: target.plan,
      bytesPerSecondMax: parts.config.syncBytesPerSecond ?? null,
      nowMs,
      signal: sync.abort.signal,
    });
    return await sync.driver.first();
  }

  /** A later round; null when the synchronisation is not this link's any more. */
  async syncRound(linkId: number, round: number): Promise<number | null> {
    const sync = this.#sync;
    if (sync?.target.linkId !== linkId || sync.driver === null) return null;
    return await sync.driver.next(round);
  }

  /** Gives up the synchronisation with this link, or with any. */
  stopSync(why: string, linkId?: number): void {
    if (linkId !== undefined && this.#sync?.target.linkId !== linkId) return;
    this.#sync?.abort.abort(new Error(why));
    this.#sync = null;
  }

  /** Stops following the disk: nobody is given its writes. */
  stopDisk(): void {
    this.#disk?.close();
    this.#disk = null;
  }

  /**
   * Suspends, captures, resumes, and puts the epoch into the queue. With `completesBase` the end of
   * the base image goes to its target first. `allSent`: no link has anything left to send, so the
   * memory of epochs that are done with may be written into.
   */
  async take(
    epoch: Epoch,
    options: { completesBase: boolean; generation: Generation; allSent: boolean },
  ): Promise<CheckpointOutcome> {
    const { capture, parts } = this.#options;
    const sync = this.#sync;
    const disk = this.#disk;
    const startedAtNs = nowNs();
    try {
      const spares = options.allSent ? this.queue.takeSpares() : [];
      const checkpoint = await capture.call('checkpoint', { epoch, spares }, spares);
      const writes = await this.#diskWrites(disk, epoch, checkpoint.diskWrites);
      const queued = epochFrames(
        checkpoint,
        writes.map((write) => ({
          disk: write.disk ?? 0,
          offset: write.offset,
          lengthBytes: write.data === null ? write.byteCount : write.data.byteLength,
          data: write.data,
        })),
        { generation: options.generation, compressor: this.#compressor, startedAtNs },
      );
      const { framesSent, diskWrites, position } = checkpoint;
      parts.gate.mark(epoch, framesSent);
      const startedAt = startedAtNs.toString();
      parts.audit.record('mark', { epoch, framesSent, diskWrites, position, startedAt });
      this.queue.append(queued);
      this.meters.recordCheckpoint(checkpoint, queued.bytes);
      if (options.completesBase && sync !== null && sync === this.#sync) this.#endBase(sync, epoch);
      return { kind: 'taken', checkpoint, queued };
    } catch (cause) {
      const error = toRomulusError(cause);
      this.meters.epochsSkipped += 1;
      // Not stopped, nothing captured: the next epoch simply covers both.
      const lineageBroken = error.code !== 'ERR_GUEST_CANNOT_SUSPEND';
      if (lineageBroken) this.breakLineage();
      return { kind: 'skipped', error, lineageBroken };
    }
  }

  async #diskWrites(
    disk: SourceDisk | null,
    epoch: Epoch,
    count: number,
  ): ReturnType<SourceDisk['take']> {
    if (disk === null || disk !== this.#disk) return [];
    disk.mark(epoch, count);
    try {
      return await disk.take(epoch);
    } catch (error) {
      // Let go meanwhile: this epoch is for nobody any more, and the next image is made without it.
      if (disk !== this.#disk) return [];
      throw error;
    }
  }

  /** No image made so far can be carried on; only a whole new one is right. */
  breakLineage(): void {
    this.#lineageIntact = false;
    this.#provenSince = null;
    this.queue.clear();
  }

  #endBase(sync: Sync, epoch: number): void {
    this.#sync = null;
    this.#provenSince ??= epoch;
    if (sync.target.plan.kind === 'full') this.#lineageIntact = true;
    if (sync.driver !== null) sync.target.outbox.send(sync.driver.end());
  }
}
