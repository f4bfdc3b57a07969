/**
 * How long a failover takes, in drills of the real command line: detection, what the promise still
 * held back, promotion, and silence as the world outside hears it. Every drill checks that nothing
 * was lost; one that fails its checks fails the bench.
 */
import type { DrillResult } from '../src/drill/result.ts';
import {
  allPassed,
  atMostMs,
  complaintsOf,
  passedCount,
  runDrills,
  spreadRow,
  total,
} from './lib/drills.ts';
import type { BenchResult, Claim, Row } from './lib/result.ts';

const WAIT_MS_PER_DRILL = 60_000;
const DETECT_MS_MAX = { sigkill: 60, sigstop: 120 } as const;
const PROMOTE_MS_MAX = 20;
type Struck = keyof typeof DETECT_MS_MAX;

function rowOf(kill: Struck, asked: number, results: readonly DrillResult[]): Row {
  return {
    kill,
    drills: asked,
    ok: passedCount(results),
    ...spreadRow('detect', results, ({ detectMs }) => detectMs),
    ...spreadRow('waited', results, ({ waitedMs }) => waitedMs),
    ...spreadRow('promote', results, ({ promoteMs }) => promoteMs),
    ...spreadRow('rto', results, ({ rtoMs }) => rtoMs),
    outputsHeard: total(results, ({ outputsReleased }) => outputsReleased),
    outputsLost: total(results, ({ outputsLost }) => outputsLost),
  };
}

function claimsOf(kill: Struck, row: Row, asked: number): Claim[] {
  return [
    atMostMs(`${kill}: detectMs p99`, row, 'detectP99Ms', DETECT_MS_MAX[kill]),
    atMostMs(`${kill}: promoteMs p99`, row, 'promoteP99Ms', PROMOTE_MS_MAX),
    allPassed(kill, row, asked),
  ];
}

/** Runs `times` drills of each kind. */
export async function run(options: { times?: number } = {}): Promise<BenchResult> {
  const { times = 20 } = options;
  const rows: Row[] = [];
  const claims: Claim[] = [];
  const notes = [
    'Default drill: hotspot on 256 MiB, 25 ms epochs, heartbeats every 10 ms, promises of 40 ms.',
    'detect: from the strike until the backup may take over, waited (for its own promises) included; promote: from then to the running machine.',
    'rto: from the strike to the first output of the new copy, as heard outside.',
  ];
  for (const kill of ['sigkill', 'sigstop'] as const) {
    const drills = await runDrills({
      words: ['--kill', kill],
      times,
      waitMsPerDrill: WAIT_MS_PER_DRILL,
    });
    const row = rowOf(kill, times, drills.results);
    rows.push(row);
    claims.push(...claimsOf(kill, row, times));
    notes.push(...complaintsOf(kill, times, drills));
  }
  return { name: 'failover', rows, claims, notes };
}
