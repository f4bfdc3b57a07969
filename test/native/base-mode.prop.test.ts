/**
 * Goal: a base image costs the primary no memory, and what follows it arrives all the same. Method: any
 * mix of base, delta and full encodings of one block, applied as they come, beside a plain copy.
 */
import fc from 'fast-check';
import { afterEach, describe, expect, test } from 'vitest';
import { Prng } from '../../src/base/prng.ts';
import { MIB, PAGE_BYTES } from '../../src/base/units.ts';
import { Memory } from '../../src/native/memory.ts';
import { Baseline, type EncodeMode, PageImage } from '../../src/native/page-store.ts';

const PAGES = 64;
const BLOCK = 2;
const open: { close(): void }[] = [];
afterEach(() => {
  for (const item of open.splice(0)) item.close();
});
function keep<T extends { close(): void }>(item: T): T {
  open.push(item);
  return item;
}

function pair(pages: number): { baseline: Baseline; memory: Memory; image: PageImage } {
  const memory = keep(Memory.create({ name: 'romulus-test', bytes: pages * PAGE_BYTES }));
  return {
    baseline: keep(new Baseline({ pages })),
    memory,
    image: new PageImage({ memory, blockId: BLOCK }),
  };
}

/** What a machine may write into a page: nothing, one byte, some, all. */
function scribble(page: Uint8Array, kind: number, random: Prng): void {
  if (kind === 0) page.fill(0);
  if (kind === 1) page[random.nextBelow(PAGE_BYTES)] = 1 + random.nextBelow(255);
  if (kind === 2)
    for (let at = 0; at < 200; at += 1) page[random.nextBelow(PAGE_BYTES)] = random.nextBelow(256);
  if (kind === 3) for (let at = 0; at < PAGE_BYTES; at += 1) page[at] = 1 + random.nextBelow(255);
}

const anEpoch = fc.record({
  mode: fc.constantFrom<EncodeMode>('base', 'delta', 'delta', 'full'),
  indexes: fc.uniqueArray(fc.nat(PAGES - 1), { minLength: 1, maxLength: PAGES }),
  kind: fc.nat(4),
  seed: fc.nat(),
});

describe('a base image', () => {
  test('and whatever follows it comes over, and both sides know the same digest', () => {
    fc.assert(
      fc.property(fc.array(anEpoch, { minLength: 1, maxLength: 12 }), (epochs) => {
        const { baseline, memory, image } = pair(PAGES);
        const machine = new Uint8Array(PAGES * PAGE_BYTES);
        for (const [at, { mode, indexes, kind, seed }] of epochs.entries()) {
          const random = new Prng(seed);
          const sorted = Uint32Array.from(indexes).sort();
          const pages = new Uint8Array(sorted.length * PAGE_BYTES);
          for (const [place, index] of sorted.entries()) {
            const page = machine.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES);
            scribble(page, kind, random);
            pages.set(page, place * PAGE_BYTES);
          }
          const { batches } = baseline.encodePages(sorted, pages, {
            blockId: BLOCK,
            epoch: at + 1,
            mode,
          });
          for (const batch of batches) image.apply(batch);
          expect(Buffer.compare(memory.read(0, machine.length), machine)).toBe(0);
          expect(image.digest()).toBe(baseline.digest());
        }
        baseline.close();
        memory.close();
      }),
      { numRuns: 150 },
    );
  });

  test('takes no memory for what it held; a page written again does', () => {
    const count = 256 * (MIB / PAGE_BYTES);
    const { baseline } = pair(count);
    const slice = new Uint8Array(16 * MIB).fill(7);
    const sliceCount = slice.length / PAGE_BYTES;
    const sliceAt = (from: number): Uint32Array =>
      Uint32Array.from({ length: sliceCount }, (_, at) => from + at);
    const encode = (from: number, mode: EncodeMode): void => {
      const { batches } = baseline.encodePages(sliceAt(from), slice, {
        blockId: BLOCK,
        epoch: 1,
        mode,
      });
      for (const { buffer } of batches) baseline.recycle(buffer);
    };
    encode(0, 'base');
    const beforeBytes = process.memoryUsage.rss();
    for (let from = sliceCount; from < count; from += sliceCount) encode(from, 'base');
    // Marks and CRCs of 61,440 pages are 0.7 MiB, and the pages 240.
    expect(process.memoryUsage.rss() - beforeBytes).toBeLessThan(32 * MIB);
    for (let from = 0; from < count; from += sliceCount) encode(from, 'delta');
    expect(process.memoryUsage.rss() - beforeBytes).toBeGreaterThan(200 * MIB);
  });

  test('a page of it is sent whole once more, and as a delta from then on', () => {
    const { baseline } = pair(PAGES);
    const page = new Uint8Array(PAGE_BYTES).fill(9);
    const encode = (epoch: number, mode: EncodeMode): ReturnType<Baseline['encodePages']> =>
      baseline.encodePages(Uint32Array.of(5), page, { blockId: BLOCK, epoch, mode });
    encode(1, 'base');
    page[100] = 1;
    expect(encode(2, 'delta')).toMatchObject({ raw: 1, pages: 1 });
    page[100] = 2;
    expect(encode(3, 'delta')).toMatchObject({ runs: 1, pages: 1 });
    expect(encode(4, 'delta')).toMatchObject({ unchanged: 1, pages: 0 });
  });

  test('what changed after its epoch can be told, what changed before it cannot', () => {
    const { baseline } = pair(PAGES);
    const two = new Uint8Array(2 * PAGE_BYTES).fill(9);
    const options = { blockId: BLOCK };
    baseline.encodePages(Uint32Array.of(5, 6), two, { ...options, epoch: 4, mode: 'base' });
    two[0] = 1;
    baseline.encodePages(Uint32Array.of(5), two.subarray(0, PAGE_BYTES), { ...options, epoch: 6 });
    expect(baseline.pagesChangedSince(4)).toBe(1);
    expect(baseline.encodeChangedSince(4, options)).toMatchObject({ raw: 1, nextPage: null });
    expect(baseline.pagesChangedSince(3)).toBe(2);
    expect(() => baseline.encodeChangedSince(3, options)).toThrow(
      expect.objectContaining({ code: 'ERR_INTERNAL_BASELINE' }),
    );
  });
});
