/** Properties of the native page functions over arbitrary edits and arbitrary bytes. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { PAGE_BYTES } from '../../src/base/units.ts';
import { encodePageBatches } from '../../src/codec/page-batch.ts';
import { applyPages, simdLevels } from '../../src/native/page-delta.ts';
import { Baseline } from '../../src/native/page-store.ts';

const PAGES = 4;

/** Writes of any length anywhere in a few pages. */
const edits = fc.array(
  fc.record({
    start: fc.nat(PAGES * PAGE_BYTES - 1),
    bytes: fc.uint8Array({ minLength: 1, maxLength: 300 }),
    stride: fc.constantFrom(1, 1, 2, 3, 4, 64),
  }),
  { maxLength: 40 },
);

function edited(
  old: Uint8Array,
  list: readonly { start: number; bytes: Uint8Array; stride: number }[],
): Uint8Array {
  const now = old.slice();
  for (const { start, bytes, stride } of list) {
    bytes.forEach((byte, at) => {
      const position = start + at * stride;
      if (position < now.length) now[position] = byte;
    });
  }
  return now;
}

describe.each(simdLevels())('%s', (level) => {
  const indexes = Uint32Array.from({ length: PAGES }, (_, page) => page);

  test('any edits come over, in the bytes that the reference gives', () => {
    fc.assert(
      fc.property(edits, edits, (first, second) => {
        const old = edited(new Uint8Array(PAGES * PAGE_BYTES), first);
        const now = edited(old, second);
        const baseline = new Baseline({ pages: PAGES });
        const options = { blockId: 0, level };
        baseline.encodePages(indexes, old, { ...options, epoch: 1 });
        const { batches } = baseline.encodePages(indexes, now, { ...options, epoch: 2 });
        baseline.close();
        const pageOf = (bytes: Uint8Array, page: number): Uint8Array =>
          bytes.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
        const changes = Array.from(indexes, (pageIndex) => ({
          pageIndex,
          now: pageOf(now, pageIndex),
          old: pageOf(old, pageIndex),
        }));
        const expected = encodePageBatches(changes, { blockId: 0, mode: 'delta' });
        expect(batches.map((batch) => Buffer.from(batch))).toEqual(
          expected.map((batch) => Buffer.from(batch)),
        );
        for (const batch of batches) applyPages(old, batch, { level });
        expect(Buffer.compare(old, now)).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  test('any bytes are applied or refused with one typed error', () => {
    const header = fc.tuple(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 0, max: 1 }));
    const entry = fc.record({
      index: fc.nat(PAGES),
      bytes: fc.nat(60),
      encoding: fc.nat(4),
      runCount: fc.nat(6),
    });
    fc.assert(
      fc.property(
        header,
        fc.array(entry, { maxLength: 3 }),
        fc.uint8Array({ maxLength: 120 }),
        ([pages, reserved], entries, data) => {
          const front = new DataView(new ArrayBuffer(16 + 8 * entries.length));
          front.setUint32(0, pages, true);
          front.setUint16(6, reserved, true);
          entries.forEach(({ index, bytes, encoding, runCount }, at) => {
            front.setUint32(16 + 8 * at, index, true);
            front.setUint16(20 + 8 * at, bytes, true);
            front.setUint8(22 + 8 * at, encoding);
            front.setUint8(23 + 8 * at, runCount);
          });
          const batch = Buffer.concat([new Uint8Array(front.buffer), data]);
          const target = new Uint8Array(PAGES * PAGE_BYTES);
          try {
            applyPages(target, batch, { level });
          } catch (error) {
            expect(error).toBeInstanceOf(RomulusError);
            const { code } = error as RomulusError;
            expect(['ERR_PROTOCOL_PAGE_BATCH', 'ERR_INTEGRITY_PAGE_DIGEST']).toContain(code);
            if (code === 'ERR_PROTOCOL_PAGE_BATCH') expect(target.every((b) => b === 0)).toBe(true);
          }
        },
      ),
      { numRuns: 2000 },
    );
  });
});
