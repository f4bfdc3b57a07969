/** What every bench gives back: rows for tables and plots, claims to be held to, notes for people. */

/** One row of a result: stable keys, units last in their names. */
export type Row = Readonly<Record<string, number | string>>;

/** A figure that was promised, beside what was measured in this run. */
export interface Claim {
  readonly what: string;
  readonly measured: number;
  readonly relation: 'at most' | 'at least';
  readonly bound: number;
  /** Of both figures; empty for a ratio. */
  readonly unit: string;
}

/** What a bench measured. */
export interface BenchResult {
  readonly name: string;
  readonly rows: readonly Row[];
  readonly notes: readonly string[];
  readonly claims?: readonly Claim[];
}

/** How thorough a run is: quick ones only show that everything works. */
export type Mode = 'quick' | 'full';

/** True when the figure is as promised. */
export function holds({ measured, relation, bound }: Claim): boolean {
  return relation === 'at most' ? measured <= bound : measured >= bound;
}

/** The number under a key; NaN when there is none, which holds no claim. */
export function numberOf(row: Row | undefined, key: string): number {
  const value = row?.[key];
  return typeof value === 'number' ? value : Number.NaN;
}

/** The value below which `share` (0..1) of the samples lie; 0 without samples. */
export function percentile(samples: readonly number[], share: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
}

/** Rounded for reading: three significant digits lose nothing that a noisy host could tell. */
export function rounded(value: number): number {
  return Number(value.toPrecision(3));
}
