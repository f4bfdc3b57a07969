/** Goal: what drills come to in a row hides neither a figure that is missing nor a drill that failed. */
import { describe, expect, it } from 'vitest';
import { allPassed, complaintsOf, passedCount, spreadRow, total } from '../../bench/lib/drills.ts';
import { holds } from '../../bench/lib/result.ts';
import type { DrillResult } from '../../src/drill/result.ts';

function result(parts: Partial<DrillResult>): DrillResult {
  return { ok: true, checks: [], seed: 1, detectMs: null, diskBad: null, ...parts } as DrillResult;
}

describe('drills in a row', () => {
  it('have no times where no drill has any, instead of good ones', () => {
    const none = [result({}), result({})];
    expect(spreadRow('detect', none, ({ detectMs }) => detectMs)).toEqual({});
    const some = [result({ detectMs: 40 }), result({}), result({ detectMs: 50 })];
    expect(spreadRow('detect', some, ({ detectMs }) => detectMs)).toEqual({
      detectP50Ms: 50,
      detectP99Ms: 50,
    });
    expect(total([result({ diskBad: 2 }), result({})], ({ diskBad }) => diskBad)).toBe(2);
  });

  it('do not all pass when one gave no result, and tell of both kinds of failure', () => {
    const failed = result({
      ok: false,
      seed: 7,
      checks: [
        { name: 'order', ok: true, text: 'in order' },
        { name: 'nothing lost', ok: false, text: 'epoch 9 is lost' },
      ],
    });
    const results = [result({}), failed];
    const row = { ok: passedCount(results) };
    expect(holds(allPassed('sigkill', row, 2))).toBe(false);
    expect(holds(allPassed('sigkill', { ok: passedCount([result({})]) }, 2))).toBe(false);
    expect(complaintsOf('sigkill', 3, { results, said: 'no room' })).toEqual([
      'sigkill, seed 7: nothing lost: epoch 9 is lost',
      'sigkill: 2 of 3 gave a result: no room',
    ]);
  });
});
