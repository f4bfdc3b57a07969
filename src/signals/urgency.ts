/**
 * Whether the heartbeat thread needs real-time priority just now. On a host with CPU to spare it
 * does not, and there it costs: Linux wakes a real-time thread where it ran last, even where the
 * machine runs and another CPU is idle, so a guest waited 7 to 8 % of its time for heartbeats.
 */

/**
 * Running this late, an ordinary thread of best niceness is no longer served soon enough. Well below
 * the silence that a verdict takes (80 ms); 8 ms was seen on a host that was merely in use.
 */
export const LATE_MS = 25;
/** For how long the host counts as saturated after the last time that was late. */
export const CALM_MS = 10_000;

/** Saturated until shown otherwise: a thread that begins on a busy host must not learn it the hard way. */
export class Urgency {
  #lateAtMs: number;

  constructor(startedAtMs: number) {
    this.#lateAtMs = startedAtMs;
  }

  /** Counts as late now, whatever the ticks say. */
  urge(nowMs: number): void {
    this.#lateAtMs = Math.max(this.#lateAtMs, nowMs);
  }

  /** @returns whether real-time priority is called for, now that a tick came when it did. */
  ticked(expectedAtMs: number, actualAtMs: number): boolean {
    if (actualAtMs - expectedAtMs >= LATE_MS) this.urge(actualAtMs);
    return actualAtMs - this.#lateAtMs < CALM_MS;
  }
}

/** What is done to threads: `boost` and `ease` say whether they could. */
export interface PriorityActs {
  readonly boost: () => boolean;
  readonly ease: () => boolean;
  /** Whether somebody else boosted since this was asked last. */
  readonly wasCalledUp: () => boolean;
}

/**
 * Follows the host: real-time priority while it is saturated, an ordinary one else. Begins boosted, and
 * does no more once something could not be done.
 */
export class PriorityKeeper {
  readonly #urgency: Urgency;
  readonly #acts: PriorityActs;
  #canChange: boolean;
  #isBoosted = true;

  constructor(options: {
    readonly acts: PriorityActs;
    readonly startedAtMs: number;
    readonly isBoosted: boolean;
  }) {
    this.#acts = options.acts;
    this.#urgency = new Urgency(options.startedAtMs);
    this.#canChange = options.isBoosted;
  }

  /** Boosts at once, and for a while. */
  urge(nowMs: number): void {
    this.#urgency.urge(nowMs);
    this.#follow(true);
  }

  /** A tick that was due then came now. */
  ticked(expectedAtMs: number, actualAtMs: number): void {
    if (!this.#canChange) return;
    if (this.#acts.wasCalledUp()) this.#urgency.urge(actualAtMs);
    this.#follow(this.#urgency.ticked(expectedAtMs, actualAtMs));
  }

  #follow(isUrgent: boolean): void {
    if (!this.#canChange || isUrgent === this.#isBoosted) return;
    this.#isBoosted = isUrgent;
    this.#canChange = isUrgent ? this.#acts.boost() : this.#acts.ease();
  }
}
