/**
 * The output gate: holds what the machine says until its epoch is committed (output commit,
 * Remus section 2.2), and lets it out only while the right to be heard lasts.
 *
 * Frames are taken from the machine always, whatever the mode, and numbered from 1 as they come:
 * the machine's own count at the instant it stopped is the boundary of the epoch, and a frame may
 * reach us after the mark that covers it. All frames that leave go through one queue and one
 * place, which asks immediately before each write; none is left to the runtime to write later.
 *
 * Modes:
 * - `open`: declared unprotected; frames leave as they come.
 * - `holding`: frames wait; those up to a released mark leave while `mayWrite()` says yes.
 * - `closed`: this node must not be heard; what it holds and what comes is dropped.
 *
 * Invariants: frames leave in the order they came; while holding, none beyond the mark of the
 * highest released epoch leaves, and none after `mayWrite()` said no until it says yes again.
 *
 * It does not know promises or epochs' contents, and keeps no timer: `pump()` is called by the
 * engine when a promise was extended, and by the outlet when it is ready again. That output waits for
 * an epoch that is not marked yet is told once an epoch, by `onWaiting`.
 */
import { assert } from '../base/assert.ts';
import { Histogram } from '../base/histogram.ts';
import type { NetCounters, NetOutlet } from './net.ts';

export type GateMode = 'open' | 'holding' | 'closed';

/** Held at most, unless told otherwise; above, new frames are dropped as a NIC would. */
export const HELD_BYTES_MAX: number = 64 * 1024 * 1024;
export const HELD_FRAMES_MAX = 65536;
/** Marks kept apart at most; beyond, the newest two become one, which releases later, never earlier. */
export const MARKS_MAX = 65536;

export interface OutputGateOptions {
  readonly outlet: NetOutlet;
  /** Milliseconds, monotonic: for the delay figures only. */
  readonly nowMs: () => number;
  readonly mode: GateMode;
  readonly heldBytesMax?: number;
  readonly heldFramesMax?: number;
}

interface HeldFrame {
  /** Number of the frame since the gate was made, from 1. */
  readonly index: number;
  readonly frame: Buffer;
  /** The machine's NIC that said it, from 0. */
  readonly port: number;
  readonly receivedAtMs: number;
}

interface Mark {
  readonly epoch: number;
  readonly throughIndex: number;
}

/** Holds, releases, drops and counts the machine's frames. */
export class OutputGate {
  /** How long frames that were held waited in the gate, milliseconds. */
  readonly delayMs = new Histogram();
  readonly #outlet: NetOutlet;
  readonly #nowMs: () => number;
  readonly #heldBytesMax: number;
  readonly #heldFramesMax: number;
  #mode: GateMode;
  #held: HeldFrame[] = [];
  #heldFirst = 0;
  #heldBytes = 0;
  #marks: Mark[] = [];
  /** Index of the last frame received before the machine's socket was last connected. */
  #connectionBase = 0;
  #received = 0;
  #releasedThroughEpoch = 0;
  #releasedThroughIndex = 0;
  #mayWrite: () => boolean = () => false;
  #pumping = false;
  #onWaiting: (() => void) | null = null;
  /** Whether it was told that output waits for the next mark. */
  #isWaitingTold = false;
  #framesReleased = 0;
  #framesDroppedClosed = 0;
  #framesDroppedFull = 0;

  constructor(options: OutputGateOptions) {
    this.#outlet = options.outlet;
    this.#nowMs = options.nowMs;
    this.#mode = options.mode;
    this.#heldBytesMax = options.heldBytesMax ?? HELD_BYTES_MAX;
    this.#heldFramesMax = options.heldFramesMax ?? HELD_FRAMES_MAX;
    this.#outlet.onReady(() => {
      this.pump();
    });
  }

  get mode(): GateMode {
    return this.#mode;
  }

  /** Whether a frame is held that no mark covers. */
  get isWaiting(): boolean {
    const newest = this.#held.at(-1);
    const markedThrough = this.#marks.at(-1)?.throughIndex ?? this.#releasedThroughIndex;
    return this.#mode === 'holding' && newest !== undefined && newest.index > markedThrough;
  }

  /** Frames since the machine's net socket was last connected, dropped ones included. */
  get framesReceived(): number {
    return this.#received - this.#connectionBase;
  }

  get counters(): NetCounters {
    return {
      framesReceived: this.framesReceived,
      framesHeld: this.#heldCount,
      bytesHeld: this.#heldBytes,
      framesReleased: this.#framesReleased,
      framesDroppedClosed: this.#framesDroppedClosed,
      framesDroppedFull: this.#framesDroppedFull,
    };
  }

  /**
   * The one listener for output that waits for an epoch not marked yet: called when the first such
   * frame is held, once until the next mark; within `receive`, or within `mark` for a frame that came
   * before the mark did. Null: nobody is told.
   */
  onWaiting(listener: (() => void) | null): void {
    this.#onWaiting = listener;
  }

  /**
   * Takes one frame from the machine's NIC `port`, its length in front. Never refuses, never waits.
   */
  receive(frame: Buffer, port = 0): void {
    this.#received += 1;
    if (this.#mode === 'closed') {
      this.#framesDroppedClosed += 1;
      return;
    }
    if (
      this.#heldCount >= this.#heldFramesMax ||
      this.#heldBytes + frame.byteLength > this.#heldBytesMax
    ) {
      this.#framesDroppedFull += 1;
      return;
    }
    this.#held.push({ index: this.#received, frame, port, receivedAtMs: this.#nowMs() });
    this.#heldBytes += frame.byteLength;
    this.pump();
    this.#tellWaiting();
  }

  /**
   * So many frames were said by the machine and dropped on their way here, by who had no room for
   * them: they are counted in their place, so that the machine's own counts stay in step.
   */
  lost(frameCount: number): void {
    this.#received += frameCount;
    this.#framesDroppedFull += frameCount;
  }

  /**
   * The machine's net socket was connected (again): its counts start from 0. What was announced
   * on the old connection and never came will not come, so old marks end with what did come.
   */
  machineConnected(): void {
    this.#marks = this.#marks.map((mark) => ({
      epoch: mark.epoch,
      throughIndex: Math.min(mark.throughIndex, this.#received),
    }));
    this.#releasedThroughIndex = Math.min(this.#releasedThroughIndex, this.#received);
    this.#connectionBase = this.#received;
  }

  /**
   * The frames with a count up to `framesSent` belong to `epoch` or one before it. Only of
   * interest while holding.
   */
  mark(epoch: number, framesSent: number): void {
    if (this.#mode !== 'holding') return;
    assert(Number.isSafeInteger(framesSent) && framesSent >= 0, `bad frame count: ${framesSent}`);
    const last = this.#marks.at(-1);
    const throughIndex = this.#connectionBase + framesSent;
    assert(epoch > this.#releasedThroughEpoch, `epoch ${epoch} is marked after its release`);
    assert(last === undefined || epoch > last.epoch, `epoch ${epoch} is marked out of order`);
    assert(
      last === undefined || throughIndex >= last.throughIndex,
      `the mark of epoch ${epoch} lies before that of epoch ${last?.epoch}`,
    );
    if (this.#marks.length >= MARKS_MAX) this.#marks.pop();
    this.#marks.push({ epoch, throughIndex });
    this.#isWaitingTold = false;
    this.#tellWaiting();
  }

  /**
   * Lets the frames of all epochs up to `throughEpoch` leave, as far as `mayWrite` allows; it is
   * asked immediately before every single write, now and on later pumps. Gives the number of
   * frames that left now. Frames not let out stay held.
   */
  release(throughEpoch: number, mayWrite: () => boolean): number {
    this.#mayWrite = mayWrite;
    let count = 0;
    for (const mark of this.#marks) {
      if (mark.epoch > throughEpoch) break;
      this.#releasedThroughEpoch = mark.epoch;
      this.#releasedThroughIndex = mark.throughIndex;
      count += 1;
    }
    if (count > 0) this.#marks.splice(0, count);
    return this.pump();
  }

  /**
   * Frames wait from now on. To be called *before* the machine is suspended for the first epoch
   * that is to be held: what came until now was let out alone. If the outlet was not ready for
   * some of it, that leaves at the next release, under the same check as everything held.
   */
  hold(): void {
    // Said again while holding, it takes back a release that had no end in time.
    this.#mayWrite = (): boolean => false;
    if (this.#mode === 'open') this.#releasedThroughIndex = this.#received;
    if (this.#mode !== 'holding') this.#isWaitingTold = false;
    this.#mode = 'holding';
  }

  /** Everything held leaves, and what comes passes: declared unprotected, or alone by right. */
  open(): number {
    this.#mode = 'open';
    this.#marks = [];
    return this.pump();
  }

  /** This node must not be heard any more: what is held is dropped. */
  close(): void {
    this.#mode = 'closed';
    this.discard();
    this.#mayWrite = (): boolean => false;
  }

  /** Drops what is held: the way on which it could have left is gone. */
  discard(): void {
    this.#framesDroppedClosed += this.#heldCount;
    this.#held = [];
    this.#heldFirst = 0;
    this.#heldBytes = 0;
    this.#marks = [];
  }

  /** Tries again what may leave and has not left. Gives the number of frames that left. */
  pump(): number {
    // An outlet may report readiness from within a write; the outer loop goes on anyway.
    if (this.#pumping) return 0;
    this.#pumping = true;
    try {
      return this.#writeAllowed();
    } finally {
      this.#pumping = false;
    }
  }

  #writeAllowed(): number {
    let written = 0;
    for (;;) {
      const next = this.#held[this.#heldFirst];
      if (next === undefined || this.#mode === 'closed') break;
      if (this.#mode === 'holding' && next.index > this.#releasedThroughIndex) break;
      if (!this.#outlet.ready) break;
      // Nothing may come between this question and the write.
      if (this.#mode === 'holding' && !this.#mayWrite()) break;
      this.#outlet.write(next.frame, next.port);
      this.#drop(next);
      this.#framesReleased += 1;
      written += 1;
      // What passes an open gate would only hide how long held output waits.
      if (this.#mode === 'holding') this.delayMs.record(this.#nowMs() - next.receivedAtMs);
    }
    return written;
  }

  /** Tells, once until the next mark, that a frame is held that no mark covers. */
  #tellWaiting(): void {
    if (this.#isWaitingTold || !this.isWaiting) return;
    this.#isWaitingTold = true;
    this.#onWaiting?.();
  }

  get #heldCount(): number {
    return this.#held.length - this.#heldFirst;
  }

  #drop(first: HeldFrame): void {
    // Moving the start costs nothing; the array is cut only when half of it is past.
    this.#heldFirst += 1;
    this.#heldBytes -= first.frame.byteLength;
    if (this.#heldFirst === this.#held.length) {
      this.#held = [];
      this.#heldFirst = 0;
    } else if (this.#heldFirst > 1024 && this.#heldFirst * 2 > this.#held.length) {
      this.#held = this.#held.slice(this.#heldFirst);
      this.#heldFirst = 0;
    }
  }
}
