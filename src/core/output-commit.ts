/**
 * Output commit: which of the guest's frames may leave.
 *
 * Every checkpoint marks a boundary in the guest's output: the machine's own count of frames at
 * the instant it stopped. Frames up to the boundary of epoch e may leave once the backup holds
 * epoch e whole. This book keeps the boundaries of the epochs taken and not yet acknowledged.
 *
 * Invariants, asserted at every change: epochs are taken gap-free, boundaries never go backward,
 * and released <= acknowledged <= taken.
 *
 * It does not know promises, nor does it reckon with time: being committed is one condition for leaving,
 * a promise that still holds is the other (`promise.ts`). After Cully et al., Remus, NSDI 2008, section 3.4.
 */
import { assert } from '../base/assert.ts';
import { asEpoch, type Epoch } from '../base/units.ts';

interface Mark {
  readonly epoch: Epoch;
  readonly framesSent: number;
}

interface OpenMark extends Mark {
  readonly takenAtMs: number;
}

/** Epochs that may be under way at once; no checkpoint is asked for beyond it. */
export const UNACKNOWLEDGED_EPOCHS_MAX = 4096;

export class OutputCommit {
  #takenEpoch: Epoch;
  #takenFrames = 0;
  #acknowledged: Mark;
  #releasedEpoch: Epoch;
  /** Taken and not acknowledged, oldest first. */
  #open: OpenMark[] = [];

  /** `baseEpoch`: the epoch before the first that will be taken. */
  constructor(baseEpoch: Epoch) {
    this.#takenEpoch = baseEpoch;
    this.#releasedEpoch = baseEpoch;
    this.#acknowledged = { epoch: baseEpoch, framesSent: 0 };
  }

  get takenEpoch(): Epoch {
    return this.#takenEpoch;
  }

  get acknowledgedEpoch(): Epoch {
    return this.#acknowledged.epoch;
  }

  get releasedEpoch(): Epoch {
    return this.#releasedEpoch;
  }

  /** Boundary of what is committed: frames counted up to it may leave. */
  get framesCommitted(): number {
    return this.#acknowledged.framesSent;
  }

  get unacknowledgedCount(): number {
    return this.#open.length;
  }

  /** When the oldest epoch that is not acknowledged was taken, in milliseconds; null: all are. */
  get oldestTakenAtMs(): number | null {
    return this.#open[0]?.takenAtMs ?? null;
  }

  /** Books a checkpoint, its boundary, and when it was taken. */
  take(epoch: Epoch, framesSent: number, takenAtMs: number): void {
    assert(epoch === this.#takenEpoch + 1, `epoch ${epoch} taken after ${this.#takenEpoch}`);
    assert(framesSent >= this.#takenFrames, 'the boundary in the output never goes backward');
    this.#takenEpoch = epoch;
    this.#takenFrames = framesSent;
    this.#open.push({ epoch, framesSent, takenAtMs });
  }

  /**
   * Commits all epochs up to this one; true when that is more than before.
   * The caller has checked that the epoch was taken: peers are not trusted to.
   */
  acknowledge(epoch: Epoch): boolean {
    assert(epoch <= this.#takenEpoch, `epoch ${epoch} was never taken`);
    let moved = false;
    for (
      let mark = this.#open[0];
      mark !== undefined && mark.epoch <= epoch;
      mark = this.#open[0]
    ) {
      this.#acknowledged = mark;
      this.#open.shift();
      moved = true;
    }
    return moved;
  }

  /** Notes that the gate was told to let everything committed leave. */
  release(): Epoch {
    assert(this.#releasedEpoch <= this.#acknowledged.epoch, 'released <= acknowledged');
    this.#releasedEpoch = this.#acknowledged.epoch;
    return this.#releasedEpoch;
  }

  /** The guest goes on unprotected: its output waits for no epoch taken so far. */
  abandon(): void {
    this.#open = [];
    this.#acknowledged = { epoch: asEpoch(this.#takenEpoch), framesSent: this.#takenFrames };
    this.#releasedEpoch = this.#takenEpoch;
  }
}
