/** What each part of the seed tests does: as many runs as fit, none of which may break a rule. */
import { expect, test } from 'vitest';
import { describeFailure, runSeeds } from './run.ts';

const SEEDS_PER_PART = 5000;
/** Takes some five seconds on an idle core; a busy machine is given far more. */
const TIMEOUT_MS = 240_000;

export function manySeeds(first: number): void {
  test(
    `every invariant holds for seeds ${first} to ${first + SEEDS_PER_PART - 1}`,
    () => {
      const { failure, tally, registerChanges } = runSeeds(first, SEEDS_PER_PART);
      expect(failure, failure === null ? '' : describeFailure(failure)).toBeNull();
      // Runs in which nothing happens prove nothing.
      expect(registerChanges).toBeGreaterThan(SEEDS_PER_PART * 3);
      expect(tally.promotions).toBeGreaterThan(SEEDS_PER_PART / 5);
      expect(tally.pairings).toBeGreaterThan(SEEDS_PER_PART);
      expect(tally.resumes).toBeGreaterThan(SEEDS_PER_PART / 20);
      expect(tally.changedPlans).toBeGreaterThan(SEEDS_PER_PART / 20);
      expect(tally.fences).toBeGreaterThan(SEEDS_PER_PART / 20);
      expect(tally.restartsBesideGuest).toBeGreaterThan(SEEDS_PER_PART / 20);
      expect(tally.leftBehind).toBeGreaterThan(SEEDS_PER_PART / 100);
      expect(tally.doubleFailures).toBeLessThan(SEEDS_PER_PART / 8);
    },
    TIMEOUT_MS,
  );
}
