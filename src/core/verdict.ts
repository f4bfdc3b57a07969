/**
 * One door for everything that speaks for or against the peer's life, and the one verdict that
 * follows from it, with its reason in words.
 *
 * A signal accuses (strength > 0) or vouches (strength < 0). Accusations of different kinds add
 * up: 0.5 makes a suspect, 1 a dead peer. A connection that was reset, or a port that refuses at
 * once, comes from the peer's kernel and says that the process is gone: 0.5 each, so the two
 * together are enough at once. Silence alone says less and grows with phi, to 1 at the threshold.
 * A probe or a client's vote is one more signal with a source, a strength and, if its word does
 * not hold for ever, an expiry; nothing here needs to know it.
 *
 * A sign of life withdraws every accusation it contradicts: silence, and what was said earlier
 * about the same channel. Accusations about *other* channels it withdraws only when it is younger
 * by a grace, because bytes that a dead process sent are still read after its end.
 *
 * The verdict starts nothing. A wrong one costs a failed attempt at the register, never two
 * running copies. Pure: time is an argument.
 */
import { assert } from '../base/assert.ts';

/** Who says it. `probe` and `vote` come from outside the two nodes. */
export type SignalSource = 'heartbeat' | 'connection' | 'probe' | 'vote';

/** One piece of evidence about the peer. */
export interface Signal {
  readonly source: SignalSource;
  /** What it was observed on: `heartbeat`, `link`, or the name of a probe or voter. */
  readonly channel: string;
  /** Which sort of observation; of two with the same source, channel and kind the later counts. */
  readonly kind: string;
  /** From -1 (certainly alive) to 1 (certainly dead). */
  readonly strength: number;
  /** When it was observed, milliseconds of the observer's monotonic clock. */
  readonly atMs: number;
  /** The observation as a clause for people: "heartbeat connection reset". */
  readonly text: string;
  /** From then on it does not count any more. */
  readonly expiresAtMs?: number;
}

/**
 * `unknown`: never heard of. `alive`: nothing of weight against it. `suspect`: something is
 * wrong, not enough to act. `dead`: enough to ask the register.
 */
export type PeerState = 'unknown' | 'alive' | 'suspect' | 'dead';

export interface Verdict {
  readonly state: PeerState;
  /** The reason, as a clause that completes "the peer is dead: ...". */
  readonly why: string;
  /** What the reason is made of, oldest first. */
  readonly evidence: readonly Signal[];
  readonly atMs: number;
  /** When the peer was last known to live; null when never. */
  readonly lastLifeMs: number | null;
}

export const SUSPECT_STRENGTH = 0.5;
export const DEAD_STRENGTH = 1;
/** Accusations kept at most; the weakest gives way. */
export const EVIDENCE_COUNT_MAX = 32;
/** How much younger a sign of life must be to outweigh what another channel's end said. */
export const CROSS_CHANNEL_GRACE_MS = 25;
/** Sums of halves must not miss the limit by a rounding error. */
const STRENGTH_TOLERANCE = 1e-9;

/** Weighs signals and says when the verdict changes. */
export class VerdictMaker {
  readonly #graceMs: number;
  readonly #evidence = new Map<string, Signal>();
  #lastLifeMs: number | null = null;
  #verdict: Verdict = {
    state: 'unknown',
    why: 'not heard of yet',
    evidence: [],
    atMs: 0,
    lastLifeMs: null,
  };

  constructor(options: { crossChannelGraceMs?: number } = {}) {
    this.#graceMs = options.crossChannelGraceMs ?? CROSS_CHANNEL_GRACE_MS;
  }

  /** The verdict as it stands. */
  get current(): Verdict {
    return this.#verdict;
  }

  /** Takes one signal into account; the new verdict when its state changed, else null. */
  weigh(signal: Signal): Verdict | null {
    assert(Math.abs(signal.strength) <= 1, `strength outside -1..1: ${signal.strength}`);
    assert(Number.isFinite(signal.atMs), 'a signal needs an instant');
    const key = `${signal.source}/${signal.channel}/${signal.kind}`;
    if (signal.strength < 0) this.#vouch(signal);
    else if (signal.strength === 0) this.#evidence.delete(key);
    else this.#accuse(key, signal);
    return this.review(signal.atMs, signal);
  }

  /** Judges again without news: accusations may have expired. */
  review(nowMs: number, latest?: Signal): Verdict | null {
    for (const [key, signal] of this.#evidence) {
      if (signal.expiresAtMs !== undefined && signal.expiresAtMs <= nowMs) {
        this.#evidence.delete(key);
      }
    }
    const state = this.#judge();
    if (state === this.#verdict.state) return null;
    const evidence = [...this.#evidence.values()].sort((a, b) => a.atMs - b.atMs);
    this.#verdict = {
      state,
      why: this.#reason(state, evidence, latest),
      evidence,
      atMs: nowMs,
      lastLifeMs: this.#lastLifeMs,
    };
    return this.#verdict;
  }

  /** Forgets all: another peer is judged from now on. */
  forgetPeer(nowMs: number): void {
    this.#evidence.clear();
    this.#lastLifeMs = null;
    this.#verdict = {
      state: 'unknown',
      why: 'not heard of yet',
      evidence: [],
      atMs: nowMs,
      lastLifeMs: null,
    };
  }

  #vouch(life: Signal): void {
    this.#lastLifeMs = Math.max(this.#lastLifeMs ?? life.atMs, life.atMs);
    for (const [key, accusation] of this.#evidence) {
      const sameChannel = accusation.channel === life.channel || accusation.source === 'heartbeat';
      const graceMs = sameChannel ? 0 : this.#graceMs;
      if (life.atMs >= accusation.atMs + graceMs) this.#evidence.delete(key);
    }
  }

  #accuse(key: string, signal: Signal): void {
    this.#evidence.set(key, signal);
    if (this.#evidence.size <= EVIDENCE_COUNT_MAX) return;
    let weakestKey = key;
    let weakest = signal.strength;
    for (const [otherKey, other] of this.#evidence) {
      if (other.strength < weakest) {
        weakestKey = otherKey;
        weakest = other.strength;
      }
    }
    this.#evidence.delete(weakestKey);
  }

  #judge(): PeerState {
    // Before the first sign of life there is nobody to lose.
    if (this.#lastLifeMs === null) return 'unknown';
    let strength = 0;
    for (const signal of this.#evidence.values()) strength += signal.strength;
    if (strength >= DEAD_STRENGTH - STRENGTH_TOLERANCE) return 'dead';
    if (strength >= SUSPECT_STRENGTH - STRENGTH_TOLERANCE) return 'suspect';
    return 'alive';
  }

  #reason(state: PeerState, evidence: readonly Signal[], latest: Signal | undefined): string {
    if (state === 'alive') return latest?.text ?? 'nothing speaks against it any more';
    const clauses: string[] = [];
    let before: Signal | undefined;
    for (const signal of evidence) {
      const laterMs = before === undefined ? 0 : Math.round(signal.atMs - before.atMs);
      clauses.push(laterMs >= 1 ? `${signal.text} ${laterMs} ms later` : signal.text);
      before = signal;
    }
    return clauses.length === 0 ? 'nothing is known' : clauses.join(' and ');
  }
}
