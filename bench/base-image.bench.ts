/**
 * How fast a backup gets its base image, through everything that production does: scan and copy,
 * delta against nothing, LZ4 where it pays, CRC on both ends, write into the image, promise, and the
 * acknowledged epoch that completes it. Beside it, in turn, a plain TCP copy of as many bytes over
 * loopback, from a memory of one process to one of another that was not touched before; and, to show
 * what that memory costs, a plain stream that is dropped as it arrives. Shares are of neighbours in
 * time, since the host's load changes between rounds.
 */
import { GIB, MIB } from '../src/base/units.ts';
import { type Pair, withPair } from './lib/pair.ts';
import { plainCopyInto, sourceBytes } from './lib/plain-copy.ts';
import { processUse } from './lib/process-use.ts';
import { type BenchResult, percentile, type Row, rounded } from './lib/result.ts';
import { plainCopyRate } from './link.bench.ts';

/** Kept low meanwhile: how fast a copy is made of a machine at rest, not how pre-copy converges. */
const STEPS_PER_SECOND = 100;
const SHARE_MIN = 0.6;

interface Sync {
  readonly seconds: number;
  readonly primaryCpuMs: number;
  readonly backupCpuMs: number;
}

/** From the primary's word that it is syncing to its word that the machine is protected. */
function syncSeconds(pair: Pair): number {
  const at = (wanted: string): bigint => {
    const seen = pair.primaryEvents.find(
      ({ event }) => event.event === 'state' && event.state === wanted,
    );
    if (seen === undefined) throw new Error(`the primary never said "${wanted}"`);
    return seen.readAtNs;
  };
  return Number(at('protected') - at('syncing')) / 1e9;
}

async function measureSync(memoryBytes: number): Promise<Sync> {
  return await withPair(
    {
      memoryBytes,
      // Every word of every page is written, with values that do not compress.
      workload: 'stream',
      rate: STEPS_PER_SECOND,
      beacons: 1000,
      intervalMs: 25,
    },
    async (pair) => {
      await pair.populate();
      await pair.protect();
      return {
        seconds: syncSeconds(pair),
        // Start-up is in these too; it is a few tenths of a second.
        primaryCpuMs: processUse(pair.primaryPid).cpuMs,
        backupCpuMs: processUse(pair.backupPid).cpuMs,
      };
    },
  );
}

/** Measures images and plain copies in turn. */
export async function run(
  options: { rounds?: number; memoryBytes?: number } = {},
): Promise<BenchResult> {
  const { rounds = 3, memoryBytes = GIB } = options;
  const syncs: Sync[] = [];
  const copies: number[] = [];
  const streams: number[] = [];
  const source = sourceBytes(memoryBytes);
  for (let round = 0; round < rounds; round += 1) {
    streams.push(await plainCopyRate(memoryBytes));
    copies.push(await plainCopyInto(source));
    syncs.push(await measureSync(memoryBytes));
  }
  const images = syncs.map(({ seconds }) => memoryBytes / seconds);
  const rate = (rates: readonly number[]): number => rounded(percentile(rates, 0.5) / 1e9);
  const shareOf = (rates: readonly number[], of: readonly number[]): number =>
    rounded(
      percentile(
        rates.map((each, round) => each / (of[round] ?? Number.NaN)),
        0.5,
      ),
    );
  const gigabytes = memoryBytes / 1e9;
  const cpu = (pick: (sync: Sync) => number): number =>
    rounded(percentile(syncs.map(pick), 0.5) / 1000 / gigabytes);
  const rows: Row[] = [
    {
      kind: 'plain TCP stream, dropped on arrival',
      gigabytesPerSecond: rate(streams),
      shareOfCopy: shareOf(streams, copies),
    },
    {
      kind: 'plain TCP copy into fresh memory, nothing checked',
      gigabytesPerSecond: rate(copies),
      shareOfCopy: 1,
    },
    {
      kind: 'base image, from "syncing" to "protected"',
      gigabytesPerSecond: rate(images),
      shareOfCopy: shareOf(images, copies),
      shareOfStream: shareOf(images, streams),
      primaryCpuSecondsPerGigabyte: cpu(({ primaryCpuMs }) => primaryCpuMs),
      backupCpuSecondsPerGigabyte: cpu(({ backupCpuMs }) => backupCpuMs),
    },
  ];
  return {
    name: 'base-image',
    rows,
    claims: [
      {
        what: 'base image, whole engine path, to a plain TCP copy of as many bytes',
        measured: shareOf(images, copies),
        relation: 'at least',
        bound: SHARE_MIN,
        unit: '',
      },
    ],
    notes: [
      `${memoryBytes / MIB} MiB machine full of bytes that do not compress, nearly at rest; ${rounds} rounds, medians.`,
      'link shows the same for the frames alone, without capture, delta and apply.',
    ],
  };
}
