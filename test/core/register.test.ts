/** Goal: the register changes only along its transitions, whatever it is asked. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { asGeneration } from '../../src/base/units.ts';
import {
  describeWord,
  force,
  INSTANCE_CHARACTERS_MAX,
  isRegisterWord,
  isTransition,
  pair,
  promote,
  type RegisterWord,
  sameWord,
  solo,
  startAlone,
} from '../../src/core/register.ts';

const instance = fc.integer({ min: 1, max: 5 }).map((id) => `n#${id}`);
const word: fc.Arbitrary<RegisterWord> = fc
  .tuple(fc.integer({ min: 1, max: 1000 }), instance, fc.option(instance))
  .filter(([, runner, partner]) => runner !== partner)
  .map(([generation, runner, partner]) => ({
    generation: asGeneration(generation),
    runner,
    partner,
  }));

describe('register', () => {
  it('goes from alone to paired to promoted', () => {
    const first = startAlone('a#1');
    const second = pair(first, 'b#1');
    const third = promote(second);
    expect([first, second, third].map(describeWord)).toEqual([
      '(1, a#1, -)',
      '(2, a#1, b#1)',
      '(3, b#1, -)',
    ]);
    expect(describeWord(solo(second))).toBe('(3, a#1, -)');
    expect(describeWord(force(second, 'c#1'))).toBe('(3, c#1, -)');
    expect(describeWord(force(null, 'c#1'))).toBe('(1, c#1, -)');
  });

  it('refuses what no rule allows', () => {
    const alone = startAlone('a#1');
    const paired = pair(alone, 'b#1');
    expect(() => pair(paired, 'c#1')).toThrow(AssertionError);
    expect(() => pair(alone, 'a#1')).toThrow(AssertionError);
    expect(() => promote(alone)).toThrow(AssertionError);
    expect(() => startAlone('')).toThrow(AssertionError);
  });

  it('every transition adds one to the generation and is known as one', () => {
    fc.assert(
      fc.property(word, instance, (from, other) => {
        const nexts = [solo(from), force(from, other)];
        if (from.partner === null && other !== from.runner) nexts.push(pair(from, other));
        if (from.partner !== null) nexts.push(promote(from));
        for (const next of nexts) {
          expect(next.generation).toBe(from.generation + 1);
          expect(isTransition(from, next)).toBe(true);
          expect(sameWord(from, next)).toBe(false);
        }
      }),
    );
  });

  it('no transition skips, repeats, swaps a partner or hires one for another runner', () => {
    fc.assert(
      fc.property(fc.option(word), word, (from, to) => {
        if (!isTransition(from, to)) return;
        expect(to.generation).toBe((from?.generation ?? 0) + 1);
        if (to.partner !== null) {
          expect(from?.partner).toBeNull();
          expect(from?.runner).toBe(to.runner);
        }
      }),
    );
  });

  it('believes no word that is not one', () => {
    const good = startAlone('a#1');
    expect(isRegisterWord(good)).toBe(true);
    for (const bad of [
      null,
      7,
      'word',
      {},
      { ...good, generation: 0 },
      { ...good, generation: 1.5 },
      { ...good, generation: 2 ** 53 },
      { ...good, runner: '' },
      { ...good, runner: 'x'.repeat(INSTANCE_CHARACTERS_MAX + 1) },
      { ...good, partner: 'a#1' },
      { ...good, partner: undefined },
    ]) {
      expect(isRegisterWord(bad)).toBe(false);
    }
  });
});
