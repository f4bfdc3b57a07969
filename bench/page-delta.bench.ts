/**
 * How fast changed pages are encoded against a baseline and applied to an image, and to how much they
 * shrink, beside a plain copy of the same pages, the classic (skip, length, bytes) encoding, LZ4 of the
 * pages alone, gzip and no delta at all. All in one run, taking turns, one thread.
 *
 * Encoding includes everything that production does in one call: comparing, packing, bringing the
 * baseline up to date, page digests, the batch's CRC, and handing the batches to JavaScript. Applying
 * includes checking the batch and the digest of every resulting page.
 *
 * Run with `npx tsx bench/page-delta.bench.ts [rounds]`; prints one JSON object.
 */
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import lz4 from 'lz4';
import { MIB, PAGE_BYTES } from '../src/base/units.ts';
import { Memory } from '../src/native/memory.ts';
import {
  classicRunsBytes,
  copyPages,
  crc32c,
  type SimdLevel,
  simdLevels,
} from '../src/native/page-delta.ts';
import { Baseline, type EncodedPages, PageImage } from '../src/native/page-store.ts';
import { type PageSet, pageSets } from './lib/page-sets.ts';
import {
  type BenchResult,
  type Claim,
  numberOf,
  percentile,
  type Row,
  rounded,
} from './lib/result.ts';

const ENCODE_GBPS_MIN = 8;
const CLASSIC_RATIO_MAX = 1.15;
const GZIP_SAMPLE_BYTES = 2 * MIB;
const LZ4_BLOCK_BYTES = MIB;
/** Both versions, baseline, image and batch of so many pages are half of a second-level cache of 2 MiB. */
const CACHED_PAGES = 48;
const CACHED_TURNS = 400;
/** The host's clock changes for seconds at a time: the best is looked for at so many moments. */
const CACHED_VISITS = 5;

/** Seconds that a call takes. */
function timed(call: () => void): number {
  const start = process.hrtime.bigint();
  call();
  return Number(process.hrtime.bigint() - start) / 1e9;
}

/** Total size and seconds of LZ4 over blocks. */
function lz4Blocks(blocks: readonly Uint8Array[]): { bytes: number; seconds: number } {
  const scratch = Buffer.allocUnsafeSlow(lz4.encodeBound(LZ4_BLOCK_BYTES) + MIB);
  let bytes = 0;
  const seconds = timed(() => {
    for (const block of blocks) {
      const size = lz4.encodeBlock(block, scratch);
      bytes += size > 0 ? Math.min(size, block.length) : block.length;
    }
  });
  return { bytes, seconds };
}

function blocksOf(bytes: Buffer): Buffer[] {
  const blocks: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += LZ4_BLOCK_BYTES) {
    blocks.push(bytes.subarray(at, at + LZ4_BLOCK_BYTES));
  }
  return blocks;
}

/** Baseline and image of one set, going back and forth between its two versions. */
class Turns {
  readonly #set: PageSet;
  readonly #level: SimdLevel;
  readonly #baseline: Baseline;
  readonly #memory: Memory;
  readonly #image: PageImage;
  #epoch = 0;

  constructor(set: PageSet, level: SimdLevel) {
    const pages = (set.indexes.at(-1) ?? 0) + 1;
    this.#set = set;
    this.#level = level;
    this.#baseline = new Baseline({ pages });
    this.#memory = Memory.create({ name: 'romulus-bench', bytes: pages * PAGE_BYTES });
    this.#image = new PageImage({ memory: this.#memory, blockId: 0, level });
    for (const batch of this.#encode(set.old, 'full').batches) this.#image.apply(batch);
  }

  #encode(pages: Buffer, mode: 'delta' | 'full'): EncodedPages {
    this.#epoch += 1;
    return this.#baseline.encodePages(this.#set.indexes, pages, {
      blockId: 0,
      epoch: this.#epoch,
      mode,
      level: this.#level,
    });
  }

  /** Encodes and applies the set's other version. */
  turn(
    mode: 'delta' | 'full',
    keep = false,
  ): { encoded: EncodedPages; encodeS: number; applyS: number } {
    const pages = this.#epoch % 2 === 0 ? this.#set.old : this.#set.now;
    let encoded: EncodedPages | undefined;
    const encodeS = timed(() => {
      encoded = this.#encode(pages, mode);
    });
    if (encoded === undefined) throw new Error('nothing was encoded');
    const { batches } = encoded;
    const applyS = timed(() => {
      for (const batch of batches) this.#image.apply(batch);
    });
    // As the engine does when a batch is sent. What the caller looks at are counts and sizes.
    if (!keep) for (const batch of batches) this.#baseline.recycle(batch.buffer);
    return { encoded, encodeS, applyS };
  }

  check(): void {
    if (this.#baseline.digest() !== this.#image.digest())
      throw new Error('image and baseline differ');
  }

  close(): void {
    this.#baseline.close();
    this.#memory.close();
  }
}

/** The first pages of a set, as a set. */
function firstPages(set: PageSet, count: number): PageSet {
  const bytes = count * PAGE_BYTES;
  return {
    name: set.name,
    indexes: Uint32Array.from({ length: count }, (_, page) => page),
    old: set.old.subarray(0, bytes),
    now: set.now.subarray(0, bytes),
  };
}

/** The best calls of many, for one count of pages. */
class BestTurns {
  readonly #turns: Turns;
  encodeS = Number.MAX_VALUE;
  applyS = Number.MAX_VALUE;

  constructor(set: PageSet, count: number) {
    this.#turns = new Turns(firstPages(set, count), simdLevels().at(-1) ?? 'scalar');
  }

  turn(): void {
    const { encodeS, applyS } = this.#turns.turn('delta');
    this.encodeS = Math.min(this.encodeS, encodeS);
    this.applyS = Math.min(this.applyS, applyS);
  }

  close(): void {
    this.#turns.check();
    this.#turns.close();
  }
}

/**
 * What the code costs without memory: few enough pages that both versions, batch and image stay in
 * a core's cache. Best calls of many, less the best of calls for one page: crossing over to native
 * code takes as long as a dozen pages, which a call for a whole epoch does not notice.
 */
class Cached {
  readonly #pages: number;
  readonly #many: BestTurns;
  readonly #one: BestTurns;

  constructor(set: PageSet) {
    this.#pages = Math.min(CACHED_PAGES, set.indexes.length);
    this.#many = new BestTurns(set, this.#pages);
    this.#one = new BestTurns(set, 1);
  }

  visit(): void {
    for (let turn = 0; turn < CACHED_TURNS; turn += 1) {
      this.#many.turn();
      this.#one.turn();
    }
  }

  finish(): { encodeS: number; applyS: number; bytes: number; callS: number } {
    this.#many.close();
    this.#one.close();
    return {
      encodeS: this.#many.encodeS - this.#one.encodeS,
      applyS: this.#many.applyS - this.#one.applyS,
      bytes: (this.#pages - 1) * PAGE_BYTES,
      callS: this.#one.encodeS,
    };
  }
}

interface Timings {
  readonly encodeS: number[];
  readonly applyS: number[];
}

function measure(set: PageSet, rounds: number): Record<string, number | string> {
  const pageBytes = set.now.length;
  const rate = (seconds: readonly number[]): number =>
    rounded(pageBytes / 1e9 / percentile(seconds, 0.5));
  // What the code can do when the host's other work leaves it alone for a turn.
  const best = (seconds: readonly number[]): number =>
    rounded(pageBytes / 1e9 / Math.min(...seconds));
  const levels = simdLevels();
  const fastestTimings = (): Timings => {
    const found = timings.get(levels.at(-1) ?? 'scalar');
    if (found === undefined) throw new Error('nothing was measured');
    return found;
  };
  const turns = new Map(levels.map((level) => [level, new Turns(set, level)] as const));
  const timings = new Map<SimdLevel, Timings>(
    levels.map((level) => [level, { encodeS: [], applyS: [] }] as const),
  );
  const full: Timings = { encodeS: [], applyS: [] };
  const copyS: number[] = [];
  const crcS: number[] = [];
  const target = Buffer.alloc(pageBytes);
  let last: EncodedPages | undefined;
  // An even number of turns each round: the last one leads to `now` in every round.
  const cachedTurns = new Cached(set);
  const visitEvery = Math.max(1, Math.floor(rounds / CACHED_VISITS));
  for (let round = 0; round < rounds; round += 1) {
    if (round % visitEvery === 0) cachedTurns.visit();
    copyS.push(timed(() => copyPages(set.now, target)));
    crcS.push(timed(() => void crc32c(set.now)));
    for (const [level, one] of turns) {
      // The slower forms are there to be seen, not to be measured finely.
      if (level !== levels.at(-1) && round % 5 !== 0) continue;
      for (let half = 0; half < 2; half += 1) {
        const { encodeS, applyS } = one.turn('delta');
        timings.get(level)?.encodeS.push(encodeS);
        timings.get(level)?.applyS.push(applyS);
      }
      one.check();
    }
    const fastest = turns.get(levels.at(-1) ?? 'scalar');
    for (let half = 0; half < 2; half += 1) {
      const { encodeS, applyS } = fastest?.turn('full') ?? { encodeS: 0, applyS: 0 };
      full.encodeS.push(encodeS);
      full.applyS.push(applyS);
    }
  }
  last = turns.get(levels.at(-1) ?? 'scalar')?.turn('delta', true).encoded;
  for (const one of turns.values()) one.close();
  if (last === undefined) throw new Error('nothing was encoded');

  cachedTurns.visit();
  const cached = cachedTurns.finish();
  const share = (bytes: number): number => rounded((100 * bytes) / pageBytes);
  const batchTables = last.pages * 8 + last.batches.length * 16;
  let classicBytes = 0;
  const classicS = timed(() => {
    classicBytes = classicRunsBytes(set.now, set.old);
  });
  const lz4Only = lz4Blocks(blocksOf(set.now));
  const deltaLz4 = lz4Blocks(last.batches);
  const sample = set.now.subarray(0, GZIP_SAMPLE_BYTES);
  let gzipBytes = 0;
  const gzipS = timed(() => {
    gzipBytes = gzipSync(sample, { level: 1 }).length;
  });
  const row: Record<string, number | string> = {
    set: set.name,
    pages: set.indexes.length,
    runs: last.runs,
    mask: last.mask,
    raw: last.raw,
    copyGBps: rate(copyS),
    crcGBps: rate(crcS),
  };
  for (const [level, { encodeS, applyS }] of timings) {
    row[`encode_${level}_GBps`] = rate(encodeS);
    row[`apply_${level}_GBps`] = rate(applyS);
  }
  return {
    ...row,
    copyBestGBps: best(copyS),
    encodeBestGBps: best(fastestTimings().encodeS),
    applyBestGBps: best(fastestTimings().applyS),
    encodeCachedGBps: rounded(cached.bytes / 1e9 / cached.encodeS),
    applyCachedGBps: rounded(cached.bytes / 1e9 / cached.applyS),
    encodeCallUs: rounded(cached.callS * 1e6),
    encodeToCopy: rounded(rate(fastestTimings().encodeS) / rate(copyS)),
    applyToCopy: rounded(rate(fastestTimings().applyS) / rate(copyS)),
    encodeFullGBps: rate(full.encodeS),
    applyFullGBps: rate(full.applyS),
    classicGBps: rounded(pageBytes / 1e9 / classicS),
    lz4OnlyGBps: rounded(pageBytes / 1e9 / lz4Only.seconds),
    gzipGBps: rounded(sample.length / 1e9 / gzipS),
    deltaPercent: share(last.encodedBytes),
    classicPercent: share(classicBytes),
    // Page for page: a classic page needs its number too, so tables are left out of this ratio.
    deltaToClassic: rounded((last.encodedBytes - batchTables) / classicBytes),
    lz4OnlyPercent: share(lz4Only.bytes),
    deltaLz4Percent: share(deltaLz4.bytes),
    gzipPercent: rounded((100 * gzipBytes) / sample.length),
    deltaToLz4Only: rounded(last.encodedBytes / lz4Only.bytes),
    deltaLz4ToLz4Only: rounded(deltaLz4.bytes / lz4Only.bytes),
  };
}

/** The worst of the sets is what is held to the bound. */
function claimsOf(rows: readonly Row[]): Claim[] {
  const level = simdLevels().at(-1) ?? 'scalar';
  const all = (key: string): number[] => rows.map((row) => numberOf(row, key));
  const encode = `encode_${level}_GBps`;
  const applyToEncode = rows.map(
    (row) => numberOf(row, `apply_${level}_GBps`) / numberOf(row, encode),
  );
  return [
    {
      what: `delta encode (${level}), slowest data set`,
      measured: Math.min(...all(encode)),
      relation: 'at least',
      bound: ENCODE_GBPS_MIN,
      unit: 'GB/s',
    },
    {
      what: 'delta encode in cache, slowest data set',
      measured: Math.min(...all('encodeCachedGBps')),
      relation: 'at least',
      bound: ENCODE_GBPS_MIN,
      unit: 'GB/s',
    },
    {
      what: 'delta decode and apply to encode in cache, lowest ratio',
      measured: rounded(
        Math.min(
          ...rows.map(
            (row) => numberOf(row, 'applyCachedGBps') / numberOf(row, 'encodeCachedGBps'),
          ),
        ),
      ),
      relation: 'at least',
      bound: 1,
      unit: '',
    },
    {
      what: 'delta decode and apply to encode, lowest ratio',
      measured: rounded(Math.min(...applyToEncode)),
      relation: 'at least',
      bound: 1,
      unit: '',
    },
    {
      what: 'delta size to classic runs, highest ratio',
      measured: Math.max(...all('deltaToClassic')),
      relation: 'at most',
      bound: CLASSIC_RATIO_MAX,
      unit: '',
    },
  ];
}

/** Measures all sets, `rounds` alternating turns each; medians. */
export async function run(options: { rounds?: number } = {}): Promise<BenchResult> {
  const rows: Record<string, number | string>[] = [];
  for (const set of pageSets()) {
    rows.push(measure(set, options.rounds ?? 25));
    // Buffers of the last set go before the next one is made.
    await new Promise((resolve) => setImmediate(resolve));
  }
  return {
    name: 'page-delta',
    rows,
    claims: claimsOf(rows),
    notes: [
      'GBps: bytes of whole pages per second, one thread, median of alternating turns; best: the best.',
      'ToCopy: to a plain copy of the same pages in the same run; unlike it, encoding reads two pages.',
      'encode includes baseline update, page digests, batch CRC and the hand-over to JavaScript.',
      'apply includes validation and the digest of every resulting page; the target is a memfd.',
      `Cached: best call for ${CACHED_PAGES} of the pages, all in a core's cache, less the best for one ` +
        '(encodeCallUs): the code without memory and without the way into it.',
      'percent: size of the result per size of the pages; no delta is 100.',
      'classic: scalar (skip, length, bytes) runs, gaps under 4 bytes merged.',
      'lz4Only and gzip level 1: the new pages alone, LZ4 in blocks of 1 MiB, gzip on 2 MiB.',
    ],
  };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const rounds = process.argv[2] === undefined ? {} : { rounds: Number(process.argv[2]) };
  process.stdout.write(`${JSON.stringify(await run(rounds), null, 1)}\n`);
}
