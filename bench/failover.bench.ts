/**
 * How long a failover takes, in drills of the real command line: detection, what the promise still
 * held back, promotion, and silence as the world outside hears it. Every drill checks that nothing
 * was lost; one that fails its checks fails the bench.
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { CLI_PATH } from '../src/drill/node-process.ts';
import type { DrillResult } from '../src/drill/result.ts';
import {
  type BenchResult,
  type Claim,
  numberOf,
  percentile,
  type Row,
  rounded,
} from './lib/result.ts';

const WAIT_MS_PER_DRILL = 60_000;
const DETECT_MS_MAX = { sigkill: 60, sigstop: 120 } as const;
const PROMOTE_MS_MAX = 20;
type Struck = keyof typeof DETECT_MS_MAX;

async function drills(
  kill: Struck,
  times: number,
): Promise<{ results: DrillResult[]; said: string }> {
  const child = spawn(
    process.execPath,
    [CLI_PATH, 'drill', '--kill', kill, '--times', String(times), '--seed', '1', '--json'],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  const end = (): void => void child.kill('SIGTERM');
  process.once('exit', end);
  const timer = setTimeout(end, times * WAIT_MS_PER_DRILL);
  const results: DrillResult[] = [];
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-2000);
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

function rowOf(kill: Struck, asked: number, results: readonly DrillResult[]): Row {
  const spread = (key: 'detectMs' | 'waitedMs' | 'promoteMs' | 'rtoMs'): Record<string, number> => {
    const values = results.flatMap((result) => result[key] ?? []);
    const name = key.slice(0, -'Ms'.length);
    return {
      [`${name}P50Ms`]: rounded(percentile(values, 0.5)),
      [`${name}P99Ms`]: rounded(percentile(values, 0.99)),
    };
  };
  return {
    kill,
    drills: asked,
    ok: results.filter(({ ok }) => ok).length,
    ...spread('detectMs'),
    ...spread('waitedMs'),
    ...spread('promoteMs'),
    ...spread('rtoMs'),
    outputsHeard: results.reduce((sum, result) => sum + result.outputsReleased, 0),
    outputsLost: results.reduce((sum, result) => sum + result.outputsLost, 0),
  };
}

function claimsOf(kill: Struck, row: Row, asked: number): Claim[] {
  const atMost = (what: string, key: string, bound: number): Claim => ({
    what: `${kill}: ${what}`,
    measured: numberOf(row, key),
    relation: 'at most',
    bound,
    unit: 'ms',
  });
  return [
    atMost('detectMs p99', 'detectP99Ms', DETECT_MS_MAX[kill]),
    atMost('promoteMs p99', 'promoteP99Ms', PROMOTE_MS_MAX),
    {
      what: `${kill}: drills with every check passed`,
      measured: numberOf(row, 'ok'),
      relation: 'at least',
      bound: asked,
      unit: '',
    },
  ];
}

/** Runs `times` drills of each kind. */
export async function run(options: { times?: number } = {}): Promise<BenchResult> {
  const { times = 20 } = options;
  const rows: Row[] = [];
  const claims: Claim[] = [];
  const notes = [
    'Default drill: hotspot on 256 MiB, 25 ms epochs, heartbeats every 10 ms, promises of 40 ms.',
    'rto: from the strike to the first output of the new copy, as heard outside.',
  ];
  for (const kill of ['sigkill', 'sigstop'] as const) {
    const { results, said } = await drills(kill, times);
    const row = rowOf(kill, times, results);
    rows.push(row);
    claims.push(...claimsOf(kill, row, times));
    if (results.length < times) notes.push(`${kill}: ${results.length} of ${times} ended: ${said}`);
  }
  return { name: 'failover', rows, claims, notes };
}
