/**
 * A log-linear histogram with bounded memory (the idea of HdrHistogram, Tene 2012): values below
 * 64 units fall into buckets one unit wide, above that every doubling is cut into 64 equal
 * buckets. A quantile is therefore never more than 1/64 (1.6 %) above the true value, whatever
 * the range, and recording costs one increment.
 *
 * The unit is `resolution`: 0.001 for values in milliseconds counts in microseconds. It keeps no
 * time window: whoever wants "the last minute" resets it each minute.
 */
import { assert } from './assert.ts';

const SUB_BUCKETS = 64;
const SUB_BUCKET_BITS = 6;
/** 2^46 units: with microseconds more than two years. Larger values count as that. */
const DOUBLINGS = 40;
const BUCKET_COUNT = SUB_BUCKETS * (DOUBLINGS + 1);
const SCALED_MAX = 2 ** (SUB_BUCKET_BITS + DOUBLINGS) - 1;

/** The figures that status and reports show; 0 everywhere when nothing was recorded. */
export interface HistogramSummary {
  readonly count: number;
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

/** Counts values and answers quantiles with a relative error of at most 1/64. */
export class Histogram {
  readonly resolution: number;
  readonly #buckets = new Float64Array(BUCKET_COUNT);
  #count = 0;
  #sum = 0;
  #max = 0;

  /** @param options.resolution the smallest difference worth telling apart, in the value's unit. */
  constructor(options: { resolution?: number } = {}) {
    this.resolution = options.resolution ?? 0.001;
    assert(this.resolution > 0, 'a histogram needs a resolution above zero');
  }

  /** Number of values recorded since the last reset. */
  get count(): number {
    return this.#count;
  }

  /** The largest value recorded, exactly; 0 when there is none. */
  get max(): number {
    return this.#max;
  }

  /** The arithmetic mean, exactly; 0 when there is none. */
  get mean(): number {
    return this.#count === 0 ? 0 : this.#sum / this.#count;
  }

  /** Counts one value; what is negative (clock noise) counts as 0. */
  record(value: number): void {
    assert(!Number.isNaN(value), 'a histogram cannot record NaN');
    const bounded = Math.max(0, value);
    const index = bucketOf(Math.floor(bounded / this.resolution));
    this.#buckets[index] = (this.#buckets[index] ?? 0) + 1;
    this.#count += 1;
    this.#sum += bounded;
    if (bounded > this.#max) this.#max = bounded;
  }

  /**
   * The value that a share `q` of all records does not exceed, rounded up to its bucket's end.
   * 0 when nothing was recorded.
   */
  quantile(q: number): number {
    assert(q >= 0 && q <= 1, `a quantile is between 0 and 1: ${q}`);
    if (this.#count === 0) return 0;
    const rank = Math.max(1, Math.ceil(q * this.#count));
    let seen = 0;
    for (let index = 0; index < BUCKET_COUNT; index += 1) {
      seen += this.#buckets[index] ?? 0;
      if (seen >= rank) return Math.min(this.#max, bucketEnd(index) * this.resolution);
    }
    return this.#max;
  }

  /** Count, median, 99th percentile and maximum in one object. */
  summary(): HistogramSummary {
    return {
      count: this.#count,
      p50: this.quantile(0.5),
      p99: this.quantile(0.99),
      max: this.#max,
    };
  }

  /** Forgets everything. */
  reset(): void {
    this.#buckets.fill(0);
    this.#count = 0;
    this.#sum = 0;
    this.#max = 0;
  }
}

function bucketOf(scaledValue: number): number {
  const scaled = Math.min(scaledValue, SCALED_MAX);
  if (scaled < SUB_BUCKETS) return scaled;
  const doubling = Math.floor(Math.log2(scaled)) - SUB_BUCKET_BITS;
  // log2 may round up just below a power of two; the division then says so.
  const shift = scaled < 2 ** (doubling + SUB_BUCKET_BITS) ? doubling - 1 : doubling;
  const within = Math.floor(scaled / 2 ** shift) - SUB_BUCKETS;
  return SUB_BUCKETS * (shift + 1) + within;
}

function bucketEnd(index: number): number {
  if (index < SUB_BUCKETS) return index + 1;
  const shift = Math.floor(index / SUB_BUCKETS) - 1;
  const within = index % SUB_BUCKETS;
  return (SUB_BUCKETS + within + 1) * 2 ** shift;
}
