/**
 * The output gate of a primary: open, holding, or closed. A frame is written only after a look at
 * the clock in the same instant, and what was not written stays.
 */
import type { Checks } from './checks.ts';
import type { Frame } from './toy-guest.ts';

export class ToyGate {
  readonly attachmentId: number;
  readonly #instance: string;
  readonly #checks: Checks;
  /** The gate's own look at the clock, and at the heartbeat thread's word. */
  readonly #mayWrite: (untilMs: number) => boolean;
  /** Told of every frame that must wait, and more often than the engine would: that must do no harm. */
  onWaiting: () => void = () => undefined;
  #mode: 'open' | 'hold' | 'closed' = 'hold';
  #held: Frame[] = [];
  #framesThrough = 0;
  #untilMs = Number.NEGATIVE_INFINITY;

  constructor(options: {
    readonly attachmentId: number;
    readonly instance: string;
    readonly checks: Checks;
    readonly mayWrite: (untilMs: number) => boolean;
  }) {
    this.attachmentId = options.attachmentId;
    this.#instance = options.instance;
    this.#checks = options.checks;
    this.#mayWrite = options.mayWrite;
  }

  get isOpen(): boolean {
    return this.#mode === 'open';
  }

  frame(frame: Frame): void {
    if (this.#mode === 'closed') return;
    this.#held.push(frame);
    this.pump();
    if (this.holdsBeyond(this.#framesThrough)) this.onWaiting();
  }

  /** Whether a frame is held that the boundary does not cover. */
  holdsBeyond(framesThrough: number): boolean {
    return this.#mode === 'hold' && (this.#held.at(-1)?.index ?? 0) > framesThrough;
  }

  open(): void {
    this.#mode = 'open';
    this.pump();
  }

  hold(): void {
    this.#mode = 'hold';
    this.#framesThrough = 0;
  }

  close(): void {
    this.#mode = 'closed';
    this.#held = [];
  }

  release(framesThrough: number, untilMs: number): void {
    this.#framesThrough = framesThrough;
    this.#untilMs = untilMs;
    this.pump();
  }

  /** Writes what may be written now. */
  pump(): void {
    let frame = this.#held[0];
    while (frame !== undefined) {
      const mayLeave =
        this.#mode === 'open' ||
        (frame.index <= this.#framesThrough && this.#mayWrite(this.#untilMs));
      if (!mayLeave) return;
      this.#held.shift();
      this.#checks.heard(this.#instance, this.attachmentId, frame);
      frame = this.#held[0];
    }
  }
}
