/**
 * What every arbiter must do, whatever it is made of. `members` gives several handles on one
 * register, as different nodes would hold them; `fresh` a register without a word.
 */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Arbiter, CompareAndSetResult } from '../../src/arbiters/arbiter.ts';
import { Prng } from '../../src/base/prng.ts';
import {
  pair,
  promote,
  type RegisterWord,
  sameWord,
  solo,
  startAlone,
} from '../../src/core/register.ts';

export interface ArbiterFixture {
  /** Opens one more handle on the same register. */
  open(): Promise<Arbiter>;
  destroy(): Promise<void>;
}

export function arbiterContract(name: string, fresh: () => Promise<ArbiterFixture>): void {
  describe(`arbiter contract: ${name}`, () => {
    let fixture: ArbiterFixture;
    const handles: Arbiter[] = [];
    const open = async (): Promise<Arbiter> => {
      const arbiter = await fixture.open();
      handles.push(arbiter);
      return arbiter;
    };

    beforeEach(async () => {
      fixture = await fresh();
    });
    afterEach(async () => {
      for (const arbiter of handles.splice(0)) await arbiter.close();
      await fixture.destroy();
    });

    it('starts without a word and keeps the first one', async () => {
      const arbiter = await open();
      expect(await arbiter.read()).toBeNull();
      const word = startAlone('a#1');
      expect(await arbiter.compareAndSet(null, word)).toEqual({ won: true, word });
      expect(await arbiter.read()).toEqual(word);
      expect(await arbiter.compareAndSet(null, startAlone('b#1'))).toEqual({ won: false, word });
    });

    it('keeps a prepared change to itself until it is asked for', async () => {
      const [one, other] = [await open(), await open()];
      const first = startAlone('a#1');
      await one.compareAndSet(null, first);
      const [paired, alone] = [pair(first, 'b#1'), solo(first)];
      one.prepare(alone);
      one.prepare(paired);
      expect(await one.read()).toEqual(first);
      expect(await one.compareAndSet(first, paired)).toEqual({ won: true, word: paired });
      other.prepare(solo(paired));
      expect(await other.compareAndSet(paired, promote(paired))).toMatchObject({ won: true });
      other.prepare(solo(promote(paired)));
    });

    it('changes only from exactly the expected word', async () => {
      const arbiter = await open();
      const first = startAlone('a#1');
      await arbiter.compareAndSet(null, first);
      const paired = pair(first, 'b#1');
      const stranger: RegisterWord = { ...first, runner: 'c#1' };
      expect(await arbiter.compareAndSet(stranger, pair(stranger, 'b#1'))).toEqual({
        won: false,
        word: first,
      });
      expect((await arbiter.compareAndSet(first, paired)).won).toBe(true);
      expect(await arbiter.compareAndSet(first, solo(first))).toEqual({ won: false, word: paired });
      expect(await arbiter.read()).toEqual(paired);
    });

    it('refuses to skip a generation', async () => {
      const arbiter = await open();
      const first = startAlone('a#1');
      await arbiter.compareAndSet(null, first);
      const skipping = solo(solo(first));
      await expect(arbiter.compareAndSet(first, skipping)).rejects.toThrow(/adds one/);
    });

    it('lets exactly one of many members win each generation', async () => {
      const members: Arbiter[] = [];
      for (let index = 0; index < 6; index += 1) members.push(await open());
      const prng = new Prng(20260104);
      let word: RegisterWord | null = null;
      for (let round = 0; round < 40; round += 1) {
        const expected: RegisterWord | null = word;
        const wishes = members.map((_, index) => wish(expected, `m#${index}`, prng));
        const results: CompareAndSetResult[] = await Promise.all(
          members.map(async (member, index) => {
            const next = wishes[index];
            if (next === undefined) throw new Error('every member wishes for something');
            return await member.compareAndSet(expected, next);
          }),
        );
        const winners = results.filter((result) => result.won);
        expect(winners).toHaveLength(1);
        word = winners[0]?.word ?? null;
        for (const result of results) expect(sameWord(result.word, word)).toBe(true);
        for (const member of members) expect(await member.read()).toEqual(word);
      }
      expect(word?.generation).toBe(40);
    });
  });
}

/** One of the changes that a member could want from this word; all of them differ by member. */
function wish(expected: RegisterWord | null, member: string, prng: Prng): RegisterWord {
  if (expected === null) return startAlone(member);
  if (expected.partner === null) return pair({ ...expected, runner: `r/${member}` }, member);
  return prng.chance(0.5)
    ? solo({ ...expected, runner: `s/${member}` })
    : promote({ ...expected, partner: `p/${member}` });
}
