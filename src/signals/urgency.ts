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

  /** @returns whether real-time priority is called for, now that a tick came when it did. */
  ticked(expectedAtMs: number, actualAtMs: number): boolean {
    if (actualAtMs - expectedAtMs >= LATE_MS) this.#lateAtMs = actualAtMs;
    return actualAtMs - this.#lateAtMs < CALM_MS;
  }
}
