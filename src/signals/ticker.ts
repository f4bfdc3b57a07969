/**
 * A steady beat that knows when it should have come. The detector is told both instants, to tell
 * the peer's silence from its own standstill.
 */
import { monotonicMs } from './promise-words.ts';

/** Calls back at multiples of a period until stopped; late beats are not made up for. */
export class Ticker {
  readonly #periodMs: number;
  readonly #tick: (expectedAtMs: number, actualAtMs: number) => void;
  #expectedAtMs: number;
  #timer: NodeJS.Timeout | null = null;

  constructor(periodMs: number, tick: (expectedAtMs: number, actualAtMs: number) => void) {
    this.#periodMs = periodMs;
    this.#tick = tick;
    this.#expectedAtMs = monotonicMs() + periodMs;
    this.#schedule(periodMs);
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #schedule(delayMs: number): void {
    this.#timer = setTimeout(() => {
      this.#beat();
    }, delayMs);
  }

  #beat(): void {
    const actualAtMs = monotonicMs();
    const expectedAtMs = this.#expectedAtMs;
    // From the instant that was due, so that the timer's own lag does not add up; but after a
    // standstill from now, or a burst of beats would follow.
    const nextAtMs = expectedAtMs + this.#periodMs;
    this.#expectedAtMs = nextAtMs > actualAtMs ? nextAtMs : actualAtMs + this.#periodMs;
    this.#schedule(this.#expectedAtMs - actualAtMs);
    this.#tick(expectedAtMs, actualAtMs);
  }
}
