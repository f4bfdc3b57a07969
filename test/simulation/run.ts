/** One run: a seed in, a verdict out. The same seed always gives the same run. */
import type { OnSilence } from '../../src/core/register.ts';
import { emptyTally, type Tally } from './checks.ts';
import { Cluster } from './cluster.ts';
import { scheduleFaults } from './faults.ts';
import { ALL_RULES, type Rules } from './rules.ts';
import { Violation, World } from './world.ts';

/** Everything goes wrong until then, in virtual milliseconds. */
const CHAOS_MS = 450;
/** Longer than any message, or request to the arbiter, can still be on its way. */
const SETTLE_MS = 250;
const SLICE_MS = 50;
/** Long enough for every bounded wait of both machines to run out and the pair to form again. */
const REST_MS = 900;

export interface RunResult {
  readonly seed: number;
  /** Null when every invariant held. */
  readonly violation: string | null;
  readonly tally: Tally;
  readonly registerChanges: number;
}

export function runSeed(
  seed: number,
  options: {
    readonly rules?: Rules;
    readonly onSilence?: OnSilence;
    readonly listener?: (line: string) => void;
  } = {},
): RunResult {
  const world = new World(seed, options.listener ?? null);
  const cluster = new Cluster(world, options.rules ?? ALL_RULES, options.onSilence ?? 'arbiter');
  let violation: string | null = null;
  try {
    cluster.start();
    // A quiet beginning in most runs: without a pair there is little to break.
    const quietMs = world.random.chance(0.8) ? 100 : 0;
    world.runUntil(quietMs);
    scheduleFaults(cluster, CHAOS_MS, 1 + world.random.nextBelow(9));
    world.runUntil(quietMs + CHAOS_MS + SETTLE_MS);
    // Without an arbiter one side waits for ever, by the operator's choice.
    const isHealing = cluster.onSilence === 'arbiter';
    for (let restMs = SETTLE_MS; restMs < REST_MS; restMs += SLICE_MS) {
      if (isHealing && cluster.isAtRest()) break;
      world.runUntil(quietMs + CHAOS_MS + restMs + SLICE_MS);
    }
    if (isHealing && !cluster.checkAtRest()) cluster.checks.tally.doubleFailures += 1;
  } catch (error) {
    // Whatever a machine under test throws (its own assertions above all) is a finding too.
    violation =
      error instanceof Violation
        ? error.message
        : String(error instanceof Error ? error.stack : error);
  }
  return { seed, violation, tally: cluster.checks.tally, registerChanges: cluster.arbiter.changes };
}

/** What a failure must say so that anybody can see it happen again. */
export function describeFailure({ seed, violation }: RunResult): string {
  return `seed ${seed}: ${violation}\n  replay: npm run sim -- --seed ${seed}`;
}

/** Runs seeds `first` to `first + count - 1`; stops at the first violation. */
export function runSeeds(
  first: number,
  count: number,
): { readonly failure: RunResult | null; readonly tally: Tally; readonly registerChanges: number } {
  const tally = emptyTally();
  let registerChanges = 0;
  for (let seed = first; seed < first + count; seed += 1) {
    const result = runSeed(seed);
    if (result.violation !== null) return { failure: result, tally, registerChanges };
    registerChanges += result.registerChanges;
    for (const key of Object.keys(tally) as (keyof Tally)[]) tally[key] += result.tally[key];
  }
  return { failure: null, tally, registerChanges };
}
