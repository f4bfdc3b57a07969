/**
 * The native page functions against the readable reference: the same bytes at every SIMD level, the
 * same digests, and the same verdict on damaged batches.
 */
import { describe, expect, test } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { Prng } from '../../src/base/prng.ts';
import { PAGE_BYTES } from '../../src/base/units.ts';
import { crc32c as referenceCrc32c } from '../../src/codec/checksum.ts';
import { applyPageBatch, encodePageBatches, type PageChange } from '../../src/codec/page-batch.ts';
import { pageDigest as referencePageDigest } from '../../src/codec/page-delta.ts';
import { applyPages, crc32c, pageDigest, simdLevels } from '../../src/native/page-delta.ts';
import { Baseline, type EncodedPages } from '../../src/native/page-store.ts';
import { changedPages } from '../codec/page-changes.ts';

const LEVELS = simdLevels();
const PAGES = 60;

function changesOf(seed: number): PageChange[] {
  return changedPages(seed).map(({ now, old }, at) => ({ now, old, pageIndex: 3 * at }));
}

/** Encodes with a fresh baseline that first takes over the old pages. */
function nativeBatches(
  changes: readonly PageChange[],
  options: { level: (typeof LEVELS)[number]; mode: 'delta' | 'full'; maxBatchBytes: number },
): EncodedPages {
  const baseline = new Baseline({ pages: PAGES });
  try {
    const indexes = Uint32Array.from(changes, (change) => change.pageIndex);
    const { level } = options;
    const old = Buffer.concat(changes.map((change) => change.old));
    baseline.encodePages(indexes, old, { blockId: 5, epoch: 1, mode: 'full', level });
    const now = Buffer.concat(changes.map((change) => change.now));
    const encoded = baseline.encodePages(indexes, now, { ...options, blockId: 5, epoch: 2 });
    let digest = 0n;
    for (const change of changes) digest += referencePageDigest(change.pageIndex, change.now);
    expect(baseline.digest({ level })).toBe(BigInt.asUintN(64, digest));
    return encoded;
  } finally {
    baseline.close();
  }
}

test('the processor has at least the scalar form', () => {
  expect(LEVELS[0]).toBe('scalar');
  console.info(`page functions tested as: ${LEVELS.join(', ')}`);
});

describe.each(LEVELS)('%s', (level) => {
  test.each([1, 2, 3, 4, 5, 6])('encodes the bytes that the reference does (seed %d)', (seed) => {
    const changes = changesOf(seed);
    for (const mode of ['delta', 'full'] as const) {
      const maxBatchBytes = seed % 2 === 0 ? 9_000 : 1 << 20;
      const encoded = nativeBatches(changes, { level, mode, maxBatchBytes });
      const expected = encodePageBatches(changes, { blockId: 5, mode, maxBatchBytes });
      expect(encoded.batches.map((batch) => Buffer.from(batch).toString('hex'))).toEqual(
        expected.map((batch) => Buffer.from(batch).toString('hex')),
      );
      expect(encoded.crcs).toEqual(expected.map((batch) => referenceCrc32c(batch)));
      expect(encoded.encodedBytes).toBe(expected.reduce((sum, batch) => sum + batch.length, 0));
      expect(encoded.pages + encoded.unchanged).toBe(changes.length);
    }
  });

  test('applies what it encoded', () => {
    const changes = changesOf(7);
    const target = new Uint8Array(PAGES * PAGE_BYTES);
    const expected = target.slice();
    for (const change of changes) {
      target.set(change.old, change.pageIndex * PAGE_BYTES);
      expected.set(change.now, change.pageIndex * PAGE_BYTES);
    }
    const options = { level, mode: 'delta', maxBatchBytes: 20_000 } as const;
    for (const batch of nativeBatches(changes, options).batches) {
      expect(applyPages(target, batch, { level, blockId: 5 }).bytes).toBe(batch.length);
    }
    expect(Buffer.compare(target, expected)).toBe(0);
  });

  test('computes digests and CRCs of any length and alignment', () => {
    const prng = new Prng(8);
    const bytes = Uint8Array.from({ length: 10_000 }, () => prng.nextUint32() >>> 24);
    for (let round = 0; round < 200; round += 1) {
      const start = prng.nextBelow(100);
      const data = bytes.subarray(start, start + prng.nextBelow(9_900));
      expect(crc32c(data, round, level)).toBe(referenceCrc32c(data, round));
      const page = bytes.subarray(start, start + PAGE_BYTES);
      expect(pageDigest(round, page, level)).toBe(referencePageDigest(round, page));
    }
    expect(pageDigest(3, new Uint8Array(PAGE_BYTES), level)).toBe(0n);
  });

  test('judges damaged batches as the reference does', () => {
    const [batch] = encodePageBatches(changesOf(9), { blockId: 5, mode: 'delta' });
    if (batch === undefined) throw new Error('no batch');
    const prng = new Prng(10);
    const codeOf = (apply: () => unknown): string => {
      try {
        apply();
        return 'applied';
      } catch (error) {
        if (error instanceof RomulusError) return error.code;
        throw error;
      }
    };
    const dataStart = 16 + 8 * new DataView(batch.buffer, batch.byteOffset).getUint32(0, true);
    for (let round = 0; round < 400; round += 1) {
      const damaged = batch.slice(0, prng.chance(0.2) ? prng.nextBelow(batch.length) : undefined);
      for (let flips = prng.nextBelow(3); flips >= 0; flips -= 1) {
        // Headers and tables are where a flip decides most.
        const at = prng.nextBelow(prng.chance(0.6) ? dataStart + 64 : damaged.length);
        if (at < damaged.length) damaged[at] = prng.nextUint32() >>> 24;
      }
      const native = new Uint8Array(PAGES * PAGE_BYTES);
      const reference = native.slice();
      const code = codeOf(() => applyPages(native, damaged, { level }));
      expect(code, `round ${round}`).toBe(codeOf(() => applyPageBatch(damaged, reference)));
      expect(Buffer.compare(native, reference), `round ${round}`).toBe(0);
    }
  });

  test('refuses every truncation with the target untouched', () => {
    const changes = changesOf(11).slice(0, 9);
    const [batch] = encodePageBatches(changes, { blockId: 5, mode: 'delta' });
    if (batch === undefined) throw new Error('no batch');
    const target = new Uint8Array(PAGES * PAGE_BYTES);
    for (let bytes = 0; bytes < batch.length; bytes += 1) {
      // A copy of its own, so that reading past the end would leave the allocation.
      expect(() => applyPages(target, batch.slice(0, bytes), { level })).toThrow(
        expect.objectContaining({ code: 'ERR_PROTOCOL_PAGE_BATCH', remedy: expect.any(String) }),
      );
    }
    expect(target.every((byte) => byte === 0)).toBe(true);
  });
});

test('a batch of another block is refused', () => {
  const [batch] = encodePageBatches(changesOf(12), { blockId: 5, mode: 'full' });
  if (batch === undefined) throw new Error('no batch');
  expect(() => applyPages(new Uint8Array(PAGES * PAGE_BYTES), batch, { blockId: 6 })).toThrow(
    expect.objectContaining({ code: 'ERR_PROTOCOL_PAGE_BATCH' }),
  );
});

test('an unknown level and a page of the wrong size are refused', () => {
  expect(() => crc32c(new Uint8Array(1), 0, 'neon' as 'scalar')).toThrow(
    expect.objectContaining({ code: 'ERR_HOST_SIMD_LEVEL' }),
  );
  expect(() => pageDigest(0, new Uint8Array(100))).toThrow(
    expect.objectContaining({ code: 'ERR_USAGE_PAGE_BYTES' }),
  );
});
