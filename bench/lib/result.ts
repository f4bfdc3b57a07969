/** What every bench gives back: rows for tables and plots, notes for people. */
export interface BenchResult {
  readonly name: string;
  /** Stable keys, units last in their names. */
  readonly rows: readonly Readonly<Record<string, number | string>>[];
  readonly notes: readonly string[];
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
