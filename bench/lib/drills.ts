/**
 * Drills of the real command line, as many of one kind as are asked for, and what their results come
 * to in a row. Every drill checks that nothing was lost; one that fails its checks fails its claim.
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { CLI_PATH } from '../../src/drill/node-process.ts';
import type { DrillResult } from '../../src/drill/result.ts';
import { type Claim, numberOf, percentile, type Row, rounded } from './result.ts';

/** Of what the command said on stderr, for a drill that gave no result. */
const SAID_CHARACTERS_MAX = 2000;

/** The results of those that ended, and the last of what was said. */
export interface Drills {
  readonly results: readonly DrillResult[];
  readonly said: string;
}

/** Runs `times` drills with these words, one after the other. */
export async function runDrills(options: {
  readonly words: readonly string[];
  readonly times: number;
  readonly waitMsPerDrill: number;
}): Promise<Drills> {
  const { words, times, waitMsPerDrill } = options;
  const child = spawn(
    process.execPath,
    [CLI_PATH, 'drill', ...words, '--times', String(times), '--seed', '1', '--json'],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  const end = (): void => void child.kill('SIGTERM');
  process.once('exit', end);
  const timer = setTimeout(end, times * waitMsPerDrill);
  const results: DrillResult[] = [];
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-SAID_CHARACTERS_MAX);
  });
  createInterface({ input: child.stdout }).on('line', (line) => {
    const value = JSON.parse(line) as Partial<DrillResult> & { summary?: boolean };
    if (value.rtoMs !== undefined && value.summary !== true) results.push(value as DrillResult);
  });
  await new Promise((resolve) => child.once('close', resolve));
  clearTimeout(timer);
  process.off('exit', end);
  return { results, said };
}

/** Median and tail under `<name>P50Ms` and `<name>P99Ms`; nothing where no drill has the figure. */
export function spreadRow(
  name: string,
  results: readonly DrillResult[],
  figure: (result: DrillResult) => number | null,
): Record<string, number> {
  const values = results.map(figure).filter((value) => value !== null);
  if (values.length === 0) return {};
  return {
    [`${name}P50Ms`]: rounded(percentile(values, 0.5)),
    [`${name}P99Ms`]: rounded(percentile(values, 0.99)),
  };
}

/** A count over all drills; null counts nothing. */
export function total(
  results: readonly DrillResult[],
  figure: (result: DrillResult) => number | null,
): number {
  return results.reduce((sum, result) => sum + (figure(result) ?? 0), 0);
}

/** How many passed every check. */
export function passedCount(results: readonly DrillResult[]): number {
  return results.filter(({ ok }) => ok).length;
}

/** That a row's time is at most so long. */
export function atMostMs(what: string, row: Row, key: string, bound: number): Claim {
  return { what, measured: numberOf(row, key), relation: 'at most', bound, unit: 'ms' };
}

/** That all drills passed, those without a result among them. */
export function allPassed(what: string, row: Row, asked: number): Claim {
  return {
    what: `${what}: drills with every check passed`,
    measured: numberOf(row, 'ok'),
    relation: 'at least',
    bound: asked,
    unit: '',
  };
}

/** What is to be noted of drills that failed a check or gave no result; nothing when all is well. */
export function complaintsOf(what: string, asked: number, { results, said }: Drills): string[] {
  const failed = results
    .filter(({ ok }) => !ok)
    .map(({ seed, checks }) => {
      const reasons = checks.filter(({ ok }) => !ok).map(({ name, text }) => `${name}: ${text}`);
      return `${what}, seed ${seed}: ${reasons.join('; ')}`;
    });
  const missing = asked - results.length;
  return missing > 0
    ? [...failed, `${what}: ${results.length} of ${asked} gave a result: ${said}`]
    : failed;
}
