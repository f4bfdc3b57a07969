/**
 * The stream of epochs from one primary: when the next is due, what of it is acknowledged, and
 * what its output may therefore do. Joins the books of `output-commit.ts`, the promises of
 * `promise.ts` and the pace of `epoch-pacer.ts`, and turns them into effects.
 *
 * It does not know states: whether anything may be released, or a checkpoint taken, at all is the
 * primary's business.
 */
import { assert } from '../base/assert.ts';
import { asEpoch, type Epoch, NO_EPOCH } from '../base/units.ts';
import { EpochPacer } from './epoch-pacer.ts';
import { OutputCommit, UNACKNOWLEDGED_EPOCHS_MAX } from './output-commit.ts';
import type { PrimaryEffect, PrimaryEvent, PrimaryOptions } from './primary-types.ts';
import { HeldPromise } from './promise.ts';
import type { Instance } from './register.ts';

type Acknowledgement = Extract<PrimaryEvent, { kind: 'acknowledged' }>;
type CheckpointTaken = Extract<PrimaryEvent, { kind: 'checkpointTaken' }>;
type Promised = Extract<PrimaryEvent, { kind: 'promised' }>;

export class EpochFlow {
  readonly pacer: EpochPacer;
  readonly #commit: OutputCommit;
  readonly #held: HeldPromise;
  readonly #acknowledgeMs: number;
  readonly #backlogMs: number;
  #appliedEpoch: Epoch = NO_EPOCH;
  #skippedCount = 0;
  #earlyCount = 0;
  /** When the partner last acknowledged or applied more, or began to be waited for. */
  #progressAtMs = 0;

  constructor(options: PrimaryOptions) {
    this.pacer = new EpochPacer(options);
    this.#commit = new OutputCommit(asEpoch(options.firstEpoch - 1));
    this.#held = new HeldPromise(options.promiseMargin);
    this.#acknowledgeMs = options.limits.acknowledgeMs;
    this.#backlogMs = options.limits.backlogMs;
  }

  get takenEpoch(): Epoch {
    return this.#commit.takenEpoch;
  }

  get acknowledgedEpoch(): Epoch {
    return this.#commit.acknowledgedEpoch;
  }

  get releasedEpoch(): Epoch {
    return this.#commit.releasedEpoch;
  }

  get appliedEpoch(): Epoch {
    return this.#appliedEpoch;
  }

  get skippedCount(): number {
    return this.#skippedCount;
  }

  /** Checkpoints asked for before the interval's end, because output waited. */
  get earlyCount(): number {
    return this.#earlyCount;
  }

  /** The instance whose promises count. */
  get promiser(): Instance | null {
    return this.#held.instance;
  }

  /** When a next checkpoint may be taken, in milliseconds; null while none may. */
  get dueAtMs(): number | null {
    const { unacknowledgedCount } = this.#commit;
    if (unacknowledgedCount >= UNACKNOWLEDGED_EPOCHS_MAX) return null;
    // On a link that still carries an epoch one more would only wait, and the output with it; nor
    // does it ever come to a backlog this way.
    return unacknowledgedCount === 0 ? this.pacer.dueOnFreeLinkAtMs : this.pacer.dueAtMs;
  }

  /** When the partner will have been silent too long about what it was sent; null: owes nothing. */
  get overdueAtMs(): number | null {
    if (this.#commit.unacknowledgedCount === 0) return null;
    return this.#progressAtMs + this.#acknowledgeMs;
  }

  /**
   * When the partner will be too far behind to be waited for, in milliseconds; null: it is not behind.
   * Unlike `overdueAtMs` it is not put off by what happens meanwhile, such as another link.
   */
  get tooFarBehindAtMs(): number | null {
    const { oldestTakenAtMs } = this.#commit;
    return oldestTakenAtMs === null ? null : oldestTakenAtMs + this.#backlogMs;
  }

  /** A checkpoint is asked for; the number it will have. */
  ask(nowMs: number): Epoch {
    const { dueAtMs } = this.pacer;
    if (dueAtMs !== null && nowMs < dueAtMs) this.#earlyCount += 1;
    this.pacer.asked(nowMs);
    return asEpoch(this.#commit.takenEpoch + 1);
  }

  /** The checkpoint asked for was taken. */
  take({ epoch, framesSent, pauseMs }: CheckpointTaken, nowMs: number): void {
    assert(this.pacer.isCapturing, 'a checkpoint that was asked for');
    this.pacer.answered(pauseMs);
    if (this.#commit.unacknowledgedCount === 0) this.#progressAtMs = nowMs;
    this.#commit.take(epoch, framesSent, nowMs);
  }

  skip(): void {
    assert(this.pacer.isCapturing, 'a checkpoint that was asked for');
    this.pacer.answered();
    this.#skippedCount += 1;
  }

  /** The whole image is acknowledged: from now on this instance's promises are what counts. */
  begin(first: Acknowledgement): PrimaryEffect {
    this.#commit.acknowledge(first.epoch);
    this.#held.listenTo(first.instance);
    this.#held.raise(first.instance, first.sentAtMs, first.promiseMs);
    return { kind: 'acceptPromisesFrom', instance: first.instance };
  }

  /** The partner begins, or begins again, to be waited for. */
  expect(nowMs: number): void {
    this.#progressAtMs = nowMs;
  }

  acknowledge(event: Acknowledgement, nowMs: number): PrimaryEffect[] {
    const isMore = this.#commit.acknowledge(event.epoch);
    const isLonger = this.#held.raise(event.instance, event.sentAtMs, event.promiseMs);
    if (!isMore) return isLonger ? this.release(nowMs) : [];
    this.#progressAtMs = nowMs;
    const throughEpoch = this.#commit.acknowledgedEpoch;
    return [{ kind: 'forgetEpochs', throughEpoch }, ...this.release(nowMs)];
  }

  /** Counts a promise that came with a heartbeat; true when it reaches further. */
  promised({ instance, sentAtMs, promiseMs }: Promised): boolean {
    return this.#held.raise(instance, sentAtMs, promiseMs);
  }

  /** One that only applies is slow, not gone: it reads no further until it has room again. */
  applied(epoch: Epoch, nowMs: number): void {
    if (epoch > this.#commit.takenEpoch) return;
    if (epoch > this.#appliedEpoch) this.#progressAtMs = nowMs;
    this.#appliedEpoch = epoch;
  }

  /** Lets what is committed leave while the promise holds. */
  release(nowMs: number): PrimaryEffect[] {
    if (this.#held.untilMs <= nowMs) return [];
    return [
      {
        kind: 'releaseOutput',
        throughEpoch: this.#commit.release(),
        framesThrough: this.#commit.framesCommitted,
        untilMs: this.#held.untilMs,
      },
    ];
  }

  /** Nobody's promises count from now on. */
  stopListening(): PrimaryEffect {
    this.#held.listenTo(null);
    return { kind: 'acceptPromisesFrom', instance: null };
  }

  /** The guest goes on unprotected: no epoch taken so far is waited for, or sent again. */
  abandon(): PrimaryEffect {
    this.#commit.abandon();
    this.pacer.outputLeft();
    // What is forgotten waits for no link: else a full queue would keep the next image from its checkpoint.
    this.pacer.queueLevel(0);
    return { kind: 'forgetEpochs', throughEpoch: this.#commit.takenEpoch };
  }
}
