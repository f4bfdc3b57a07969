/** What a drill says at its end, and how many of them are summed up. Keys are stable. */
import type { NodeStatus, Spread } from '../engine/status.ts';
import type { Check } from './checks.ts';
import type { DrillOptions, Kill } from './options.ts';

/** Median, tail and worst of something measured in milliseconds. */
export interface SpreadMs {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

/** The outcome of one drill: the last line of `romulus drill --json`. */
export interface DrillResult {
  readonly schemaVersion: 1;
  readonly guest: DrillOptions['guest'];
  readonly workload: string;
  readonly kill: Kill;
  readonly seed: number;
  readonly memoryBytes: number;
  readonly intervalMs: number;
  readonly minIntervalMs: number | null;
  readonly tracker: string | null;
  /** Epochs that were acknowledged before the strike. */
  readonly epochs: number;
  /** The epoch that the new copy started from; null when nobody took over. */
  readonly promotedEpoch: number | null;
  readonly generation: number;
  readonly stateMatches: boolean;
  readonly outputsReleased: number;
  readonly outputsLost: number;
  readonly outputsReordered: number;
  /** Frames of the old side heard after the new one spoke. */
  readonly releasedByBoth: number;
  /** From the strike to the decision to take over: the verdict, and `waitedMs` after it. */
  readonly detectMs: number | null;
  /** From the verdict to the decision: what was promised had to run out. */
  readonly waitedMs: number | null;
  /** From the decision to a running machine. */
  readonly promoteMs: number | null;
  /** From the strike to the first output of the new copy, as heard outside. */
  readonly rtoMs: number | null;
  /**
   * The longest time in which the machine's console said nothing, though its counter should have,
   * of the primary until the strike and of the last copy since it spoke; null where there is none.
   */
  readonly stallMs: { readonly primary: number; readonly survivor: number } | null;
  readonly pauseMs: SpreadMs;
  readonly stopMs: SpreadMs;
  readonly scanMs: SpreadMs;
  readonly copyMs: SpreadMs;
  /** How long the device state was still waited for when the capture was done. */
  readonly stateMs: SpreadMs;
  readonly resumeMs: SpreadMs;
  readonly outputDelayMs: SpreadMs;
  readonly dirtyPages: { readonly p50: number; readonly max: number };
  readonly bytesRaw: number;
  readonly bytesSent: number;
  readonly incrementsAcknowledged: number | null;
  /** With `--net`: the one connection of the echo client went on; null without. */
  readonly tcpSurvived: boolean | null;
  /** With `--net`: INCRs that the guest's redis acknowledged and does not hold. */
  readonly ackedWritesLost: number | null;
  /** With `--disk`: blocks that are torn, older or newer than the guest knows. */
  readonly diskBad: number | null;
  /** With `--net`: the longest time from the strike on without an answer to the echo client. */
  readonly clientGapMs: number | null;
  /** With `--net`: most frames that a node was seen to hold back. */
  readonly heldFramesMax: number | null;
  readonly ok: boolean;
  readonly checks: readonly Check[];
  /** What happened, in order, in plain words. */
  readonly story: readonly string[];
  /** How often it began anew, because the backup took over before anything struck. */
  readonly falseStarts: number;
  /** Where logs and audit files are, when they were kept. */
  readonly evidence: string | null;
}

/** What a play comes to; its story and where its files are is known to who had it played. */
export type DrillVerdict = Omit<DrillResult, 'story' | 'falseStarts' | 'evidence'>;

/** The settings that every result repeats. */
export function settingsOf(
  options: DrillOptions,
): Pick<DrillResult, 'kill' | 'seed' | 'memoryBytes' | 'intervalMs' | 'minIntervalMs'> {
  const { kill, seed, memoryBytes, intervalMs, minIntervalMs } = options;
  return { kill, seed, memoryBytes, intervalMs, minIntervalMs };
}

/** What the primary said of itself last before the strike. */
export function figuresOf(
  before: NodeStatus | null,
): Pick<
  DrillResult,
  | 'tracker'
  | 'epochs'
  | 'pauseMs'
  | 'stopMs'
  | 'scanMs'
  | 'copyMs'
  | 'stateMs'
  | 'resumeMs'
  | 'outputDelayMs'
  | 'dirtyPages'
  | 'bytesRaw'
  | 'bytesSent'
> {
  return {
    tracker: before?.tracker ?? null,
    epochs: before?.ackedEpoch ?? 0,
    pauseMs: spread(before?.pauseMs),
    stopMs: spread(before?.stopMs),
    scanMs: spread(before?.scanMs),
    copyMs: spread(before?.copyMs),
    stateMs: spread(before?.stateMs),
    resumeMs: spread(before?.resumeMs),
    outputDelayMs: spread(before?.outputDelayMs),
    dirtyPages: { p50: before?.dirtyPages.p50 ?? 0, max: before?.dirtyPages.max ?? 0 },
    bytesRaw: before?.bytesRaw ?? 0,
    bytesSent: before?.bytesSent ?? 0,
  };
}

function spread(value: Spread | undefined): SpreadMs {
  return { p50: value?.p50 ?? 0, p99: value?.p99 ?? 0, max: value?.max ?? 0 };
}

/** Many drills in one line. */
export interface DrillSummary {
  readonly schemaVersion: 1;
  readonly summary: true;
  readonly guest: DrillOptions['guest'];
  readonly workload: string;
  readonly kill: Kill;
  readonly runs: number;
  readonly passed: number;
  readonly failedSeeds: readonly number[];
  /** How often a drill began anew, because the backup took over before anything struck. */
  readonly falseStarts: number;
  readonly outputsReleased: number;
  readonly outputsLost: number;
  readonly outputsReordered: number;
  readonly detectMs: SpreadMs | null;
  readonly promoteMs: SpreadMs | null;
  readonly rtoMs: SpreadMs | null;
  readonly clientGapMs: SpreadMs | null;
  readonly ackedWritesLost: number;
  readonly diskBad: number;
  readonly ok: boolean;
}

/** The spread of a list, by nearest rank; null for an empty one. */
export function spreadOf(values: readonly number[]): SpreadMs | null {
  if (values.length === 0) return null;
  const sorted = [...values].sort((left, right) => left - right);
  const rank = (share: number): number =>
    sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
  return { p50: rank(0.5), p99: rank(0.99), max: rank(1) };
}

function numbers(values: readonly (number | null)[]): number[] {
  return values.filter((value) => value !== null);
}

/**
 * Sums drills up. `failedSeeds` also names drills that ended with an error and have no result.
 */
export function summarise(
  results: readonly DrillResult[],
  shape: Pick<DrillSummary, 'guest' | 'workload' | 'kill' | 'runs'>,
  brokenSeeds: readonly number[],
): DrillSummary {
  const failed = results.filter((result) => !result.ok).map((result) => result.seed);
  const passed = results.length - failed.length;
  const sum = (pick: (result: DrillResult) => number): number =>
    results.reduce((total, result) => total + pick(result), 0);
  return {
    schemaVersion: 1,
    summary: true,
    ...shape,
    passed,
    failedSeeds: [...failed, ...brokenSeeds],
    falseStarts: sum((result) => result.falseStarts),
    outputsReleased: sum((result) => result.outputsReleased),
    outputsLost: sum((result) => result.outputsLost),
    outputsReordered: sum((result) => result.outputsReordered),
    detectMs: spreadOf(numbers(results.map((result) => result.detectMs))),
    promoteMs: spreadOf(numbers(results.map((result) => result.promoteMs))),
    rtoMs: spreadOf(numbers(results.map((result) => result.rtoMs))),
    clientGapMs: spreadOf(numbers(results.map((result) => result.clientGapMs))),
    ackedWritesLost: sum((result) => result.ackedWritesLost ?? 0),
    diskBad: sum((result) => result.diskBad ?? 0),
    ok: passed === shape.runs,
  };
}
