/** One timer for one state machine: it always asks for the next time, and only that one counts. */
import { nowMs } from './clock.ts';

/** Beyond this a Node timer fires at once; a machine woken early just asks again. */
const TIMER_MS_MAX = 2 ** 31 - 1;

export class Wakeup {
  readonly #onTime: () => void;
  #timer: NodeJS.Timeout | null = null;

  constructor(onTime: () => void) {
    this.#onTime = onTime;
  }

  /** Replaces the time asked for before; null asks for none. */
  at(atMs: number | null): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    if (atMs === null) return;
    const delayMs = Math.min(Math.max(0, Math.ceil(atMs - nowMs())), TIMER_MS_MAX);
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#onTime();
    }, delayMs);
  }
}
