/** Goal: the cheapest way to an image that is provably right, and no cheaper. */
import { describe, expect, it } from 'vitest';
import { asEpoch } from '../../src/base/units.ts';
import { type BackupHello, planImage, resumeFrom } from '../../src/core/resync.ts';

const FACTS = { lastImage: 'b#1', acknowledgedEpoch: asEpoch(7), takenEpoch: asEpoch(9) };

function hello(
  epoch: number,
  kept: number | null,
  changes: Partial<BackupHello> = {},
): BackupHello {
  return {
    kind: 'backupHello',
    linkId: 1,
    node: 'b',
    holds: { instance: 'b#1', epoch: asEpoch(epoch) },
    descriptorMatches: true,
    oldestRetainedEpoch: kept === null ? null : asEpoch(kept),
    provenSinceEpoch: null,
    ...changes,
  };
}

describe('resume', () => {
  it.each([
    ['misses two that are kept', hello(7, 8), 8],
    ['misses none', hello(9, null), 10],
    ['misses one that is not kept any more', hello(7, 9), null],
    ['misses some and nothing is kept', hello(8, null), null],
    ['holds less than it acknowledged', hello(6, 1), null],
    ['holds more than was ever made', hello(10, 1), null],
    ['holds nothing', hello(7, 8, { holds: null }), null],
    ['is another instance', hello(7, 8, { holds: { instance: 'b#2', epoch: asEpoch(7) } }), null],
    ['has another machine', hello(7, 8, { descriptorMatches: false }), null],
  ])('%s', (_, from, expected) => {
    expect(resumeFrom(from, 'b#1', FACTS)).toBe(expected);
  });
});

describe('image', () => {
  it.each([
    ['changes since its epoch are known', hello(5, null, { provenSinceEpoch: asEpoch(5) }), 5],
    ['they are not', hello(5, null, { provenSinceEpoch: asEpoch(6) }), null],
    ['nothing is known', hello(5, null), null],
    [
      'it was made by another',
      hello(5, 1, { holds: { instance: 'c#1', epoch: asEpoch(5) } }),
      null,
    ],
    ['its epoch was never made', hello(10, 1, { provenSinceEpoch: asEpoch(1) }), null],
  ])('%s', (_, from, since) => {
    expect(planImage(from, FACTS)).toEqual(
      since === null ? { plan: 'full', fromEpoch: 0 } : { plan: 'changed', fromEpoch: since },
    );
  });
});
