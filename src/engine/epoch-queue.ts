/**
 * The event queue between capture and link: whole epochs, in order, from the moment they are encoded
 * until the backup has applied them. What waits for an acknowledgement is what the watermarks
 * measure; what is acknowledged but not yet applied is kept so that a link that broke can resume.
 */
import { assert } from '../base/assert.ts';

/** One epoch, as frames ready for the link. */
export interface QueuedEpoch {
  readonly epoch: number;
  /** Each inner list is one frame: header, then payload parts. */
  readonly frames: readonly (readonly Uint8Array[])[];
  readonly bytes: number;
}

export class EpochQueue {
  readonly #retainedBytesMax: number;
  readonly #epochs: QueuedEpoch[] = [];
  #acked = 0;
  #retainedBytes = 0;
  #unackedBytes = 0;

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
    while ((this.#epochs[0]?.epoch ?? Number.POSITIVE_INFINITY) <= epoch) this.#dropOldest();
  }

  /** All epochs after `epoch`, oldest first. */
  after(epoch: number): readonly QueuedEpoch[] {
    return this.#epochs.filter((item) => item.epoch > epoch);
  }

  clear(): void {
    this.#epochs.length = 0;
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

  #dropOldest(): void {
    const dropped = this.#epochs.shift();
    if (dropped === undefined) return;
    this.#retainedBytes -= dropped.bytes;
    if (dropped.epoch > this.#acked) this.#unackedBytes -= dropped.bytes;
  }
}
