/** Goal: what is committed is exactly what the acknowledged epochs made, under any order of events. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { asEpoch, NO_EPOCH } from '../../src/base/units.ts';
import { OutputCommit } from '../../src/core/output-commit.ts';

const act = fc.oneof(
  fc.record({ kind: fc.constant('take' as const), frames: fc.nat({ max: 20 }) }),
  fc.record({ kind: fc.constant('acknowledge' as const), back: fc.nat({ max: 5 }) }),
  fc.record({ kind: fc.constant('release' as const) }),
  fc.record({ kind: fc.constant('abandon' as const) }),
);

it('agrees with a list of boundaries', () => {
  fc.assert(
    fc.property(fc.array(act, { maxLength: 60 }), (acts) => {
      const book = new OutputCommit(NO_EPOCH);
      const boundaries = [0];
      let acknowledged = 0;
      for (const step of acts) {
        const taken = boundaries.length - 1;
        switch (step.kind) {
          case 'take':
            boundaries.push((boundaries[taken] ?? 0) + step.frames);
            book.take(asEpoch(taken + 1), boundaries[taken + 1] ?? 0, taken + 1);
            break;
          case 'acknowledge': {
            const epoch = Math.max(0, taken - step.back);
            expect(book.acknowledge(asEpoch(epoch))).toBe(epoch > acknowledged);
            acknowledged = Math.max(acknowledged, epoch);
            break;
          }
          case 'release':
            expect(book.release()).toBe(acknowledged);
            break;
          case 'abandon':
            book.abandon();
            acknowledged = taken;
            break;
        }
        expect(book.acknowledgedEpoch).toBe(acknowledged);
        expect(book.framesCommitted).toBe(boundaries[acknowledged]);
        expect(book.unacknowledgedCount).toBe(boundaries.length - 1 - acknowledged);
        expect(book.releasedEpoch).toBeLessThanOrEqual(acknowledged);
        // Each epoch was taken at the time of its number.
        const open = acknowledged < boundaries.length - 1;
        expect(book.oldestTakenAtMs).toBe(open ? acknowledged + 1 : null);
      }
    }),
  );
});

it('stops at a gap, a step back and an epoch that was never taken', () => {
  const book = new OutputCommit(asEpoch(4));
  expect(() => book.take(asEpoch(6), 1, 0)).toThrow(AssertionError);
  book.take(asEpoch(5), 10, 0);
  expect(() => book.take(asEpoch(6), 9, 0)).toThrow(AssertionError);
  expect(() => book.acknowledge(asEpoch(6))).toThrow(AssertionError);
});
