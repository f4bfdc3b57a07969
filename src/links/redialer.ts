/**
 * Keeps a link to the primary: dials, waits longer after each failure, and dials again when a link
 * ends. The jitter comes from a seeded generator, so that a test sees the same delays every time
 * and two backups do not dial in step.
 */
import { toRomulusError, type RomulusError } from '../base/errors.ts';
import type { Prng } from '../base/prng.ts';
import type { Link, LinkEndKind } from './link.ts';
import { linkEndKindOf } from './ws.ts';

/** Bounds of the delay between attempts. */
export interface Backoff {
  /** Delay after the first failure; doubles with each. */
  readonly firstMs: number;
  /** Longest delay. */
  readonly maxMs: number;
}

export const DEFAULT_BACKOFF: Backoff = { firstMs: 20, maxMs: 2000 };

/** A link that lived this long was no refusal: the next delay starts small again. */
const GOOD_LINK_MS = 50;

/** Why there is no link, and for how long there will be no attempt. */
export interface LinkDown {
  readonly kind: LinkEndKind;
  readonly text: string;
  readonly error: RomulusError | null;
  /** Failures in a row, this one counted; 0 when a link ended. */
  readonly failures: number;
  readonly nextDialMs: number;
}

export interface RedialerOptions {
  readonly dial: (signal: AbortSignal) => Promise<Link>;
  readonly prng: Prng;
  readonly backoff?: Backoff;
  /** The next attempt does not come earlier than this, whatever the back-off says. */
  readonly delayMsMin?: () => number;
  /** A new link; its listeners are to be set before returning. */
  readonly onLink: (link: Link) => void;
  /** A link ended or an attempt failed: evidence for the failure detector. */
  readonly onDown: (down: LinkDown) => void;
}

export class Redialer {
  readonly #options: RedialerOptions;
  readonly #backoff: Backoff;
  readonly #abort = new AbortController();
  #link: Link | undefined;
  #isDialling = false;
  #failures = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: RedialerOptions) {
    this.#options = options;
    this.#backoff = options.backoff ?? DEFAULT_BACKOFF;
  }

  /** The link there is, if any. */
  get link(): Link | undefined {
    return this.#link;
  }

  /** Dials now, whatever delay was running; does nothing while there is a link or an attempt. */
  redialNow(): void {
    if (this.#abort.signal.aborted || this.#isDialling || this.#link !== undefined) return;
    clearTimeout(this.#timer);
    this.#isDialling = true;
    this.#options.dial(this.#abort.signal).then(
      (link) => this.#linked(link),
      (error: unknown) => this.#failed(toRomulusError(error)),
    );
  }

  /** No more attempts; the link there is, is closed. Idempotent. */
  stop(): void {
    this.#abort.abort();
    clearTimeout(this.#timer);
    this.#link?.close();
  }

  #linked(link: Link): void {
    this.#isDialling = false;
    if (this.#abort.signal.aborted) {
      link.destroy();
      return;
    }
    this.#link = link;
    const startedAtMs = performance.now();
    link.onClose((end) => {
      this.#link = undefined;
      if (performance.now() - startedAtMs >= GOOD_LINK_MS) this.#failures = 0;
      this.#down(end.kind, end.text, end.error, 0);
    });
    this.#options.onLink(link);
  }

  #failed(error: RomulusError): void {
    this.#isDialling = false;
    this.#down(linkEndKindOf(error), error.message, error, this.#failures + 1);
  }

  #down(kind: LinkEndKind, text: string, error: RomulusError | null, failures: number): void {
    if (this.#abort.signal.aborted) return;
    const { firstMs, maxMs } = this.#backoff;
    const fullMs = Math.min(maxMs, firstMs * 2 ** this.#failures);
    // Between half and all of it.
    const jitteredMs = fullMs * (0.5 + this.#options.prng.nextFloat() / 2);
    const nextDialMs = Math.max(jitteredMs, this.#options.delayMsMin?.() ?? 0);
    this.#failures += 1;
    this.#timer = setTimeout(() => this.redialNow(), nextDialMs);
    this.#options.onDown({ kind, text, error, failures, nextDialMs });
  }
}
