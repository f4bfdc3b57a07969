import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NoArbiter } from '../../src/arbiters/none.ts';
import { pair, promote, startAlone } from '../../src/core/register.ts';
import { arbiterContract } from '../contracts/arbiter.ts';

arbiterContract('none', async () => {
  const arbiter = new NoArbiter();
  return await Promise.resolve({
    open: async () => await Promise.resolve(arbiter),
    destroy: async () => {
      await Promise.resolve();
    },
  });
});

describe('a word of its own', () => {
  let directory: string;
  let path: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'romulus-none-'));
    path = join(directory, 'own-word.json');
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  it('outlives the engine', async () => {
    const first = startAlone('a#1');
    const paired = pair(first, 'b#1');
    const before = new NoArbiter(path);
    await before.compareAndSet(null, first);
    await before.compareAndSet(first, paired);
    expect(await new NoArbiter(path).read()).toEqual(paired);
    expect(readdirSync(directory)).toEqual(['own-word.json']);
  });

  it('follows a newer word that the peer told, never an older one', async () => {
    const paired = pair(startAlone('a#1'), 'b#1');
    const backup = new NoArbiter(path);
    const promoted = promote(paired);
    expect(await backup.compareAndSet(paired, promoted)).toEqual({ won: true, word: promoted });
    expect((await backup.compareAndSet(paired, promote(paired))).won).toBe(false);
    expect((await backup.compareAndSet(null, startAlone('b#2'))).won).toBe(false);
    expect(await backup.read()).toEqual(promoted);
  });

  it('is not guessed at when it is damaged', async () => {
    writeFileSync(path, '{"generation":2,"runner":""}');
    await expect(new NoArbiter(path).read()).rejects.toMatchObject({ code: 'ERR_ARBITER_CORRUPT' });
  });
});
