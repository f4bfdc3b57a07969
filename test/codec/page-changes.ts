/** Seeded pages and ways in which they change, from nothing to everything, shared by page tests. */
import { Prng } from '../../src/base/prng.ts';
import { PAGE_BYTES } from '../../src/base/units.ts';

const WORDS = ['the ', 'backup ', 'epoch ', 'of ', 'a ', 'machine ', 'is ', 'held ', 'and ', '\n'];

function text(prng: Prng, bytes: Uint8Array): void {
  let at = 0;
  while (at < bytes.length) {
    for (const letter of Buffer.from(prng.pick(WORDS))) {
      if (at < bytes.length) bytes[at] = letter;
      at += 1;
    }
  }
}

function randomBytes(prng: Prng, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; at += 1) bytes[at] = prng.nextUint32() >>> 24;
}

function writes(prng: Prng, page: Uint8Array, count: number, length: number): void {
  for (let write = 0; write < count; write += 1) {
    const start = prng.nextBelow(PAGE_BYTES - length + 1);
    randomBytes(prng, page.subarray(start, start + length));
  }
}

/** Bytes that are no neighbours: a run of one byte each. */
function flipInLines(page: Uint8Array, countOf: (line: number) => number): void {
  for (let line = 0; line < PAGE_BYTES / 64; line += 1) {
    for (let byte = 0; byte < countOf(line); byte += 1) {
      const at = 64 * line + 12 * byte + (line % 12);
      page[at] = (page[at] ?? 0) ^ 1;
    }
  }
}

/** Changes a page in place, by name. */
export const CHANGES: Readonly<Record<string, (page: Uint8Array, prng: Prng) => void>> = {
  nothing: () => {},
  zero: (page) => page.fill(0),
  'one byte': (page, prng) => writes(prng, page, 1, 1),
  'first and last byte': (page) => {
    page[0] = (page[0] ?? 0) ^ 1;
    page[PAGE_BYTES - 1] = (page[PAGE_BYTES - 1] ?? 0) ^ 1;
  },
  'sparse words': (page, prng) => writes(prng, page, 1 + prng.nextBelow(2), 8),
  'a word in each line': (page, prng) => {
    for (let line = 0; line < PAGE_BYTES; line += 64) {
      const start = line + 8 * prng.nextBelow(8);
      randomBytes(prng, page.subarray(start, start + 8));
    }
  },
  '150 bytes': (page, prng) => writes(prng, page, 150, 1),
  '220 bytes': (page, prng) => writes(prng, page, 220, 1),
  '400 bytes': (page, prng) => writes(prng, page, 400, 1),
  '2000 bytes': (page, prng) => writes(prng, page, 2000, 1),
  'every third byte': (page) => page.forEach((byte, at) => (page[at] = at % 3 ? byte : byte ^ 1)),
  'every fourth byte': (page) => page.forEach((byte, at) => (page[at] = at % 4 ? byte : byte ^ 1)),
  'half text': (page, prng) => text(prng, page.subarray(64 * prng.nextBelow(32)).subarray(0, 2048)),
  'most of it': (page, prng) => randomBytes(prng, page.subarray(prng.nextBelow(600))),
  'a kilobyte anywhere': (page, prng) => writes(prng, page, 1, 1024),
  everything: (page, prng) => randomBytes(prng, page),
  'two bytes in each line': (page) => flipInLines(page, () => 2),
  'three bytes in each line': (page) => flipInLines(page, () => 3),
  'five bytes in one line of ten': (page) => flipInLines(page, (line) => (line % 10 === 3 ? 5 : 1)),
};

/** A page of text and its successor by each of the changes; the old one may be zeros. */
export function changedPages(seed: number): { name: string; old: Uint8Array; now: Uint8Array }[] {
  const prng = new Prng(seed);
  return Object.entries(CHANGES).map(([name, change]) => {
    const old = new Uint8Array(PAGE_BYTES);
    if (prng.chance(0.8)) text(prng, old);
    const now = old.slice();
    change(now, prng);
    return { name, old, now };
  });
}
