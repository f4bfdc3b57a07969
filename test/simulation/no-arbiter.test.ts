/** Without an arbiter one side yields by the operator's choice; then, too, one copy is heard. */
import { expect, test } from 'vitest';
import { describeFailure, runSeed } from './run.ts';

const SEEDS = 1500;

test.each(['promote', 'hold'] as const)(
  '--on-silence %s',
  (onSilence) => {
    let promotions = 0;
    for (let seed = 1; seed <= SEEDS; seed += 1) {
      const result = runSeed(seed, { onSilence });
      expect(result.violation, `${describeFailure(result)} --on-silence ${onSilence}`).toBeNull();
      promotions += result.tally.promotions;
    }
    if (onSilence === 'promote') expect(promotions).toBeGreaterThan(SEEDS / 10);
    else expect(promotions).toBe(0);
  },
  120_000,
);
