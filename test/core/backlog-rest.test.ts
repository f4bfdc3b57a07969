/** Goal: who falls behind time and again waits longer each time, and who kept up for long does not. */
import { expect, it } from 'vitest';
import { BacklogRest } from '../../src/core/backlog-rest.ts';

it('rests twice as long each time, up to a bound', () => {
  const rest = new BacklogRest(10);
  expect(rest.untilMs).toBe(Number.NEGATIVE_INFINITY);
  const restsMs = [0, 1, 2, 3, 4, 5, 6, 7, 8].map((nowMs) => {
    rest.begin(nowMs);
    return rest.untilMs - nowMs;
  });
  expect(restsMs).toEqual([10, 20, 40, 80, 160, 320, 640, 640, 640]);
});

it('begins anew after a protection that lasted longer than the longest rest', () => {
  const rest = new BacklogRest(10);
  rest.begin(0);
  rest.paired(100);
  rest.begin(739);
  expect(rest.untilMs).toBe(739 + 20);
  rest.paired(1000);
  rest.begin(1640);
  expect(rest.untilMs).toBe(1640 + 10);
  // What was protected before does not count twice.
  rest.begin(9000);
  expect(rest.untilMs).toBe(9000 + 20);
});
