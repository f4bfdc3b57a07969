/**
 * Goal: the register in a directory keeps the contract of arbiters, also between processes, and
 * trusts nothing it did not write. Method: real directories and, for races, real processes.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  linkSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FileArbiter } from '../../src/arbiters/file.ts';
import { TEMPORARY_FILE_AGE_MS_MAX } from '../../src/arbiters/file-steps.ts';
import { openArbiter } from '../../src/arbiters/index.ts';
import { formatRegisterFile, registerFileName } from '../../src/arbiters/register-file.ts';
import { pair, type RegisterWord, solo, startAlone } from '../../src/core/register.ts';
import { arbiterContract } from '../contracts/arbiter.ts';

arbiterContract('file', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'romulus-register-'));
  return await Promise.resolve({
    open: async () => await Promise.resolve(new FileArbiter({ directory, generationsKept: 8 })),
    destroy: async () => {
      rmSync(directory, { recursive: true });
      await Promise.resolve();
    },
  });
});

describe('file arbiter', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'romulus-register-'));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true });
  });

  async function advance(arbiter: FileArbiter, changes: number): Promise<RegisterWord> {
    let word = await arbiter.read();
    for (let change = 0; change < changes; change += 1) {
      const next = word === null ? startAlone('a#1') : solo(word);
      expect((await arbiter.compareAndSet(word, next)).won).toBe(true);
      word = next;
    }
    if (word === null) throw new Error('no change was asked for');
    return word;
  }

  it('makes the file of a prepared change beforehand, once, and removes what was not used', async () => {
    const arbiter = new FileArbiter({ directory });
    const word = await advance(arbiter, 1);
    arbiter.prepare(solo(word));
    await arbiter.read();
    const [prepared = '', ...others] = readdirSync(directory).filter((name) =>
      name.startsWith('temporary-'),
    );
    expect(others).toEqual([]);
    expect(readFileSync(join(directory, prepared), 'utf8')).toBe(formatRegisterFile(solo(word)));
    expect((await arbiter.compareAndSet(word, solo(word))).won).toBe(true);
    arbiter.prepare(solo(solo(word)));
    await arbiter.close();
    expect(readdirSync(directory).toSorted()).toEqual([registerFileName(1), registerFileName(2)]);
  });

  it('loses a prepared change to whoever came between, and wins one prepared too early', async () => {
    const arbiter = new FileArbiter({ directory });
    const other = new FileArbiter({ directory });
    const word = await advance(arbiter, 1);
    const theirs = pair(word, 'b#1');
    arbiter.prepare(solo(word));
    await arbiter.read();
    expect((await other.compareAndSet(word, theirs)).won).toBe(true);
    expect(await arbiter.compareAndSet(word, solo(word))).toEqual({ won: false, word: theirs });
    // Read when the word before it was not there yet.
    const last = solo(solo(theirs));
    arbiter.prepare(last);
    await arbiter.read();
    expect((await other.compareAndSet(theirs, solo(theirs))).won).toBe(true);
    expect(await arbiter.compareAndSet(solo(theirs), last)).toEqual({ won: true, word: last });
    await Promise.all([arbiter.close(), other.close()]);
    expect(readdirSync(directory).filter((name) => name.startsWith('temporary-'))).toEqual([]);
  });

  it('lets exactly one of several processes win each generation', async () => {
    const rounds = 25;
    const children = ['p0', 'p1', 'p2', 'p3'].map((name) =>
      spawn(
        process.execPath,
        ['--import', 'tsx', 'test/arbiters/race-member.ts', directory, name, String(rounds)],
        { stdio: ['ignore', 'pipe', 'inherit'] },
      ),
    );
    const wins = new Map<number, string[]>();
    await Promise.all(
      children.map(async (child) => {
        let output = '';
        child.stdout.setEncoding('utf8').on('data', (text: string) => {
          output += text;
        });
        const [exitCode] = (await once(child, 'close')) as [number | null];
        expect(exitCode).toBe(0);
        for (const line of output.trim().split('\n')) {
          if (line === '') continue;
          const { generation, name } = JSON.parse(line) as { generation: number; name: string };
          wins.set(generation, [...(wins.get(generation) ?? []), name]);
        }
      }),
    );
    // Whoever was overtaken between its change and the look that confirms it, counts it as lost:
    // a generation may have no winner, never two, and the one that stands has exactly one.
    expect(wins.get(rounds)).toHaveLength(1);
    expect(wins.size).toBeGreaterThan(rounds / 2);
    for (const winners of wins.values()) expect(winners).toHaveLength(1);
  });

  it('keeps the newest generations, and no temporary file', async () => {
    const arbiter = new FileArbiter({ directory, generationsKept: 5 });
    await advance(arbiter, 20);
    await arbiter.close();
    const names = readdirSync(directory).sort();
    expect(names).toEqual([16, 17, 18, 19, 20].map((generation) => registerFileName(generation)));
    expect(arbiter.pruneError).toBeNull();
  });

  it('removes temporary files that a dead process left, not fresh ones', async () => {
    const old = join(directory, 'temporary-1-00');
    writeFileSync(old, 'x');
    const longAgo = (Date.now() - TEMPORARY_FILE_AGE_MS_MAX - 60_000) / 1000;
    utimesSync(old, longAgo, longAgo);
    writeFileSync(join(directory, 'temporary-2-00'), 'x');
    const arbiter = new FileArbiter({ directory });
    await advance(arbiter, 1);
    await arbiter.close();
    expect(readdirSync(directory).sort()).toEqual([registerFileName(1), 'temporary-2-00']);
  });

  it('counts a change as lost whose name was free only because it is long past', async () => {
    const arbiter = new FileArbiter({ directory, generationsKept: 2 });
    await advance(arbiter, 10);
    // What a member leaves that read generation 3, stood still, and links its file now.
    const stale: RegisterWord = solo(solo(solo(startAlone('stale#1'))));
    writeFileSync(join(directory, 'left-over'), formatRegisterFile(stale));
    linkSync(join(directory, 'left-over'), join(directory, registerFileName(stale.generation)));
    expect((await arbiter.read())?.generation).toBe(10);
    expect(await arbiter.compareAndSet(stale, solo(stale))).toMatchObject({
      won: false,
      word: { generation: 10 },
    });
  });

  it.each([
    ['empty', (): string => ''],
    ['torn', (text: string): string => text.slice(0, text.length - 3)],
    ['longer', (text: string): string => `${text}x`],
    ['with another content', (text: string): string => text.replace('a#1', 'b#1')],
    ['of another generation', (): string => formatRegisterFile(solo(startAlone('a#1')))],
    ['huge', (): string => 'x'.repeat(100_000)],
  ])('does not trust a file that is %s', async (_what, damage) => {
    const arbiter = new FileArbiter({ directory });
    await advance(arbiter, 1);
    const path = join(directory, registerFileName(1));
    writeFileSync(path, damage(readFileSync(path, 'utf8')));
    await expect(arbiter.read()).rejects.toMatchObject({ code: 'ERR_ARBITER_CORRUPT' });
    const change = arbiter.compareAndSet(startAlone('a#1'), solo(startAlone('a#1')));
    await expect(change).rejects.toMatchObject({ code: 'ERR_ARBITER_CORRUPT' });
  });

  it('does not trust a name that nearly is a generation, and ignores other names', async () => {
    const arbiter = new FileArbiter({ directory });
    await advance(arbiter, 2);
    writeFileSync(join(directory, '.nfs0001'), 'x');
    writeFileSync(join(directory, 'README'), 'x');
    expect((await arbiter.read())?.generation).toBe(2);
    writeFileSync(join(directory, 'generation-7'), 'x');
    await expect(arbiter.read()).rejects.toMatchObject({ code: 'ERR_ARBITER_CORRUPT' });
  });

  it('notices a register that went backwards', async () => {
    const arbiter = new FileArbiter({ directory });
    await advance(arbiter, 3);
    rmSync(join(directory, registerFileName(3)));
    await expect(arbiter.read()).rejects.toMatchObject({ code: 'ERR_ARBITER_UNREACHABLE' });
  });

  it('says that the directory is missing, and does not make it', async () => {
    const arbiter = new FileArbiter({ directory: join(directory, 'not-mounted') });
    const failure = arbiter.read();
    await expect(failure).rejects.toMatchObject({ code: 'ERR_ARBITER_UNREACHABLE' });
    await expect(failure).rejects.toThrow(/ENOENT/);
    expect(readdirSync(directory)).toEqual([]);
  });

  it('says that it lacks permission', async () => {
    // In sysfs nobody, not even root, may create a file.
    const arbiter = new FileArbiter({ directory: '/sys/kernel' });
    expect(await arbiter.read()).toBeNull();
    const change = arbiter.compareAndSet(null, startAlone('a#1'));
    await expect(change).rejects.toMatchObject({ code: 'ERR_ARBITER_PERMISSION' });
  });

  it('answers nothing after close', async () => {
    const arbiter = new FileArbiter({ directory });
    await arbiter.close();
    await expect(arbiter.read()).rejects.toMatchObject({ code: 'ERR_ARBITER_UNREACHABLE' });
  });
});

describe('openArbiter', () => {
  it('knows the arbiters by name', async () => {
    expect(openArbiter('file:/srv/x').name).toBe('file:/srv/x');
    expect(openArbiter('none').name).toBe('none');
    expect(() => openArbiter('etcd:http://127.0.0.1:2379')).toThrow(/not available/);
    expect(() => openArbiter('command:/bin/true')).toThrow(/not available/);
    for (const name of ['', 'file', 'file:', 'file:relative', 'None', 'none:x']) {
      expect(() => openArbiter(name), name).toThrow(/names no arbiter/);
    }
    await openArbiter('none').close();
  });
});
