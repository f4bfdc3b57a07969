/** When the heartbeat thread asks for real-time priority. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CALM_MS, LATE_MS, Urgency } from '../../src/signals/urgency.ts';

const PERIOD_MS = 10;

test('urgent at first, and no longer once every tick of the calm time was punctual', () => {
  const urgency = new Urgency(0);
  for (let atMs = PERIOD_MS; atMs < CALM_MS; atMs += PERIOD_MS) {
    expect(urgency.ticked(atMs, atMs + LATE_MS - 20)).toBe(true);
  }
  expect(urgency.ticked(CALM_MS, CALM_MS)).toBe(false);
});

test('urgent at once when late, for the whole calm time after the last late tick', () => {
  fc.assert(
    fc.property(
      fc.array(fc.double({ min: 0, max: 200, noNaN: true }), { minLength: 1, maxLength: 400 }),
      (delays) => {
        const urgency = new Urgency(-CALM_MS);
        let nowMs = 0;
        let lateAtMs = -CALM_MS;
        for (const delayMs of delays) {
          const expectedMs = nowMs + PERIOD_MS;
          nowMs = expectedMs + delayMs;
          if (nowMs - expectedMs >= LATE_MS) lateAtMs = nowMs;
          expect(urgency.ticked(expectedMs, nowMs)).toBe(nowMs < lateAtMs + CALM_MS);
        }
      },
    ),
  );
});
