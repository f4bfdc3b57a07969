/** Captures: the right pages with the right bytes, by both ways of copying, one thread and two. */
import { closeSync, openSync, readdirSync, readSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { Prng } from '../../src/base/prng.ts';
import { MIB, PAGE_BYTES } from '../../src/base/units.ts';
import { Capture } from '../../src/native/capture.ts';
import { hostFacts } from '../../src/native/host.ts';
import { loadNative } from '../../src/native/load.ts';
import { Memory } from '../../src/native/memory.ts';
import { Tracker } from '../../src/native/tracker.ts';
import { PokeMachine } from '../fixtures/poke-machine.ts';
import { requireUserfault, skipAnywhere } from '../support/require.ts';

const BYTES = 256 * MIB;
const PAGES = BYTES / PAGE_BYTES;
const facts = hostFacts();
const attaches = requireUserfault();

const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

function owned<T extends { close(): void }>(resource: T): T {
  cleanups.push(() => resource.close());
  return resource;
}

interface Setup {
  readonly capture: Capture;
  readonly memory: Memory;
  readonly tracker: Tracker;
}

/** Memory of this process, tracked by mprotect (works everywhere) or by the kernel. */
function own(kind: 'mprotect' | 'auto', threads: 1 | 2, bytes = BYTES): Setup {
  const memory = owned(Memory.create({ name: 'captured', bytes }));
  const tracker = owned(
    new Tracker({ pid: 0, ranges: [{ address: memory.address, bytes }], kind }),
  );
  const capture = owned(new Capture({ tracker, block: 0, memory, threads }));
  return { capture, memory, tracker };
}

const stamp = (page: number, round: number): Buffer => {
  const bytes = Buffer.alloc(PAGE_BYTES, (page * 31 + round) & 0xff);
  bytes.writeUInt32LE(page, (page % 1000) * 4);
  bytes.writeUInt32LE(round, PAGE_BYTES - 4);
  return bytes;
};

describe.each([
  { kind: 'mprotect', threads: 1 },
  { kind: 'mprotect', threads: 2 },
  { kind: 'auto', threads: 1 },
  { kind: 'auto', threads: 2 },
] as const)('capture of this process, tracker $kind, $threads thread(s)', ({ kind, threads }) => {
  test('stages exactly the pages written, ascending, with their bytes', () => {
    const { capture, memory } = own(kind, threads);
    expect(capture.capture({ full: true })).toMatchObject({ pages: 0, runs: 0 });
    const seed = 4242;
    const random = new Prng(seed);
    for (let round = 0; round < 6; round += 1) {
      const count = [0, 1, 63, 130, 2000, 5000][round] ?? 0;
      const pages = new Set(Array.from({ length: count }, () => random.nextBelow(PAGES)));
      for (const page of pages) memory.write(page * PAGE_BYTES, stamp(page, round));
      const stats = capture.capture();
      const expected = [...pages].sort((a, b) => a - b);
      const label = `seed ${seed} round ${round}`;
      expect([...capture.stagedIndexes()], label).toEqual(expected);
      expect(stats.pages).toBe(expected.length);
      const wrong = expected.findIndex(
        (page, i) => !capture.stagedPage(i).equals(stamp(page, round)),
      );
      expect(wrong, label).toBe(-1);
    }
    expect(() => capture.stagedPage(PAGES)).toThrow(
      expect.objectContaining({ code: 'ERR_USAGE_RANGE' }),
    );
  });

  test('a full capture skips holes, allocates none, and starts tracking anew', () => {
    const { capture, memory } = own(kind, threads);
    for (const page of [5, 6, 40_000]) memory.write(page * PAGE_BYTES, stamp(page, 1));
    expect(capture.capture({ full: true, fromPage: 6, pageCount: 30_000 })).toMatchObject({
      pages: 1,
    });
    expect(capture.stagedPage(0).equals(stamp(6, 1))).toBe(true);
    expect(capture.capture({ full: true })).toMatchObject({ pages: 3, runs: 2 });
    expect([...capture.stagedIndexes()]).toEqual([5, 6, 40_000]);
    expect(memory.populatedBytes()).toBe(3 * PAGE_BYTES);
    expect(capture.capture().pages).toBe(0);
    memory.write(7 * PAGE_BYTES, Buffer.from([1]));
    expect(capture.capture().pages).toBe(1);
    expect(memory.populatedBytes()).toBe(4 * PAGE_BYTES);
  });

  test('a full capture in parts sees pages that came since the part before', () => {
    const { capture, memory } = own(kind, threads);
    for (const page of [1, 2, 3, 9]) memory.write(page * PAGE_BYTES, stamp(page, 1));
    const part = (fromPage: number): number[] => {
      capture.capture({ full: true, fromPage, pageCount: 4 });
      return [...capture.stagedIndexes()];
    };
    expect(part(0)).toEqual([1, 2, 3]);
    for (const page of [4, 5, 8]) memory.write(page * PAGE_BYTES, stamp(page, 2));
    expect(part(4)).toEqual([4, 5]);
    memory.write(10 * PAGE_BYTES, stamp(10, 3));
    expect(part(8)).toEqual([8, 9, 10]);
    expect(part(12)).toEqual([]);
    expect(part(0)).toEqual([1, 2, 3]);
  });

  test('without a full capture first, everything counts as dirty', () => {
    const { capture, memory } = own(kind, threads, 4 * MIB);
    memory.write(0, Buffer.from('first'));
    expect(capture.capture()).toMatchObject({ pages: 1024, runs: 1 });
    expect(capture.stagedPage(0).toString('latin1', 0, 5)).toBe('first');
    expect(capture.stagedPage(1023).equals(Buffer.alloc(PAGE_BYTES))).toBe(true);
  });
});

describe.runIf(attaches).each([
  { kind: 'shared', mapped: true },
  { kind: 'shared', mapped: false },
  { kind: 'anonymous', mapped: false },
] as const)('capture of another process, $kind memory, mapped: $mapped', ({ kind, mapped }) => {
  async function foreign(bytes: number): Promise<{ machine: PokeMachine; capture: Capture }> {
    const machine = await PokeMachine.start({ kind, bytes });
    cleanups.push(() => machine.stop());
    const tracker = owned(
      new Tracker({
        pid: machine.pid,
        ranges: [{ address: machine.address, bytes }],
        kind: 'auto',
      }),
    );
    const memory = mapped
      ? owned(Memory.map({ path: machine.sharedPath ?? '', bytes, writable: false }))
      : undefined;
    const capture = owned(
      new Capture({ tracker, block: 0, threads: 2, ...(memory === undefined ? {} : { memory }) }),
    );
    return { machine, capture };
  }

  test('stages what the other process wrote', async () => {
    const { machine, capture } = await foreign(BYTES);
    capture.capture({ full: true });
    for (const pages of [[9], [0, 1, 2, 30_000, PAGES - 1], [30_000]]) {
      await machine.poke(pages);
      expect(capture.capture().pages).toBe(pages.length);
      expect([...capture.stagedIndexes()]).toEqual(pages);
    }
    expect(capture.stagedPage(0).readBigUInt64LE(0)).toBe(3n);
    await machine.command('random 20000 7');
    const stats = capture.capture();
    expect(stats.pages).toBeGreaterThan(15_000);
    for (let i = 0; i < stats.pages; i += 97) {
      expect(capture.stagedPage(i).includes(Buffer.from([4, 0, 0, 0, 0, 0, 0, 0]))).toBe(true);
    }
  });

  test('a base image taken while the process writes, then one capture, is the whole truth', async () => {
    const bytes = 32 * MIB;
    const { machine, capture } = await foreign(bytes);
    await machine.command('fill 100 4000');
    await machine.command('spin 1000 3000');
    const image = Buffer.alloc(bytes);
    const apply = (): void => {
      capture.stagedIndexes().forEach((page, i) => {
        capture.stagedPage(i).copy(image, page * PAGE_BYTES);
      });
    };
    for (let fromPage = 0; fromPage < capture.pageCount; fromPage += 1024) {
      capture.capture({ full: true, fromPage, pageCount: 1024 });
      apply();
    }
    await machine.poke([3]);
    capture.capture();
    apply();
    // Checked against the process's memory itself, read by another road.
    const truth = Buffer.alloc(bytes);
    const fd = openSync(`/proc/${machine.pid}/mem`, 'r');
    cleanups.push(() => closeSync(fd));
    readSync(fd, truth, 0, bytes, machine.address);
    expect(image.equals(truth)).toBe(true);
  });

  test('a process that ended is lost', async () => {
    const { machine, capture } = await foreign(16 * MIB);
    capture.capture({ full: true });
    await machine.stop('SIGKILL');
    expect(() => capture.capture()).toThrow(expect.objectContaining({ code: 'ERR_GUEST_LOST' }));
    // What it had taken is gone: nothing less than a full one is to follow.
    for (const again of [() => capture.capture(), () => capture.captureAhead()])
      expect(again).toThrow(expect.objectContaining({ code: 'ERR_INTERNAL_STAGED_PAGES' }));
    expect(() => capture.capture({ full: true })).toThrow(
      expect.objectContaining({ code: 'ERR_GUEST_LOST' }),
    );
  });
});

test('every vector form copies alike', () => {
  const native = loadNative<{ benchCopyByEachForm(page: Uint8Array): Buffer[] }>();
  const page = Buffer.from(
    Array.from({ length: PAGE_BYTES }, (_, i) => (i * 167 + (i >> 8)) & 0xff),
  );
  const copies = native.benchCopyByEachForm(page);
  expect(copies.length).toBe(['scalar', 'avx2', 'avx512'].indexOf(facts.simd) + 1);
  for (const copy of copies) expect(copy.equals(page)).toBe(true);
});

test('bounds, and use after close', () => {
  const { capture, memory, tracker } = own('mprotect', 2, MIB);
  const outside = expect.objectContaining({ code: 'ERR_USAGE_RANGE' });
  expect(() => capture.capture({ fromPage: 257 })).toThrow(
    expect.objectContaining({ code: expect.stringMatching(/^ERR_USAGE_/) }),
  );
  expect(() => capture.capture({ fromPage: 1, pageCount: 256 })).toThrow(outside);
  expect(() => new Capture({ tracker, block: 1, threads: 1 })).toThrow(outside);
  const other = owned(Memory.create({ name: 'other', bytes: 2 * MIB }));
  expect(() => new Capture({ tracker, block: 0, memory: other, threads: 1 })).toThrow(
    expect.objectContaining({ code: 'ERR_USAGE_MEMORY_SIZE' }),
  );
  memory.close();
  expect(capture.capture().pages).toBe(256);
  capture.trim();
  capture.close();
  capture.close();
  expect(() => capture.capture()).toThrow(expect.objectContaining({ code: 'ERR_USAGE_CLOSED' }));
});

if (facts.cores < 2) skipAnywhere('the end of a helper thread', 'there is one processor');
test.runIf(facts.cores > 1)('the helper thread ends with its capture', async () => {
  const threads = (): number => readdirSync('/proc/self/task').length;
  const { tracker } = own('mprotect', 1, MIB);
  const before = threads();
  const captures = [1, 2, 3].map(() => new Capture({ tracker, block: 0, threads: 2 }));
  expect(threads()).toBe(before + 3);
  for (const capture of captures) capture.close();
  // The kernel tells of a thread's end a moment before it takes it off this list.
  await expect.poll(threads).toBe(before);
});
