/**
 * The other half of the proof: with any one rule left out, the same simulation finds a violation.
 * A checker that never fails shows nothing.
 */
import { describe, expect, test } from 'vitest';
import { ALL_RULES, RULE_NAMES, without } from './rules.ts';
import { describeFailure, runSeed } from './run.ts';

/** The subtlest rule (the drift margin) shows itself about once in 3,000 runs. */
const SEEDS_MAX = 20_000;

/** Something was lost or heard twice. Standing still, which leaving a rule out may cause too, is not enough. */
function isUnsafe(violation: string | null): boolean {
  return /^(one runner|output commit|nothing lost|order|atomic epochs)/.test(violation ?? '');
}

describe('a rule left out is missed', () => {
  for (const rule of RULE_NAMES) {
    test(rule, () => {
      const rules = without(rule);
      let seed = 1;
      let result = runSeed(seed, { rules });
      while (!isUnsafe(result.violation) && seed < SEEDS_MAX) {
        seed += 1;
        result = runSeed(seed, { rules });
      }
      expect(isUnsafe(result.violation), `no violation in ${SEEDS_MAX} seeds`).toBe(true);
      // The same faults, with the rule in force, do no harm.
      const whole = runSeed(seed, { rules: ALL_RULES });
      expect(whole.violation, describeFailure(whole)).toBeNull();
    }, 120_000);
  }
});
