/** Baseline and image: epochs, resynchronisation, digests, holes, bounds, life cycle. */
import { afterEach, describe, expect, test } from 'vitest';
import { Prng } from '../../src/base/prng.ts';
import { MIB, PAGE_BYTES } from '../../src/base/units.ts';
import { Memory } from '../../src/native/memory.ts';
import { applyPages } from '../../src/native/page-delta.ts';
import { Baseline, PageImage, releaseBuffer } from '../../src/native/page-store.ts';

const PAGES = 4096;
const open: { close(): void }[] = [];
function keep<T extends { close(): void }>(item: T): T {
  open.push(item);
  return item;
}
afterEach(() => {
  for (const item of open.splice(0)) item.close();
});

function pair(): { baseline: Baseline; memory: Memory; image: PageImage } {
  const baseline = keep(new Baseline({ pages: PAGES }));
  const memory = keep(Memory.create({ name: 'romulus-test', bytes: PAGES * PAGE_BYTES }));
  return { baseline, memory, image: new PageImage({ memory, blockId: 2 }) };
}

/** Random pages at ascending random indexes. */
function pagesOf(prng: Prng, count: number): { indexes: Uint32Array; pages: Uint8Array } {
  const chosen = new Set<number>();
  while (chosen.size < count) chosen.add(prng.nextBelow(PAGES));
  const indexes = Uint32Array.from(chosen).sort();
  const pages = new Uint8Array(count * PAGE_BYTES);
  for (let at = 0; at < count; at += 1) {
    const bytes = prng.pick([0, 1, 9, 200, 3000, PAGE_BYTES]);
    const start = at * PAGE_BYTES + prng.nextBelow(PAGE_BYTES - bytes + 1);
    for (let byte = 0; byte < bytes; byte += 1) pages[start + byte] = prng.nextUint32() >>> 24;
  }
  return { indexes, pages };
}

describe('Baseline and PageImage', () => {
  test('stay equal over many epochs, and say so by their digests', () => {
    const { baseline, image, memory } = pair();
    const prng = new Prng(1);
    const expected = new Uint8Array(PAGES * PAGE_BYTES);
    for (let epoch = 1; epoch <= 20; epoch += 1) {
      const { indexes, pages } = pagesOf(prng, 100);
      const encoded = baseline.encodePages(indexes, pages, {
        blockId: 2,
        epoch,
        maxBatchBytes: 64 * 1024,
      });
      for (const batch of encoded.batches) image.apply(batch);
      indexes.forEach((index, at) =>
        expected.set(pages.subarray(at * PAGE_BYTES, (at + 1) * PAGE_BYTES), index * PAGE_BYTES),
      );
      expect(image.digest()).toBe(baseline.digest());
    }
    expect(memory.read(0, PAGES * PAGE_BYTES).equals(expected)).toBe(true);
  });

  test('long stretches of raw pages and of zeros arrive, also over what was there', () => {
    const { baseline, image, memory } = pair();
    const prng = new Prng(7);
    const expected = new Uint8Array(PAGES * PAGE_BYTES);
    // Lengths around the one from which a stretch is written as a whole, with gaps between.
    const stretches = [1, 31, 32, 33, 200, 255].map((count, at) => ({ first: at * 400, count }));
    for (let epoch = 1; epoch <= 4; epoch += 1) {
      const indexes = Uint32Array.from(
        stretches.flatMap(({ first, count }) =>
          Array.from({ length: count }, (_, at) => first + at),
        ),
      );
      const words = new Uint32Array((indexes.length * PAGE_BYTES) / 4);
      if (epoch !== 2)
        for (let at = 0; at < words.length; at += 1) words[at] = prng.nextUint32() | 0x01010101;
      const pages = new Uint8Array(words.buffer);
      for (const batch of baseline.encodePages(indexes, pages, { blockId: 2, epoch }).batches)
        image.apply(batch);
      indexes.forEach((index, at) =>
        expected.set(pages.subarray(at * PAGE_BYTES, (at + 1) * PAGE_BYTES), index * PAGE_BYTES),
      );
      expect(image.digest()).toBe(baseline.digest());
      expect(memory.read(0, PAGES * PAGE_BYTES).equals(expected)).toBe(true);
    }
  });

  test('pages far from each other take memory for themselves alone', () => {
    const count = 200;
    const baseline = keep(new Baseline({ pages: 5000 * count }));
    const indexes = Uint32Array.from({ length: count }, (_, at) => at * 5000);
    const pages = new Uint8Array(count * PAGE_BYTES).fill(7);
    const beforeBytes = process.memoryUsage.rss();
    baseline.encodePages(indexes, pages, { blockId: 2, epoch: 1 });
    // With a huge page for each it would be 400 MiB.
    expect(process.memoryUsage.rss() - beforeBytes).toBeLessThan(64 * MIB);
  });

  test('a released buffer is empty, and may be released again', () => {
    const bytes = new Uint8Array(MIB);
    releaseBuffer(bytes.buffer);
    expect(bytes.byteLength).toBe(0);
    releaseBuffer(bytes.buffer);
    expect(() => releaseBuffer({} as ArrayBuffer)).toThrow(
      expect.objectContaining({ code: 'ERR_USAGE_BYTES' }),
    );
  });

  test('batches hold what they say, in buffers of their own', () => {
    const { baseline } = pair();
    const { indexes, pages } = pagesOf(new Prng(2), 1000);
    const encoded = baseline.encodePages(indexes, pages, { blockId: 2, epoch: 1, mode: 'full' });
    expect(encoded.zero + encoded.raw).toBe(1000);
    expect(encoded.pages).toBe(1000);
    expect(encoded.rawBytes).toBe(1000 * PAGE_BYTES);
    expect(encoded.batches.every((batch) => batch.length <= MIB)).toBe(true);
    expect(new Set(encoded.batches.map((batch) => batch.buffer)).size).toBe(encoded.batches.length);
    const before = encoded.batches.map((batch) => Buffer.from(batch).toString('base64'));
    // Later calls must not write into buffers that were handed out; each must be transferable.
    baseline.encodePages(
      indexes,
      pages.map((byte) => byte ^ 1),
      { blockId: 2, epoch: 2 },
    );
    expect(encoded.batches.map((batch) => Buffer.from(batch).toString('base64'))).toEqual(before);
    for (const { buffer } of encoded.batches) structuredClone(buffer, { transfer: [buffer] });
  });

  test.each([
    { what: 'large', changedBytes: PAGE_BYTES },
    { what: 'small', changedBytes: 300 },
  ])('$what buffers given back are written anew, those kept are not', ({ changedBytes }) => {
    const { baseline, image } = pair();
    const indexes = Uint32Array.from({ length: 600 }, (_, page) => page);
    const pages = new Uint8Array(600 * PAGE_BYTES);
    const kept: { batch: Uint8Array; copy: Buffer }[] = [];
    const seen = new Set<ArrayBufferLike>();
    let batchCount = 0;
    for (let epoch = 1; epoch <= 6; epoch += 1) {
      for (let at = 0; at < pages.length; at += PAGE_BYTES) {
        pages.fill(epoch, at, at + changedBytes);
      }
      const { batches } = baseline.encodePages(indexes, pages, { blockId: 2, epoch });
      batches.forEach((batch, at) => {
        image.apply(batch);
        seen.add(batch.buffer);
        batchCount += 1;
        if ((epoch + at) % 2 === 0) baseline.recycle(batch.buffer);
        else kept.push({ batch, copy: Buffer.from(batch) });
      });
    }
    expect(image.digest()).toBe(baseline.digest());
    for (const { batch, copy } of kept) expect(copy.equals(batch)).toBe(true);
    // Whoever has one has it alone, and what came back was used.
    expect(new Set(kept.map(({ batch }) => batch.buffer)).size).toBe(kept.length);
    expect(seen.size).toBeLessThan(batchCount);
  });

  test('only whole buffers can be given back', () => {
    const { baseline } = pair();
    const detached = new ArrayBuffer(1 << 20);
    structuredClone(detached, { transfer: [detached] });
    baseline.recycle(detached);
    expect(() => baseline.recycle({} as ArrayBuffer)).toThrow(
      expect.objectContaining({ code: 'ERR_USAGE_BYTES' }),
    );
  });

  test('a backup that missed epochs is brought up to date from the baseline', () => {
    const { baseline, image } = pair();
    const prng = new Prng(3);
    for (let epoch = 1; epoch <= 8; epoch += 1) {
      const { indexes, pages } = pagesOf(prng, 150);
      const { batches } = baseline.encodePages(indexes, pages, { blockId: 2, epoch });
      if (epoch <= 5) for (const batch of batches) image.apply(batch);
    }
    const missing = baseline.pagesChangedSince(5);
    expect(missing).toBeGreaterThan(150);
    expect(baseline.pagesChangedSince(8)).toBe(0);
    expect(image.digest()).not.toBe(baseline.digest());
    let fromPage: number | null = 0;
    let sent = 0;
    while (fromPage !== null) {
      const slice = baseline.encodeChangedSince(5, { blockId: 2, fromPage, pageLimit: 40 });
      expect(slice.pages).toBeLessThanOrEqual(40);
      for (const batch of slice.batches) image.apply(batch);
      sent += slice.pages;
      ({ nextPage: fromPage } = slice);
    }
    expect(sent).toBe(missing);
    expect(image.digest()).toBe(baseline.digest());
  });

  test('epoch 0 counts as encoded', () => {
    const { baseline } = pair();
    const page = new Uint8Array(PAGE_BYTES).fill(1);
    baseline.encodePages(Uint32Array.of(9), page, { blockId: 2, epoch: 0, mode: 'full' });
    expect(baseline.digest()).not.toBe(0n);
    const again = baseline.encodePages(Uint32Array.of(9), page, { blockId: 2, epoch: 1 });
    expect(again).toMatchObject({ pages: 0, unchanged: 1, batches: [], crcs: [] });
  });

  test('reset forgets everything', () => {
    const { baseline } = pair();
    const { indexes, pages } = pagesOf(new Prng(4), 50);
    baseline.encodePages(indexes, pages, { blockId: 2, epoch: 1 });
    baseline.reset();
    expect(baseline.digest()).toBe(0n);
    expect(baseline.pagesChangedSince(0)).toBe(0);
    const encoded = baseline.encodePages(indexes, pages, { blockId: 2, epoch: 2 });
    expect(encoded.unchanged).toBe(pages.length / PAGE_BYTES - encoded.pages);
  });

  test('the device state travels as pages of block 65535', () => {
    const baseline = keep(new Baseline({ pages: 2 }));
    const target = new Uint8Array(2 * PAGE_BYTES);
    const state = new Uint8Array(2 * PAGE_BYTES).fill(5);
    const indexes = Uint32Array.of(0, 1);
    for (const epoch of [1, 2, 3]) {
      state[4000 + epoch] = epoch;
      const encoded = baseline.encodePages(indexes, state, { blockId: 0xffff, epoch });
      for (const batch of encoded.batches) applyPages(target, batch, { blockId: 0xffff });
      expect(Buffer.compare(target, state)).toBe(0);
      if (epoch > 1) expect(encoded.encodedBytes).toBeLessThan(32);
    }
  });
});

describe('PageImage', () => {
  test('digests and zero pages leave holes as holes', () => {
    const { baseline, image, memory } = pair();
    const page = new Uint8Array(PAGE_BYTES).fill(1);
    const one = baseline.encodePages(Uint32Array.of(7), page, { blockId: 2, epoch: 1 });
    for (const batch of one.batches) image.apply(batch);
    expect(image.pageDigest(7)).toBe(image.digest());
    expect(image.pageDigest(6)).toBe(0n);
    expect(image.digest({ fromPage: 8, pageCount: 100 })).toBe(0n);
    expect(memory.populatedBytes()).toBe(PAGE_BYTES);
    const indexes = Uint32Array.from({ length: 1000 }, (_, at) => at + 5);
    const zeros = new Uint8Array(1000 * PAGE_BYTES);
    const full = baseline.encodePages(indexes, zeros, { blockId: 2, epoch: 2, mode: 'full' });
    for (const batch of full.batches) image.apply(batch);
    expect(memory.populatedBytes()).toBe(0);
    expect(image.digest()).toBe(0n);
  });

  test('refuses batches of other blocks, of larger blocks, and a read-only memory', () => {
    const { baseline, memory } = pair();
    const page = new Uint8Array(PAGE_BYTES).fill(1);
    const [batch] = baseline.encodePages(Uint32Array.of(PAGES - 1), page, {
      blockId: 3,
      epoch: 1,
    }).batches;
    if (batch === undefined) throw new Error('no batch');
    const malformed = expect.objectContaining({ code: 'ERR_PROTOCOL_PAGE_BATCH' });
    expect(() => new PageImage({ memory, blockId: 2 }).apply(batch)).toThrow(malformed);
    const small = keep(Memory.create({ name: 'romulus-small', bytes: PAGE_BYTES }));
    expect(() => new PageImage({ memory: small }).apply(batch)).toThrow(malformed);
    const readOnly = keep(Memory.map({ fd: memory.fd, bytes: memory.bytes, writable: false }));
    expect(() => new PageImage({ memory: readOnly }).apply(batch)).toThrow(
      expect.objectContaining({ code: 'ERR_USAGE_READ_ONLY' }),
    );
    expect(memory.populatedBytes()).toBe(0);
  });
});

describe('Baseline refuses', () => {
  const page = new Uint8Array(PAGE_BYTES);
  const options = { blockId: 0, epoch: 1 };

  test.each<[string, (baseline: Baseline) => unknown]>([
    ['ERR_INTERNAL_STAGED_PAGES', (b) => b.encodePages(Uint32Array.of(PAGES), page, options)],
    ['ERR_USAGE_PAGE_BYTES', (b) => b.encodePages(Uint32Array.of(1, 2), page, options)],
    [
      'ERR_INTERNAL_STAGED_PAGES',
      (b) => b.encodePages(Uint32Array.of(2, 2), new Uint8Array(2 * PAGE_BYTES), options),
    ],
    [
      'ERR_USAGE_BATCH_BYTES',
      (b) => b.encodePages(Uint32Array.of(0), page, { ...options, maxBatchBytes: 4119 }),
    ],
    [
      'ERR_USAGE_NUMBER',
      (b) => b.encodePages(Uint32Array.of(0), page, { ...options, blockId: 65_536 }),
    ],
    ['ERR_USAGE_STAGED_PAGES', (b) => b.encode({} as never, options)],
  ])('%s', (code, call) => {
    const baseline = keep(new Baseline({ pages: PAGES }));
    expect(() => call(baseline)).toThrow(expect.objectContaining({ code }));
    expect(baseline.pagesChangedSince(0)).toBe(0);
  });

  test('sizes that cannot be, and work after close', () => {
    for (const pages of [0, 2 ** 33]) {
      expect(() => new Baseline({ pages })).toThrow(
        expect.objectContaining({ code: 'ERR_USAGE_MEMORY_SIZE' }),
      );
    }
    const baseline = new Baseline({ pages: 1 });
    baseline.close();
    baseline.close();
    expect(() => baseline.digest()).toThrow(expect.objectContaining({ code: 'ERR_USAGE_CLOSED' }));
  });
});
