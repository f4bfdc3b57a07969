/** The counts and spreads of a node, bounded in memory whatever it runs for. */
import { Histogram } from '../base/histogram.ts';
import type { CheckpointResult } from './capture-types.ts';
import type { Spread } from './status.ts';

/** A histogram that also remembers its last value. */
export class Meter {
  readonly #histogram = new Histogram();
  #last = 0;

  record(value: number): void {
    this.#last = value;
    this.#histogram.record(value);
  }

  /** Forgets the spread; the last value stays until the next. */
  reset(): void {
    this.#histogram.reset();
  }

  get spread(): Spread {
    return {
      last: this.#last,
      p50: this.#histogram.quantile(0.5),
      p99: this.#histogram.quantile(0.99),
      max: this.#histogram.max,
    };
  }
}

/** What a primary measures of its epochs. */
export class EpochMeters {
  readonly dirtyPages = new Meter();
  readonly pauseMs = new Meter();
  readonly stopMs = new Meter();
  readonly scanMs = new Meter();
  readonly copyMs = new Meter();
  /** How long the device state was waited for after the capture. */
  readonly stateMs = new Meter();
  readonly resumeMs = new Meter();
  readonly encodeMs = new Meter();
  /** From the suspend of an epoch to the release of its output. */
  readonly commitMs = new Meter();
  bytesRaw = 0;
  bytesSent = 0;
  epochsSkipped = 0;

  /** Begins every spread anew. Counters go on: who wants their growth subtracts. */
  resetSpreads(): void {
    for (const meter of [
      this.dirtyPages,
      this.pauseMs,
      this.stopMs,
      this.scanMs,
      this.copyMs,
      this.stateMs,
      this.resumeMs,
      this.encodeMs,
      this.commitMs,
    ])
      meter.reset();
  }

  recordCheckpoint(checkpoint: CheckpointResult, sentBytes: number): void {
    this.dirtyPages.record(checkpoint.totals.pages);
    this.pauseMs.record(checkpoint.pauseMs);
    this.stopMs.record(checkpoint.stopMs);
    this.scanMs.record(checkpoint.scanMs);
    this.copyMs.record(checkpoint.copyMs);
    this.stateMs.record(checkpoint.stateMs);
    this.resumeMs.record(checkpoint.resumeMs);
    this.encodeMs.record(checkpoint.totals.encodeMs);
    this.bytesRaw += checkpoint.totals.rawBytes;
    this.bytesSent += sentBytes;
  }
}
