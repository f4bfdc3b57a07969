/**
 * One page against its previous version: the readable reference of the encodings in
 * docs/ARCHITECTURE.md "Page batches". The native kernels (native-sim/src/page_delta*.cc) do the
 * same work in vectors, and a test holds them to the same bytes.
 *
 * Invariants: an encoded page carries new bytes, never differences, so applying it twice is the
 * same as once; which encoding is chosen depends on the changed bytes' positions alone.
 * Not here: batches (page-batch.ts), compression, epochs.
 */
import { assert } from '../base/assert.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { crc32c } from './checksum.ts';

/** How the data of an encoded page is to be read. */
export const PAGE_ENCODING = { zero: 0, raw: 1, runs: 2, mask: 3 } as const;
export type PageEncoding = (typeof PAGE_ENCODING)[keyof typeof PAGE_ENCODING];

/** Bytes of the lines that a mask speaks of. */
export const LINE_BYTES = 64;
/** A delta longer than this is not sent: the page travels raw. */
export const DELTA_BYTES_MAX = PAGE_BYTES - PAGE_BYTES / 16;
/** Runs in one page: their count travels in one byte. */
export const RUNS_MAX = 255;
/** Unchanged stretches up to this long are carried inside a run: a run of its own costs 2 bytes. */
export const GAP_BYTES_MERGED = 2;

const LINES_PER_PAGE = PAGE_BYTES / LINE_BYTES;
const U64 = (1n << 64n) - 1n;

/** A page in its encoded form. */
export interface EncodedPage {
  readonly encoding: PageEncoding;
  /** 1 to 255 for runs, 0 otherwise. */
  readonly runCount: number;
  readonly data: Uint8Array;
}

interface Run {
  readonly start: number;
  readonly end: number;
}

/** What ties a page's content to its place: summed over an image it gives the image's digest. */
export function pageDigest(pageIndex: number, page: Uint8Array): bigint {
  assert(page.length === PAGE_BYTES, 'a page has 4096 bytes');
  if (isZero(page)) return 0n;
  return mix64((BigInt(crc32c(page)) << 32n) | BigInt(pageIndex));
}

/** Encodes `now` against `old`; null when they are equal. */
export function encodePage(now: Uint8Array, old: Uint8Array): EncodedPage | null {
  assert(now.length === PAGE_BYTES && old.length === PAGE_BYTES, 'a page has 4096 bytes');
  const changed = Uint8Array.from(now, (byte, position) => (byte === old[position] ? 0 : 1));
  if (isZero(changed)) return null;
  if (isZero(now)) return { encoding: PAGE_ENCODING.zero, runCount: 0, data: new Uint8Array() };

  const changedBytes = changed.reduce((sum, bit) => sum + bit, 0);
  const lines = linesOf(changed);
  const runs = runsOf(changed);
  const maskBytes = 8 + 8 * lines.filter(Boolean).length + changedBytes;
  const runBytes = runs.reduce((sum, run) => sum + run.end - run.start, 0);
  // Two header bytes a run, and one more where a skip may be long: an estimate that any encoder can
  // take from counts alone. Lengths of 128 and more cost a byte that is not counted.
  const runsBytes = runBytes + 2 * runs.length + spansOf(lines.map((line) => !line));

  const runsFit = runs.length <= RUNS_MAX && runsBytes <= DELTA_BYTES_MAX;
  const maskFits = maskBytes <= DELTA_BYTES_MAX;
  // A mask decodes faster, whatever the number of runs: runs must be an eighth smaller.
  if (maskFits && (!runsFit || maskBytes * 8 <= runsBytes * 9)) {
    return { encoding: PAGE_ENCODING.mask, runCount: 0, data: maskData(now, changed, lines) };
  }
  if (runsFit) {
    return { encoding: PAGE_ENCODING.runs, runCount: runs.length, data: runsData(now, runs) };
  }
  return encodePageFull(now);
}

/** Encodes `now` without regard to what was there before. */
export function encodePageFull(now: Uint8Array): EncodedPage {
  if (isZero(now)) return { encoding: PAGE_ENCODING.zero, runCount: 0, data: new Uint8Array() };
  return { encoding: PAGE_ENCODING.raw, runCount: 0, data: now.slice() };
}

/** Why an encoded page cannot be applied, null when it can. Safe on any input. */
export function whyInvalidPage(page: {
  encoding: number;
  runCount: number;
  data: Uint8Array;
}): string | null {
  const { encoding, runCount, data } = page;
  if (encoding === PAGE_ENCODING.runs) {
    return readRuns(runCount, data) === null ? 'runs that do not fit page and data' : null;
  }
  if (runCount !== 0) return 'a run count without runs';
  if (encoding === PAGE_ENCODING.mask) return whyInvalidMask(data);
  if (encoding === PAGE_ENCODING.zero) return data.length === 0 ? null : 'data after a zero page';
  if (encoding === PAGE_ENCODING.raw) return data.length === PAGE_BYTES ? null : 'a raw page cut';
  return 'an unknown encoding';
}

/** Applies an encoded page, which must be valid, to the 4096 bytes of `target`. */
export function applyPage(target: Uint8Array, page: EncodedPage): void {
  assert(target.length === PAGE_BYTES, 'a page has 4096 bytes');
  const { encoding, data } = page;
  if (encoding === PAGE_ENCODING.zero) {
    target.fill(0);
  } else if (encoding === PAGE_ENCODING.raw) {
    target.set(data);
  } else if (encoding === PAGE_ENCODING.runs) {
    const parsed = readRuns(page.runCount, data);
    assert(parsed !== null, 'only valid pages are applied');
    let from = parsed.dataStart;
    for (const run of parsed.runs) {
      target.set(data.subarray(from, from + run.end - run.start), run.start);
      from += run.end - run.start;
    }
  } else {
    applyMask(target, data);
  }
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

/** The finalizer of splitmix64 (Steele, Lea and Flood 2014). */
function mix64(value: bigint): bigint {
  let mixed = ((value ^ (value >> 30n)) * 0xbf58476d1ce4e5b9n) & U64;
  mixed = ((mixed ^ (mixed >> 27n)) * 0x94d049bb133111ebn) & U64;
  return mixed ^ (mixed >> 31n);
}

/** For each line, whether any of its bytes changed. */
function linesOf(changed: Uint8Array): boolean[] {
  return Array.from(
    { length: LINES_PER_PAGE },
    (_, line) => !isZero(changed.subarray(line * LINE_BYTES, (line + 1) * LINE_BYTES)),
  );
}

/** The number of stretches of `true`. */
function spansOf(flags: readonly boolean[]): number {
  return flags.filter((flag, at) => flag && flags[at - 1] !== true).length;
}

/** Stretches of changed bytes, those with short gaps between them taken together. */
function runsOf(changed: Uint8Array): Run[] {
  const runs: { start: number; end: number }[] = [];
  changed.forEach((bit, position) => {
    if (bit === 0) return;
    const last = runs.at(-1);
    if (last !== undefined && position - last.end <= GAP_BYTES_MERGED) last.end = position + 1;
    else runs.push({ start: position, end: position + 1 });
  });
  return runs;
}

function runsData(now: Uint8Array, runs: readonly Run[]): Uint8Array {
  const headers: number[] = [];
  const bytes: number[] = [];
  let position = 0;
  for (const run of runs) {
    headers.push(...leb128(run.start - position), ...leb128(run.end - run.start));
    bytes.push(...now.subarray(run.start, run.end));
    position = run.end;
  }
  return Uint8Array.from([...headers, ...bytes]);
}

function maskData(now: Uint8Array, changed: Uint8Array, lines: readonly boolean[]): Uint8Array {
  const changedAt = (position: number): boolean => changed[position] === 1;
  const masks = lines.flatMap((line, at) =>
    line ? [maskOf((bit) => changedAt(at * LINE_BYTES + bit))] : [],
  );
  const front = new DataView(new ArrayBuffer(8 + 8 * masks.length));
  front.setBigUint64(
    0,
    maskOf((bit) => lines[bit] === true),
    true,
  );
  masks.forEach((mask, at) => front.setBigUint64(8 + 8 * at, mask, true));
  const bytes = now.filter((_, position) => changedAt(position));
  return Uint8Array.from([...new Uint8Array(front.buffer), ...bytes]);
}

/** 64 bits from a predicate, bit 0 first. */
function maskOf(isSet: (bit: number) => boolean): bigint {
  let mask = 0n;
  for (let bit = 63; bit >= 0; bit -= 1) mask = (mask << 1n) | (isSet(bit) ? 1n : 0n);
  return mask;
}

/** Positions of the set bits, ascending. */
function bitsOf(mask: bigint): number[] {
  return Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => (mask >> BigInt(bit)) & 1n);
}

function leb128(value: number): number[] {
  return value < 128 ? [value] : [(value & 127) | 128, value >> 7];
}

/** Reads the headers of the runs; null when runs, page and data do not fit together. */
function readRuns(runCount: number, data: Uint8Array): { runs: Run[]; dataStart: number } | null {
  if (runCount === 0) return null;
  let at = 0;
  const readLeb128 = (): number | null => {
    const low = data[at];
    at += 1;
    if (low === undefined || low < 128) return low ?? null;
    const high = data[at];
    at += 1;
    // At most two bytes, and no longer form than needed.
    return high === undefined || high === 0 || high >= 128 ? null : (low & 127) | (high << 7);
  };
  const runs: Run[] = [];
  let position = 0;
  let bytes = 0;
  for (let count = 0; count < runCount; count += 1) {
    const skip = readLeb128();
    const length = skip === null ? null : readLeb128();
    if (skip === null || length === null || length === 0) return null;
    const start = position + skip;
    position = start + length;
    if (position > PAGE_BYTES) return null;
    runs.push({ start, end: position });
    bytes += length;
  }
  return at + bytes === data.length ? { runs, dataStart: at } : null;
}

function whyInvalidMask(data: Uint8Array): string | null {
  if (data.length < 8) return 'a mask cut';
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const lines = bitsOf(view.getBigUint64(0, true)).length;
  if (lines === 0) return 'a mask of no lines';
  if (data.length < 8 + 8 * lines) return 'a mask cut';
  let bytes = 0;
  for (let line = 0; line < lines; line += 1) {
    const count = bitsOf(view.getBigUint64(8 + 8 * line, true)).length;
    if (count === 0) return 'a changed line without changed bytes';
    bytes += count;
  }
  return data.length === 8 + 8 * lines + bytes ? null : 'a mask that does not fit its data';
}

function applyMask(target: Uint8Array, data: Uint8Array): void {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const lines = bitsOf(view.getBigUint64(0, true));
  let from = 8 + 8 * lines.length;
  lines.forEach((line, at) => {
    for (const bit of bitsOf(view.getBigUint64(8 + 8 * at, true))) {
      target[line * LINE_BYTES + bit] = data[from] ?? 0;
      from += 1;
    }
  });
}
