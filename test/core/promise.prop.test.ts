/** Goal: the primary's right to release ends before the backup may ask to be promoted. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import {
  DEFAULT_PROMISE_MARGIN,
  DEFAULT_PROMISE_MS,
  HeldPromise,
  heldUntilMs,
  PROMISE_MS_MAX,
  promisedUntilMs,
} from '../../src/core/promise.ts';

const rate = fc.double({ min: 0.97, max: 1.03, noNaN: true });

it('holds for any two clocks that differ by as much as the margin allows', () => {
  fc.assert(
    fc.property(
      rate,
      rate,
      fc.double({ min: 0, max: 1e9, noNaN: true }),
      fc.double({ min: 0, max: 1000, noNaN: true }),
      (primaryRate, backupRate, sentAtRealMs, wayMs) => {
        const primaryHoldsUntilMs =
          heldUntilMs(sentAtRealMs * primaryRate, DEFAULT_PROMISE_MS, DEFAULT_PROMISE_MARGIN) /
          primaryRate;
        const receivedAtRealMs = sentAtRealMs + wayMs;
        const backupAsksFromMs =
          promisedUntilMs(receivedAtRealMs * backupRate, DEFAULT_PROMISE_MS) / backupRate;
        expect(primaryHoldsUntilMs).toBeLessThan(backupAsksFromMs);
      },
    ),
  );
});

it('counts only the instance it listens to, and is only ever raised', () => {
  const held = new HeldPromise({ driftFraction: 0, marginMs: 0 });
  expect(held.raise('b#1', 0, 40)).toBe(false);
  held.listenTo('b#1');
  expect(held.raise('b#1', 10, 40)).toBe(true);
  expect(held.raise('b#1', 5, 40)).toBe(false);
  expect(held.raise('b#2', 100, 40)).toBe(false);
  expect(held.untilMs).toBe(50);
  held.listenTo('b#2');
  expect(held.untilMs).toBe(Number.NEGATIVE_INFINITY);
});

it('believes no promise beyond a bound, and none below zero', () => {
  const margin = { driftFraction: 0, marginMs: 0 };
  expect(heldUntilMs(0, Number.POSITIVE_INFINITY, margin)).toBe(PROMISE_MS_MAX);
  expect(heldUntilMs(7, -5, margin)).toBe(7);
});
