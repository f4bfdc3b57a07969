/** The reference of the page encodings: what is chosen, that it comes back, what is refused. */
import { describe, expect, test } from 'vitest';
import { Prng } from '../../src/base/prng.ts';
import { PAGE_BYTES } from '../../src/base/units.ts';
import {
  applyPage,
  encodePage,
  encodePageFull,
  PAGE_ENCODING,
  pageDigest,
  whyInvalidPage,
} from '../../src/codec/page-delta.ts';
import { CHANGES, changedPages } from './page-changes.ts';

function pageOf(name: string): { now: Uint8Array; old: Uint8Array } {
  const change = CHANGES[name];
  if (change === undefined) throw new RangeError(name);
  const old = new Uint8Array(PAGE_BYTES).fill(7);
  const now = old.slice();
  change(now, new Prng(1));
  return { now, old };
}

describe('encodePage', () => {
  test('chooses by what changed', () => {
    const encodingOf = (name: string): number | undefined => {
      const { now, old } = pageOf(name);
      return encodePage(now, old)?.encoding;
    };
    expect(encodingOf('nothing')).toBeUndefined();
    expect(encodingOf('zero')).toBe(PAGE_ENCODING.zero);
    expect(encodingOf('one byte')).toBe(PAGE_ENCODING.runs);
    expect(encodingOf('a word in each line')).toBe(PAGE_ENCODING.runs);
    expect(encodingOf('400 bytes')).toBe(PAGE_ENCODING.mask);
    expect(encodingOf('everything')).toBe(PAGE_ENCODING.raw);
  });

  test('writes runs as headers, then bytes', () => {
    const old = new Uint8Array(PAGE_BYTES);
    const now = old.slice();
    now.set([1, 2], 200);
    // Two unchanged bytes are carried, three are not.
    now.set([3], 204);
    now.set([4], 208);
    expect(encodePage(now, old)).toEqual({
      encoding: PAGE_ENCODING.runs,
      runCount: 2,
      data: Uint8Array.of(0x80 | 72, 1, 5, 3, 1, 1, 2, 0, 0, 3, 4),
    });
  });

  test('writes a mask as line mask, byte masks, then bytes', () => {
    const old = new Uint8Array(PAGE_BYTES);
    const now = old.slice();
    // Every fourth byte of two lines: 32 runs of one byte would take 96 bytes.
    for (let at = 64; at < 192; at += 4) now[at] = 9;
    const every4th = [0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11];
    expect(encodePage(now, old)).toEqual({
      encoding: PAGE_ENCODING.mask,
      runCount: 0,
      data: Uint8Array.of(6, 0, 0, 0, 0, 0, 0, 0, ...every4th, ...every4th, ...Array(32).fill(9)),
    });
  });

  test.each([1, 2, 3])('every change comes back, and twice is as once (seed %d)', (seed) => {
    for (const { name, old, now } of changedPages(seed)) {
      const encoded = encodePage(now, old);
      if (encoded === null) {
        expect(now, name).toEqual(old);
        continue;
      }
      expect(whyInvalidPage(encoded), name).toBeNull();
      expect(encoded.data.length, name).toBeLessThanOrEqual(PAGE_BYTES);
      const target = old.slice();
      applyPage(target, encoded);
      expect(target, name).toEqual(now);
      applyPage(target, encoded);
      expect(target, name).toEqual(now);
    }
  });

  test('in full sends zero or raw', () => {
    expect(encodePageFull(new Uint8Array(PAGE_BYTES)).encoding).toBe(PAGE_ENCODING.zero);
    const page = new Uint8Array(PAGE_BYTES).fill(1);
    expect(encodePageFull(page)).toEqual({ encoding: PAGE_ENCODING.raw, runCount: 0, data: page });
  });
});

describe('whyInvalidPage', () => {
  const { runs, mask, zero, raw } = PAGE_ENCODING;
  const lineMask = (lines: number, ...masks: number[]): number[] =>
    [lines, ...masks].flatMap((word) => [word, 0, 0, 0, 0, 0, 0, 0]);

  test.each([
    ['runs without a run', runs, 0, []],
    ['a header cut', runs, 1, [5]],
    ['a run of no bytes', runs, 1, [5, 0]],
    ['a run with bytes missing', runs, 1, [5, 2, 1]],
    ['a run with bytes left over', runs, 1, [5, 1, 1, 1]],
    ['a run past the page', runs, 1, [0xff, 31, 2, 1, 1]],
    ['a skip of three bytes', runs, 1, [0x80, 0x80, 1, 1, 1]],
    ['a skip longer than its shortest form', runs, 1, [0x85, 0, 1, 1]],
    ['runs that together pass the page', runs, 2, [0xff, 31, 1, 0, 1, 1, 1]],
    ['more runs than headers', runs, 3, [1, 1, 1, 1, 9, 9]],
    ['a mask cut', mask, 0, [1, 0, 0]],
    ['a mask of no lines', mask, 0, lineMask(0)],
    ['a line mask without byte mask', mask, 0, lineMask(1)],
    ['a changed line without bytes', mask, 0, lineMask(1, 0)],
    ['a mask with data short', mask, 0, [...lineMask(1, 3), 1]],
    ['a mask with data left over', mask, 0, [...lineMask(1, 3), 1, 2, 3]],
    ['a mask with a run count', mask, 1, [...lineMask(1, 3), 1, 2]],
    ['data after a zero page', zero, 0, [0]],
    ['a raw page cut', raw, 0, [1, 2, 3]],
    ['an unknown encoding', 4, 0, []],
  ])('refuses %s', (_, encoding, runCount, data) => {
    expect(whyInvalidPage({ encoding, runCount, data: Uint8Array.from(data) })).not.toBeNull();
  });

  test('accepts a run that ends with the page', () => {
    const data = Uint8Array.of(0xff, 31, 1, 42);
    expect(whyInvalidPage({ encoding: runs, runCount: 1, data })).toBeNull();
  });
});

describe('pageDigest', () => {
  test('is 0 for zeros, else depends on content and index', () => {
    const page = new Uint8Array(PAGE_BYTES);
    expect(pageDigest(5, page)).toBe(0n);
    page[17] = 1;
    expect(pageDigest(5, page)).toBe(0xc85fd1ffd0fa35fan);
    expect(pageDigest(6, page)).not.toBe(pageDigest(5, page));
  });
});
