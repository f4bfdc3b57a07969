/**
 * The event queue between capture and link: whole epochs, in order, from the moment they are encoded
 * until the backup has applied them. What waits for an acknowledgement is what the watermarks
 * measure; what is acknowledged but not yet applied is kept so that a link that broke can resume.
 */
import { assert } from '../base/assert.ts';

/** Memory of epochs that are done with, to be written into again; more is left to the collector. */
const SPARES_MAX = 32;

/** One epoch, as frames ready for the link. */
export interface QueuedEpoch {
  readonly epoch: number;
  /** Each inner list is one frame: header, then payload parts. */
  readonly frames: readonly (readonly Uint8Array[])[];
  readonly bytes: number;
  /** The memory of its large parts, nobody else's. */
  readonly buffers: readonly ArrayBuffer[];
}

export class EpochQueue {
  readonly #retainedBytesMax: number;
  readonly #epochs: QueuedEpoch[] = [];
  #acked = 0;
  #retainedBytes = 0;
  #unackedBytes = 0;
  #spares: ArrayBuffer[] = [];

  /** Acknowledged epochs are dropped, oldest first, when all that is kept exceeds the bound. */
  constructor(options: { retainedBytesMax: number }) {
    this.#retainedBytesMax = options.retainedBytesMax;
  }

  /** Bytes of epochs not acknowledged: what the watermarks are compared with. */
  get unackedBytes(): number {
    return this.#unackedBytes;
  }

  get unackedEpochs(): number {
    return this.#epochs.filter(({ epoch }) => epoch > this.#acked).length;
  }

  /** The oldest epoch a resumed link could still be given; null when there is none. */
  get oldestEpoch(): number | null {
    return this.#epochs[0]?.epoch ?? null;
  }

  append(item: QueuedEpoch): void {
    const last = this.#epochs.at(-1);
    assert(
      last === undefined || item.epoch === last.epoch + 1,
      `epoch ${item.epoch} after ${last?.epoch}`,
    );
    this.#epochs.push(item);
    this.#retainedBytes += item.bytes;
    this.#unackedBytes += item.bytes;
    this.#trim();
  }

  /** The backup holds everything up to and including `epoch`. */
  acknowledge(epoch: number): void {
    for (const item of this.#epochs)
      if (item.epoch > this.#acked && item.epoch <= epoch) this.#unackedBytes -= item.bytes;
    this.#acked = Math.max(this.#acked, epoch);
    this.#trim();
  }

  /** The backup's image is at `epoch`: nothing up to it is needed any more. */
  applied(epoch: number): void {
    while ((this.#epochs[0]?.epoch ?? Number.POSITIVE_INFINITY) <= epoch) {
      const dropped = this.#dropOldest();
      const room = SPARES_MAX - this.#spares.length;
      this.#spares.push(...(dropped?.buffers ?? []).slice(0, room));
    }
  }

  /**
   * The memory of epochs that were applied, once: to be called when no link has anything left to send.
   * Left to the collector, it counts against the heap, and every 32 MB of it make V8 mark all of that.
   */
  takeSpares(): ArrayBuffer[] {
    const spares = this.#spares;
    this.#spares = [];
    return spares;
  }

  /** All epochs after `epoch`, oldest first. */
  after(epoch: number): readonly QueuedEpoch[] {
    return this.#epochs.filter((item) => item.epoch > epoch);
  }

  clear(): void {
    this.#epochs.length = 0;
    this.#spares = [];
    this.#retainedBytes = 0;
    this.#unackedBytes = 0;
  }

  #trim(): void {
    while (
      this.#retainedBytes > this.#retainedBytesMax &&
      (this.#epochs[0]?.epoch ?? Number.POSITIVE_INFINITY) <= this.#acked
    )
      this.#dropOldest();
  }

  #dropOldest(): QueuedEpoch | undefined {
    const dropped = this.#epochs.shift();
    if (dropped === undefined) return undefined;
    this.#retainedBytes -= dropped.bytes;
    if (dropped.epoch > this.#acked) this.#unackedBytes -= dropped.bytes;
    return dropped;
  }
}
