/**
 * Collects what one step of a state machine wants done, in order, and keeps its one alarm.
 *
 * An alarm is asked for again only when its time changed, or when a timer event has used it up.
 */
interface WakeAt {
  readonly kind: 'wakeAt';
  readonly atMs: number | null;
}

export class Outbox<Effect extends { readonly kind: string }> {
  #effects: (Effect | WakeAt)[] = [];
  #wakeAtMs: number | null = null;

  /** Begins a step; `isTimer` when the alarm that was set has gone off. */
  begin(isTimer: boolean): void {
    this.#effects = [];
    if (isTimer) this.#wakeAtMs = null;
  }

  emit(...effects: readonly Effect[]): void {
    this.#effects.push(...effects);
  }

  /** Ends the step with the alarm set to the earliest deadline; nulls are none. */
  end(deadlinesMs: readonly (number | null)[], nowMs: number): readonly (Effect | WakeAt)[] {
    let atMs: number | null = null;
    for (const deadlineMs of deadlinesMs) {
      if (deadlineMs !== null && (atMs === null || deadlineMs < atMs)) atMs = deadlineMs;
    }
    if (atMs !== null) atMs = Math.max(atMs, nowMs);
    if (atMs !== this.#wakeAtMs) {
      this.#wakeAtMs = atMs;
      this.#effects.push({ kind: 'wakeAt', atMs });
    }
    return this.#effects;
  }
}
