/**
 * Notices that heartbeats do not come through although the nodes work together, as when a firewall
 * lets the link pass and not them. The link alone finds a death as well, but seconds late.
 */
import { RomulusError } from '../base/errors.ts';
import type { NodeStatus } from './status.ts';

/** Heartbeats may be missing for so long before it is told. */
const MISSING_MS = 3000;
/** With long intervals, for so many of them. */
const MISSING_INTERVALS = 10;
/** States in which the other node is expected to be heard. */
const PAIRED: ReadonlySet<string> = new Set(['protected', 'backlogged', 'following']);

export class HeartbeatAlarm {
  readonly #afterMs: number;
  /** Since when they are expected; null: they are not. */
  #expectedSinceMs: number | null = null;
  #isRaised = false;

  constructor(intervalMs: number) {
    this.#afterMs = Math.max(MISSING_MS, MISSING_INTERVALS * intervalMs);
  }

  /** What is to be told now: that they are missing, that they came back, or nothing. */
  note(
    { state, peer, heartbeatAgeMs }: Pick<NodeStatus, 'state' | 'peer' | 'heartbeatAgeMs'>,
    nowMs: number,
  ): RomulusError | 'back' | null {
    if (!PAIRED.has(state) || peer?.connected !== true) {
      this.#expectedSinceMs = null;
      this.#isRaised = false;
      return null;
    }
    this.#expectedSinceMs ??= nowMs;
    const missingMs = Math.min(
      nowMs - this.#expectedSinceMs,
      heartbeatAgeMs ?? Number.POSITIVE_INFINITY,
    );
    const isMissing = missingMs > this.#afterMs;
    if (isMissing === this.#isRaised) return null;
    this.#isRaised = isMissing;
    return isMissing ? missingError(missingMs) : 'back';
  }
}

function missingError(missingMs: number): RomulusError {
  return new RomulusError(
    'ERR_TRANSPORT_NO_HEARTBEATS',
    `no heartbeat of the other node for ${Math.round(missingMs)} ms, though the link to it works: its death would be found seconds late`,
    {
      remedy:
        "Let TCP through to the primary's heartbeat port; choose it with --heartbeat-listen, and say how it is reached with --peer-heartbeat.",
      details: { missingMs: Math.round(missingMs) },
    },
  );
}
