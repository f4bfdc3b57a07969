/**
 * The books of one whole image on the backup: which epochs it holds, answered for, and applied.
 *
 * Invariants, asserted at every change: epochs come gap-free and in order,
 * applied <= received, acknowledged <= received, none of them ever goes backward, and nothing is
 * received any more once the machine was loaded.
 */
import { assert } from '../base/assert.ts';
import { asEpoch, type Epoch } from '../base/units.ts';
import type { Instance } from './register.ts';

export class HeldImage {
  readonly instance: Instance;
  #receivedEpoch: Epoch;
  #acknowledgedEpoch: Epoch;
  #appliedEpoch: Epoch;
  #isLoaded = false;

  /** The image becomes whole with this epoch, which is here and still to be applied. */
  constructor(instance: Instance, firstEpoch: Epoch) {
    assert(firstEpoch >= 1, 'an image is completed by an epoch');
    this.instance = instance;
    this.#receivedEpoch = firstEpoch;
    this.#acknowledgedEpoch = asEpoch(firstEpoch - 1);
    this.#appliedEpoch = asEpoch(firstEpoch - 1);
  }

  /** Every byte of the epochs up to this one is here, checked. */
  get receivedEpoch(): Epoch {
    return this.#receivedEpoch;
  }

  get acknowledgedEpoch(): Epoch {
    return this.#acknowledgedEpoch;
  }

  get appliedEpoch(): Epoch {
    return this.#appliedEpoch;
  }

  /** The waiting machine holds the device state: the image can be started as it is, nothing else. */
  get isLoaded(): boolean {
    return this.#isLoaded;
  }

  loaded(): void {
    this.#isLoaded = true;
  }

  received(epoch: Epoch): void {
    assert(!this.#isLoaded, `epoch ${epoch} for a machine that holds its state already`);
    assert(epoch === this.#receivedEpoch + 1, `epoch ${epoch} after ${this.#receivedEpoch}`);
    this.#receivedEpoch = epoch;
  }

  /** All that is held has been answered for. */
  acknowledged(): void {
    this.#acknowledgedEpoch = this.#receivedEpoch;
  }

  applied(epoch: Epoch): void {
    assert(epoch === this.#appliedEpoch + 1, `epoch ${epoch} applied after ${this.#appliedEpoch}`);
    assert(epoch <= this.#receivedEpoch, 'applied <= received');
    this.#appliedEpoch = epoch;
  }
}
