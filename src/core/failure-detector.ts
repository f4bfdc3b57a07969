/**
 * How suspicious a silence is: the phi-accrual failure detector (Hayashibara, Defago, Yared,
 * Katayama: "The phi accrual failure detector", SRDS 2004) over the arrival times of heartbeats,
 * damped by the observer's own health (Dadgar, Phillips, Currey: "Lifeguard: local health
 * awareness for more accurate failure detection", 2018).
 *
 * phi = -log10 of the chance that a living peer stays silent at least this long, from the mean and
 * the deviation of recent intervals. phi 8 says: wrong once in 10^8 such judgements, if the past
 * is any guide. It is not when a machine becomes loaded all at once, hence a lower bound on the
 * deviation and an acceptable pause on top of the mean.
 *
 * The observer reports, at each of its ticks, how late it ran. Time during which it did not run
 * is no silence of the peer's: it is taken off. And who was late just now will be late again:
 * recent lateness stretches the tolerance, up to a bound, and fades.
 *
 * Hosts that share their processors stand still together or one by one, for a tenth of a second and
 * time and again. The longest standstill of late, the observer's own or a silence of the peer's that
 * ended, is remembered for a minute or so, and half as much again is tolerated: where nothing stands
 * still a dead peer is still found at once, and where all does nobody is accused for it.
 *
 * Pure: milliseconds of one monotonic clock come in as arguments. It concludes nothing; the
 * verdict (verdict.ts) weighs its figure against the other signals.
 */
import { assert } from '../base/assert.ts';

export interface FailureDetectorOptions {
  /** How often the peer sends, as agreed. */
  readonly intervalMs: number;
  /** How many intervals the statistics look back on. */
  readonly windowCount?: number;
  /** Floor of the deviation: a quiet loopback must not make one late packet look like death. */
  readonly deviationMsMin?: number;
  /** Silence that is tolerated on top of the mean interval. */
  readonly acceptablePauseMs?: number;
  /** A silence of this phi was an outage: it is not learnt from when it ends. */
  readonly outagePhi?: number;
  /** The most that the observer's own lateness may stretch the tolerance. */
  readonly stretchMsMax?: number;
  /** Lateness up to this is what timers are like, and not a sign of ill health. */
  readonly latenessSlackMs?: number;
  /** Tolerated on top of all before the first heartbeat: the peer's thread is still starting. */
  readonly startGraceMs?: number;
  /** After this long half of a stretch has faded. */
  readonly stretchHalfLifeMs?: number;
  /** The longest standstill that is remembered; a silence of many times that was an outage. */
  readonly standstillMsMax?: number;
  /** After this long a standstill is remembered as half as long. */
  readonly standstillHalfLifeMs?: number;
}

/** What the detector thinks at one instant. */
export interface Suspicion {
  readonly phi: number;
  /** Since the last sign of life, less the time during which the observer did not run. */
  readonly silentMs: number;
  /** The part of the time since the last sign of life in which the observer itself stood still. */
  readonly discountedMs: number;
  /** How much the tolerance is stretched at present. */
  readonly stretchMs: number;
  /** The longest standstill of late, as far as it is remembered. */
  readonly standstillMs: number;
}

/** What came between a heartbeat and the one before it. */
export interface HeardInterval {
  readonly intervalMs: number;
  /**
   * So long, less what the observer itself stood still, that a detector would have called it an outage that
   * has seen neither standstills nor irregular heartbeats, and tolerates nothing for their sake.
   */
  readonly isLate: boolean;
}

export const DETECTOR_DEFAULTS = {
  windowCount: 256,
  outagePhi: 4,
  /** The acceptable pause, in intervals: 45 ms at the default heartbeat, longer than hosts stall. */
  acceptableIntervals: 4.5,
  stretchMsMax: 150,
  latenessSlackMs: 2,
  startGraceMs: 5000,
  stretchHalfLifeMs: 400,
  /** In intervals: 200 ms at the default heartbeat, so that 300 ms of silence are the most tolerated. */
  standstillIntervalsMax: 20,
  standstillHalfLifeMs: 30_000,
} as const;
/** How much of the longest standstill is tolerated: the next one may be longer. */
const STANDSTILL_FACTOR = 1.5;
/** A silence this many times the longest standstill that is remembered is no standstill of a host's. */
const OUTAGE_STANDSTILLS = 5;
/** What is left of something that has faded below this is nothing. */
const FADED_MS = 0.1;

interface Statistics {
  readonly meanMs: number;
  readonly deviationMs: number;
}

const NOT_SUSPICIOUS: Suspicion = {
  phi: 0,
  silentMs: 0,
  discountedMs: 0,
  stretchMs: 0,
  standstillMs: 0,
};

/** The greatest of late: fades by halves, and is taken up again by what is greater. */
class FadingMax {
  readonly #max: number;
  readonly #halfLifeMs: number;
  #value = 0;
  #setAtMs = 0;

  constructor(options: { readonly max: number; readonly halfLifeMs: number }) {
    this.#max = options.max;
    this.#halfLifeMs = options.halfLifeMs;
  }

  raise(value: number, atMs: number): void {
    this.#value = Math.min(Math.max(this.at(atMs), value), this.#max);
    this.#setAtMs = atMs;
  }

  at(nowMs: number): number {
    const halfLives = Math.max(0, nowMs - this.#setAtMs) / this.#halfLifeMs;
    const value = this.#value * 2 ** -halfLives;
    return value < FADED_MS ? 0 : value;
  }
}

/** Phi-accrual over heartbeat arrivals, damped by the observer's own lateness. */
export class FailureDetector {
  readonly intervalMs: number;
  readonly #deviationMsMin: number;
  readonly #acceptablePauseMs: number;
  readonly #outagePhi: number;
  readonly #latenessSlackMs: number;
  readonly #startGraceMs: number;
  readonly #window: Float64Array;
  #windowCount = 0;
  #windowNext = 0;
  #lastHeartbeatMs: number | null = null;
  #lastLifeMs: number | null = null;
  /** Own standstill since the last sign of life, and since the last heartbeat. */
  #discountLifeMs = 0;
  #discountHeartbeatMs = 0;
  readonly #stretch: FadingMax;
  readonly #standstill: FadingMax;
  readonly #outageMs: number;
  /** Of the window; null when it changed since it was last asked for. */
  #known: Statistics | null = null;

  constructor(options: FailureDetectorOptions) {
    assert(options.intervalMs > 0, `heartbeat interval must be above zero: ${options.intervalMs}`);
    this.intervalMs = options.intervalMs;
    this.#deviationMsMin = options.deviationMsMin ?? options.intervalMs / 2;
    this.#acceptablePauseMs =
      options.acceptablePauseMs ?? options.intervalMs * DETECTOR_DEFAULTS.acceptableIntervals;
    this.#outagePhi = options.outagePhi ?? DETECTOR_DEFAULTS.outagePhi;
    this.#latenessSlackMs = options.latenessSlackMs ?? DETECTOR_DEFAULTS.latenessSlackMs;
    this.#stretch = new FadingMax({
      max: options.stretchMsMax ?? DETECTOR_DEFAULTS.stretchMsMax,
      halfLifeMs: options.stretchHalfLifeMs ?? DETECTOR_DEFAULTS.stretchHalfLifeMs,
    });
    const standstillMsMax =
      options.standstillMsMax ?? options.intervalMs * DETECTOR_DEFAULTS.standstillIntervalsMax;
    this.#outageMs = standstillMsMax * OUTAGE_STANDSTILLS;
    this.#standstill = new FadingMax({
      max: standstillMsMax,
      halfLifeMs: options.standstillHalfLifeMs ?? DETECTOR_DEFAULTS.standstillHalfLifeMs,
    });
    this.#startGraceMs = options.startGraceMs ?? DETECTOR_DEFAULTS.startGraceMs;
    this.#window = new Float64Array(options.windowCount ?? DETECTOR_DEFAULTS.windowCount);
    assert(this.#deviationMsMin > 0, 'the deviation needs a floor above zero');
    assert(this.#acceptablePauseMs >= 0, 'the acceptable pause cannot be negative');
    assert(this.#window.length >= 2, 'the window needs room for two intervals');
  }

  /** When the peer was last known to live; null before the first sign. */
  get lastLifeMs(): number | null {
    return this.#lastLifeMs;
  }

  /**
   * A heartbeat (or a reply to one) has arrived: a sign of life and a sample. Gives the interval that
   * it ended; null for the first.
   */
  heard(atMs: number): HeardInterval | null {
    let heard: HeardInterval | null = null;
    if (this.#lastHeartbeatMs !== null) {
      const elapsedMs = Math.max(0, atMs - this.#lastHeartbeatMs);
      const intervalMs = Math.max(0, elapsedMs - this.#discountHeartbeatMs);
      heard = { intervalMs: elapsedMs, isLate: this.#isLate(intervalMs) };
      // An outage that ended says nothing about ordinary intervals, and learnt as one it would
      // make the next outage harder to see.
      if (this.suspicion(atMs).phi < this.#outagePhi) this.#sample(intervalMs);
      this.#stoodStill(intervalMs - this.intervalMs, atMs);
    }
    this.#lastHeartbeatMs = atMs;
    this.#discountHeartbeatMs = 0;
    this.sign(atMs);
    return heard;
  }

  /** Another sign of life (traffic on the bulk link): ends the silence, is not a sample. */
  sign(atMs: number): void {
    if (this.#lastLifeMs !== null && atMs <= this.#lastLifeMs) return;
    this.#lastLifeMs = atMs;
    this.#discountLifeMs = 0;
  }

  /** The observer meant to run at `expectedAtMs` and ran at `actualAtMs`. */
  ticked(expectedAtMs: number, actualAtMs: number): void {
    const lateMs = actualAtMs - expectedAtMs;
    if (lateMs <= this.#latenessSlackMs) return;
    this.#discountHeartbeatMs += lateMs;
    // Only lateness after the last sign of life overlaps the silence it is taken from.
    if (this.#lastLifeMs !== null) {
      this.#discountLifeMs += Math.max(0, Math.min(lateMs, actualAtMs - this.#lastLifeMs));
    }
    this.#stretch.raise(lateMs, actualAtMs);
    this.#stoodStill(lateMs, actualAtMs);
  }

  /** How suspicious the silence is at `nowMs`. Nobody is accused before the first sign of life. */
  suspicion(nowMs: number): Suspicion {
    if (this.#lastLifeMs === null) return NOT_SUSPICIOUS;
    const elapsedMs = Math.max(0, nowMs - this.#lastLifeMs);
    const discountedMs = Math.min(this.#discountLifeMs, elapsedMs);
    const silentMs = elapsedMs - discountedMs;
    const stretchMs = this.#stretch.at(nowMs);
    const standstillMs = this.#standstill.at(nowMs);
    const { meanMs, deviationMs } = this.#statistics();
    const graceMs = this.#lastHeartbeatMs === null ? this.#startGraceMs : 0;
    const pauseMs = Math.max(this.#acceptablePauseMs + stretchMs, standstillMs * STANDSTILL_FACTOR);
    const toleratedMs = meanMs + pauseMs + graceMs;
    return {
      phi: phiOf((silentMs - toleratedMs) / deviationMs),
      silentMs,
      discountedMs,
      stretchMs,
      standstillMs,
    };
  }

  /** Forgets the peer but not the observer's own health: another peer is watched from now on. */
  forgetPeer(): void {
    this.#known = null;
    this.#windowCount = 0;
    this.#windowNext = 0;
    this.#lastHeartbeatMs = null;
    this.#lastLifeMs = null;
    this.#discountLifeMs = 0;
    this.#discountHeartbeatMs = 0;
  }

  #isLate(intervalMs: number): boolean {
    const excessMs = intervalMs - this.intervalMs - this.#acceptablePauseMs;
    return phiOf(excessMs / this.#deviationMsMin) >= this.#outagePhi;
  }

  #stoodStill(durationMs: number, atMs: number): void {
    if (durationMs < this.#outageMs) this.#standstill.raise(durationMs, atMs);
  }

  #sample(intervalMs: number): void {
    this.#window[this.#windowNext] = intervalMs;
    this.#windowNext = (this.#windowNext + 1) % this.#window.length;
    this.#windowCount = Math.min(this.#windowCount + 1, this.#window.length);
    this.#known = null;
  }

  #statistics(): Statistics {
    this.#known ??= this.#reckon();
    return this.#known;
  }

  #reckon(): Statistics {
    // Until there is a past to judge by, the agreed interval stands in for it.
    if (this.#windowCount < 2) {
      return { meanMs: this.intervalMs, deviationMs: this.#deviationMsMin };
    }
    let sum = 0;
    for (let index = 0; index < this.#windowCount; index += 1) sum += this.#window[index] ?? 0;
    const meanMs = sum / this.#windowCount;
    let squares = 0;
    for (let index = 0; index < this.#windowCount; index += 1) {
      squares += ((this.#window[index] ?? 0) - meanMs) ** 2;
    }
    return {
      // A burst after a stall lowers the mean; the peer still sends no more often than agreed.
      meanMs: Math.max(meanMs, this.intervalMs),
      deviationMs: Math.max(Math.sqrt(squares / this.#windowCount), this.#deviationMsMin),
    };
  }
}

/**
 * -log10 of the normal distribution's upper tail at `deviations`, by the logistic approximation
 * of Bowling et al. (2009), kept in logarithms so that it does not underflow far out.
 */
function phiOf(deviations: number): number {
  const exponent = deviations * (1.5976 + 0.070566 * deviations * deviations);
  // log10(1 + e^x): for large x that is x / ln 10, and e^x would overflow.
  if (exponent > 30) return exponent / Math.LN10;
  return Math.log1p(Math.exp(exponent)) / Math.LN10;
}
