/** Reference page batches: round trip, splitting, every truncation, what is refused and how. */
import { describe, expect, test } from 'vitest';
import { PAGE_BYTES } from '../../src/base/units.ts';
import {
  applyPageBatch,
  decodePageBatch,
  encodePageBatches,
  type PageChange,
} from '../../src/codec/page-batch.ts';
import { changedPages } from './page-changes.ts';

const PAGES = 64;
const malformed = expect.objectContaining({ code: 'ERR_PROTOCOL_PAGE_BATCH' });

function samples(): { changes: PageChange[]; old: Uint8Array; now: Uint8Array } {
  const old = new Uint8Array(PAGES * PAGE_BYTES);
  const changes = changedPages(4).map(({ now, old }, at) => ({ now, old, pageIndex: 3 * at + 1 }));
  for (const change of changes) old.set(change.old, change.pageIndex * PAGE_BYTES);
  const now = old.slice();
  for (const change of changes) now.set(change.now, change.pageIndex * PAGE_BYTES);
  return { changes, old, now };
}

function oneBatch(): Uint8Array {
  const [batch] = encodePageBatches(samples().changes.slice(0, 6), { blockId: 7, mode: 'delta' });
  if (batch === undefined) throw new Error('no batch');
  return batch;
}

describe('page batches', () => {
  test.each(['delta', 'full'] as const)('bring pages over (%s)', (mode) => {
    const { changes, old, now } = samples();
    const batches = encodePageBatches(changes, { blockId: 3, mode, maxBatchBytes: 10_000 });
    expect(batches.length).toBeGreaterThan(1);
    for (const batch of batches) {
      expect(batch.length).toBeLessThanOrEqual(10_000);
      expect(decodePageBatch(batch, PAGES).blockId).toBe(3);
      applyPageBatch(batch, old);
    }
    expect(Buffer.compare(old, now)).toBe(0);
  });

  test('leave unchanged pages out, and need no batch when nothing changed', () => {
    const page = new Uint8Array(PAGE_BYTES).fill(3);
    const changes = [{ pageIndex: 0, now: page, old: page }];
    expect(encodePageBatches(changes, { blockId: 0, mode: 'delta' })).toEqual([]);
    expect(encodePageBatches(changes, { blockId: 0, mode: 'full' }).length).toBe(1);
  });

  test('cut anywhere are refused before anything is written', () => {
    const batch = oneBatch();
    const target = new Uint8Array(PAGES * PAGE_BYTES);
    for (let bytes = 0; bytes < batch.length; bytes += 1) {
      expect(() => applyPageBatch(batch.subarray(0, bytes), target)).toThrow(malformed);
    }
    expect(target.every((byte) => byte === 0)).toBe(true);
  });

  test.each<[string, (batch: DataView) => void]>([
    ['no pages', (view) => view.setUint32(0, 0, true)],
    ['too many pages', (view) => view.setUint32(0, 65_537, true)],
    ['a reserved field', (view) => view.setUint16(6, 1, true)],
    ['pages that do not ascend', (view) => view.setUint32(24, view.getUint32(16, true), true)],
    ['a page outside', (view) => view.setUint32(16, PAGES, true)],
    ['an unknown encoding', (view) => view.setUint8(22, 9)],
    ['a wrong run count', (view) => view.setUint8(23, 200)],
  ])('with %s are refused', (_, damage) => {
    const batch = oneBatch();
    damage(new DataView(batch.buffer, batch.byteOffset));
    expect(() => decodePageBatch(batch, PAGES)).toThrow(malformed);
  });

  test('whose outcome is not what was encoded are told apart', () => {
    const { old } = samples();
    const batch = oneBatch();
    batch[batch.length - 1] = (batch.at(-1) ?? 0) ^ 1;
    expect(() => applyPageBatch(batch, old)).toThrow(
      expect.objectContaining({ code: 'ERR_INTEGRITY_PAGE_DIGEST' }),
    );
  });
});
