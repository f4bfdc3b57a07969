import { expect, test } from 'vitest';
import { runSeed } from './run.ts';

test('the same seed gives the same run, line by line', () => {
  const first: string[] = [];
  const second: string[] = [];
  runSeed(42, { listener: (line) => first.push(line) });
  runSeed(42, { listener: (line) => second.push(line) });
  expect(first.length).toBeGreaterThan(200);
  expect(second).toEqual(first);
});

test('tracing does not change what happens', () => {
  const silent = runSeed(7);
  const traced = runSeed(7, { listener: () => undefined });
  expect(traced).toEqual(silent);
});
