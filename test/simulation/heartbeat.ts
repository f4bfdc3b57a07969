/**
 * What both heartbeat threads share: the pace, and a verdict from silence, resets and mistakes.
 *
 * The detector is deliberately crude and accuses wrongly often: safety must not lean on it.
 */
import type { Process } from './process.ts';

export const HEARTBEAT_MS = 10;
const SILENCE_MS = 32;

export class ToyDetector {
  readonly #process: Process<never, never> | Process<{ kind: string }, { kind: string }>;
  readonly #tell: (verdict: 'dead' | 'alive', why: string) => void;
  #lastHeardMs: number;
  #isDead = false;
  #isToldDead = false;
  /** Nothing is suspected before it was heard once. */
  #isKnown = false;
  /** Until then no sign of life changes its mind, in local time. */
  #stubbornUntilMs = Number.NEGATIVE_INFINITY;

  constructor(
    process: Process<{ kind: string }, { kind: string }>,
    tell: (verdict: 'dead' | 'alive', why: string) => void,
  ) {
    this.#process = process;
    this.#tell = tell;
    this.#lastHeardMs = process.host.localNowMs();
    this.#watch();
  }

  heard(): void {
    this.#isKnown = true;
    this.#lastHeardMs = this.#process.host.localNowMs();
    if (!this.#isToldDead || this.#lastHeardMs < this.#stubbornUntilMs) return;
    this.#isDead = false;
    this.#isToldDead = false;
    this.#tell('alive', 'heard again');
  }

  /** A link came up: death is judged anew from now on, and told again if it comes to that. */
  renew(): void {
    this.#isDead = false;
    this.#isKnown = true;
    this.#stubbornUntilMs = Number.NEGATIVE_INFINITY;
    this.#lastHeardMs = this.#process.host.localNowMs();
  }

  /** The connection was reset, or some signal is mistaken, and stays so for a while. */
  accuse(why: string, stubbornMs = 0): void {
    const untilMs = this.#process.host.localNowMs() + stubbornMs;
    this.#stubbornUntilMs = Math.max(this.#stubbornUntilMs, untilMs);
    if (this.#isDead || !this.#isKnown) return;
    this.#isDead = true;
    this.#isToldDead = true;
    this.#tell('dead', why);
  }

  #watch(): void {
    this.#process.later(HEARTBEAT_MS, () => {
      if (this.#process.host.localNowMs() - this.#lastHeardMs > SILENCE_MS) this.accuse('silence');
      this.#watch();
    });
  }
}
