/** When the heartbeat thread asks for real-time priority. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CALM_MS, LATE_MS, PriorityKeeper, Urgency } from '../../src/signals/urgency.ts';

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

/** A keeper whose acts are written down. */
function kept(can: { boost?: boolean; ease?: boolean; start?: boolean } = {}): {
  keeper: PriorityKeeper;
  done: string[];
  callUp: () => void;
} {
  const done: string[] = [];
  let wasCalledUp = false;
  const keeper = new PriorityKeeper({
    acts: {
      boost: () => done.push('boost') > 0 && can.boost !== false,
      ease: () => done.push('ease') > 0 && can.ease !== false,
      wasCalledUp: () => {
        const was = wasCalledUp;
        wasCalledUp = false;
        return was;
      },
    },
    startedAtMs: 0,
    isBoosted: can.start !== false,
  });
  return { keeper, done, callUp: () => (wasCalledUp = true) };
}

test('a keeper eases after the calm time, and boosts when late, called up or urged', () => {
  const { keeper, done, callUp } = kept();
  const tick = (atMs: number, lateMs = 0): void => keeper.ticked(atMs - lateMs, atMs);
  tick(CALM_MS - 1);
  expect(done).toEqual([]);
  tick(CALM_MS);
  tick(CALM_MS + PERIOD_MS);
  expect(done).toEqual(['ease']);
  tick(2 * CALM_MS, LATE_MS);
  tick(3 * CALM_MS);
  expect(done).toEqual(['ease', 'boost', 'ease']);
  callUp();
  tick(4 * CALM_MS);
  tick(4 * CALM_MS + PERIOD_MS);
  expect(done.slice(3)).toEqual(['boost']);
  tick(5 * CALM_MS);
  keeper.urge(5 * CALM_MS + 1);
  tick(6 * CALM_MS);
  expect(done.slice(4)).toEqual(['ease', 'boost']);
});

test('a keeper leaves everything as it is where something cannot be done', () => {
  const notBoosted = kept({ start: false });
  notBoosted.keeper.ticked(CALM_MS, CALM_MS);
  notBoosted.keeper.urge(CALM_MS);
  expect(notBoosted.done).toEqual([]);
  const notEased = kept({ ease: false });
  notEased.keeper.ticked(CALM_MS, CALM_MS);
  notEased.keeper.ticked(CALM_MS, 2 * CALM_MS);
  expect(notEased.done).toEqual(['ease']);
});
