/**
 * Every kind of tracking gives the same answer to the same writes, in this process and in another.
 * A kind that this kernel lacks is skipped by name, and its refusal is tested instead.
 */
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { Prng } from '../../src/base/prng.ts';
import { MIB, PAGE_BYTES } from '../../src/base/units.ts';
import { hostFacts } from '../../src/native/host.ts';
import { Memory } from '../../src/native/memory.ts';
import { type PageRun, Tracker, type TrackerKind } from '../../src/native/tracker.ts';
import { PokeMachine } from '../fixtures/poke-machine.ts';
import { requireUserfault, skipAnywhere } from '../support/require.ts';

const BYTES = 64 * MIB;
const PAGES = BYTES / PAGE_BYTES;
const facts = hostFacts();
const uffdWorks = requireUserfault();
if (!facts.softDirty) skipAnywhere('tests on soft-dirty bits', 'the kernel was built without them');

interface Tracked {
  readonly pid: number;
  readonly address: bigint;
  readonly mprotectSocket?: string;
}

interface Target extends Tracked {
  poke(pages: readonly number[]): Promise<void>;
}

const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

async function machine(kind: 'shared' | 'anonymous', trackerSocket?: string): Promise<PokeMachine> {
  const started = await PokeMachine.start({
    kind,
    bytes: BYTES,
    ...(trackerSocket === undefined ? {} : { trackerSocket }),
  });
  cleanups.push(() => started.stop());
  return started;
}

function ownTarget(): Target {
  const memory = Memory.create({ name: 'tracked', bytes: BYTES });
  cleanups.push(() => memory.close());
  let value = 0;
  return {
    pid: 0,
    address: memory.address,
    poke: (pages) => {
      value = (value + 1) % 256;
      for (const page of pages) memory.write(page * PAGE_BYTES + 8, Buffer.from([value]));
      return Promise.resolve();
    },
  };
}

function temporarySocket(): string {
  const folder = mkdtempSync(join(tmpdir(), 'romulus-tracker-'));
  cleanups.push(() => rmSync(folder, { recursive: true }));
  return join(folder, 'control.tracker');
}

async function socketTarget(): Promise<Target> {
  const mprotectSocket = temporarySocket();
  const started = await machine('shared', mprotectSocket);
  return {
    pid: started.pid,
    address: started.address,
    mprotectSocket,
    poke: (pages) => started.poke(pages),
  };
}

function track(target: Tracked, kind: TrackerKind | 'auto'): Tracker {
  const tracker = new Tracker({
    pid: target.pid,
    ranges: [{ address: target.address, bytes: BYTES }],
    kind,
    ...(target.mprotectSocket === undefined ? {} : { mprotectSocket: target.mprotectSocket }),
  });
  cleanups.push(() => tracker.close());
  return tracker;
}

const pagesOf = (runs: readonly PageRun[]): number[] =>
  runs.flatMap((run) => Array.from({ length: run.pageCount }, (_, i) => run.firstPage + i));

const ascending = (pages: Iterable<number>): number[] => [...new Set(pages)].sort((a, b) => a - b);

interface Case {
  readonly kind: TrackerKind;
  readonly where: string;
  readonly works: boolean;
  readonly target: () => Target | Promise<Target>;
}

const everywhere = (kind: TrackerKind, works: boolean): Case[] => [
  { kind, works, where: 'this process', target: ownTarget },
  { kind, works, where: 'shared memory of another process', target: () => machine('shared') },
  { kind, works, where: 'anonymous memory of another process', target: () => machine('anonymous') },
];

const CASES: readonly Case[] = [
  ...everywhere('uffd-wp', uffdWorks),
  ...everywhere('soft-dirty', facts.softDirty),
  { kind: 'mprotect', works: true, where: 'this process', target: ownTarget },
  { kind: 'mprotect', works: true, where: 'another process, by socket', target: socketTarget },
];

describe.each(CASES)('$kind in $where', ({ kind, works, target }) => {
  test.runIf(works)('reports exactly the pages written, run by run', async () => {
    const tracked = await target();
    await tracked.poke([3, 4, 5, 1000]);
    const tracker = track(tracked, kind);
    expect(tracker.kind).toBe(kind);
    expect(tracker.scan(0)).toEqual([{ firstPage: 0, pageCount: PAGES }]);
    expect(tracker.scan(0)).toEqual([]);

    // Touched before and never touched, first and last, neighbours and lone ones.
    await tracked.poke([1000, 0, 7, 8, 9, PAGES - 1, 7, 5000]);
    expect(tracker.scan(0)).toEqual([
      { firstPage: 0, pageCount: 1 },
      { firstPage: 7, pageCount: 3 },
      { firstPage: 1000, pageCount: 1 },
      { firstPage: 5000, pageCount: 1 },
      { firstPage: PAGES - 1, pageCount: 1 },
    ]);
    expect(tracker.scan(0)).toEqual([]);

    const seed = 20_080_416;
    const random = new Prng(seed);
    for (let round = 0; round < 8; round += 1) {
      const written = Array.from({ length: random.nextBelow(3000) }, () => random.nextBelow(PAGES));
      await tracked.poke(written);
      expect(pagesOf(tracker.scan(0)), `seed ${seed} round ${round}`).toEqual(ascending(written));
    }
  });

  test.runIf(works)('takes part of a range and leaves the rest for later', async () => {
    const tracked = await target();
    const tracker = track(tracked, kind);
    tracker.scan(0, { fromPage: 100, pageCount: 800 });
    await tracked.poke([50, 99, 100, 899, 900, 901]);
    const part = { fromPage: 100, pageCount: 800 };
    expect(pagesOf(tracker.scan(0, part))).toEqual([100, 899]);
    expect(tracker.scan(0, part)).toEqual([]);
    expect(tracker.scan(0)).toEqual([
      { firstPage: 0, pageCount: 100 },
      { firstPage: 900, pageCount: PAGES - 900 },
    ]);
  });

  test.runIf(works)('can be detached and attached again', async () => {
    const tracked = await target();
    const first = track(tracked, kind);
    first.scan(0);
    first.close();
    first.close();
    await tracked.poke([1, 2, 3]);
    expect(() => first.scan(0)).toThrow(expect.objectContaining({ code: 'ERR_USAGE_CLOSED' }));
    const second = track(tracked, kind);
    second.scan(0);
    await tracked.poke([2, 70]);
    expect(pagesOf(second.scan(0))).toEqual([2, 70]);
  });

  test.runIf(!works)('is refused with the reason, because this kernel has it not', async () => {
    const tracked = await target();
    expect(() => track(tracked, kind)).toThrow(
      expect.objectContaining({
        code: expect.stringMatching(/^ERR_HOST_(TRACKER|ATTACH)_/),
        remedy: expect.any(String),
      }),
    );
  });
});

describe.runIf(uffdWorks)('attaching to a running process', () => {
  const descriptors = (pid: number): string[] => readdirSync(`/proc/${pid}/fd`).sort();
  const flags = (pid: number): string =>
    readFileSync(`/proc/${pid}/smaps`, 'utf8')
      .split('\n')
      .filter((line) => line.startsWith('VmFlags'))
      .join(' ');

  test('leaves no descriptor behind, and no registration after close', async () => {
    const target = await machine('shared');
    const before = descriptors(target.pid);
    const tracker = track(target, 'auto');
    expect(tracker.kind).toBe('uffd-wp');
    expect(descriptors(target.pid)).toEqual(before);
    expect(flags(target.pid)).toContain(' uw');
    tracker.close();
    expect(flags(target.pid)).not.toContain(' uw');
    await target.poke([1]);
  });

  test('does not disturb a busy process, however often', async () => {
    const target = await machine('shared');
    const random = new Prng(7);
    for (let round = 0; round < 40; round += 1) {
      await target.command('spin 10 50');
      const tracker = new Tracker({
        pid: target.pid,
        ranges: [{ address: target.address, bytes: BYTES }],
        kind: 'uffd-wp',
      });
      tracker.scan(0);
      tracker.close();
      await target.poke([random.nextBelow(PAGES)]);
    }
    expect(target.child.exitCode).toBeNull();
  });

  test('a second tracker of the same memory is refused', async () => {
    const target = await machine('shared');
    track(target, 'uffd-wp');
    expect(() => track(target, 'uffd-wp')).toThrow(
      expect.objectContaining({ code: 'ERR_HOST_TRACKER_BUSY' }),
    );
  });

  test('a stopped process can be attached to and stays stopped, also if stopped meanwhile', async () => {
    const target = await machine('shared');
    const stopped = (): Promise<void> =>
      expect.poll(() => readFileSync(`/proc/${target.pid}/stat`, 'utf8')).toMatch(/\) T /);
    for (let round = 0; round < 20; round += 1) {
      process.kill(target.pid, 'SIGSTOP');
      if (round % 2 === 0) await stopped();
      const tracker = track(target, 'uffd-wp');
      tracker.scan(0);
      await stopped();
      process.kill(target.pid, 'SIGCONT');
      await target.poke([12, 13 + round]);
      expect(pagesOf(tracker.scan(0))).toEqual([12, 13 + round]);
      tracker.close();
    }
  });

  test('a process that ended is lost, not idle', async () => {
    const target = await machine('shared');
    const tracker = track(target, 'uffd-wp');
    tracker.scan(0);
    await target.stop('SIGKILL');
    expect(() => tracker.scan(0)).toThrow(expect.objectContaining({ code: 'ERR_GUEST_LOST' }));
    expect(() => track(target, 'auto')).toThrow(
      expect.objectContaining({ code: 'ERR_GUEST_LOST' }),
    );
  });
});

describe('bad arguments', () => {
  const page = { address: 4096n, bytes: PAGE_BYTES };
  test.each([
    ['no range', { pid: 0, ranges: [], kind: 'auto' as const }],
    ['half a page', { pid: 0, ranges: [{ address: 4096n, bytes: 2048 }], kind: 'auto' as const }],
    ['odd address', { pid: 0, ranges: [{ address: 4097n, bytes: 4096 }], kind: 'auto' as const }],
    [
      'too many ranges',
      { pid: 0, ranges: Array.from({ length: 65 }, () => page), kind: 'auto' as const },
    ],
    ['negative process', { pid: -1, ranges: [page], kind: 'auto' as const }],
    ['unknown kind', { pid: 0, ranges: [page], kind: 'guess' as 'auto' }],
  ])('%s', (_name, options) => {
    expect(() => new Tracker(options)).toThrow(
      expect.objectContaining({ code: expect.stringMatching(/^ERR_USAGE_/) }),
    );
  });

  test('memory that is not there: auto names the cause of every kind', () => {
    expect(() => new Tracker({ pid: 0, ranges: [page], kind: 'auto' })).toThrow(
      expect.objectContaining({
        code: 'ERR_HOST_TRACKER_NONE',
        message: expect.stringMatching(/uffd-wp: .*; soft-dirty: .*; mprotect: /),
      }),
    );
  });

  test('a machine without a tracker socket', async () => {
    const target = await machine('shared');
    expect(() => track(target, 'mprotect')).toThrow(
      expect.objectContaining({ code: 'ERR_HOST_TRACKER_FOREIGN' }),
    );
    const nowhere = {
      pid: target.pid,
      address: target.address,
      mprotectSocket: temporarySocket(),
    };
    expect(() => track(nowhere, 'mprotect')).toThrow(
      expect.objectContaining({ code: 'ERR_HOST_TRACKER_SOCKET' }),
    );
  });
});
