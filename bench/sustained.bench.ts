/**
 * Whether the pace holds: 100 epochs a second at 1,000 dirty pages each for a minute, with a bounded
 * queue and flat memory, and what 200 and 500 a second give.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { GIB, MIB, PAGE_BYTES } from '../src/base/units.ts';
import { type Pair, withPair } from './lib/pair.ts';
import { processUse } from './lib/process-use.ts';
import { type BenchResult, type Claim, numberOf, type Row, rounded } from './lib/result.ts';
import { stepsForPages } from './lib/uniform.ts';

const MEMORY_BYTES = GIB;
const DIRTY_PAGES = 1000;
/**
 * Caches, heaps and the baseline have reached their size by then: of the pages, 99 of a hundred were written
 * since the base image.
 */
const WARM_MS = 12_000;
const FRAMES_PER_SECOND = 400;
/** `--queue-high` of the nodes as started here. */
const QUEUE_HIGH_BYTES = 64 * MIB;

export interface SustainedOptions {
  readonly seconds?: number;
  readonly fasterSeconds?: number;
  readonly warmMs?: number;
}

function rateFor(epochsPerSecond: number): number {
  return stepsForPages(DIRTY_PAGES, MEMORY_BYTES / PAGE_BYTES) * epochsPerSecond;
}

async function measurePace(pair: Pair, epochsPerSecond: number, seconds: number): Promise<Row> {
  await pair.setInterval(1000 / epochsPerSecond);
  await pair.setRate(rateFor(epochsPerSecond));
  const before = [processUse(pair.primaryPid), processUse(pair.backupPid)] as const;
  const stretch = await pair.measure(seconds * 1000);
  const after = [processUse(pair.primaryPid), processUse(pair.backupPid)] as const;
  const { status } = stretch;
  return {
    askedEpochsPerSecond: epochsPerSecond,
    epochsPerSecond: rounded(stretch.epochs / stretch.seconds),
    seconds: Math.round(stretch.seconds),
    dirtyPagesP50: Math.round(status.dirtyPages.p50),
    pauseP50Ms: rounded(status.pauseMs.p50),
    pauseP99Ms: rounded(status.pauseMs.p99),
    commitP50Ms: rounded(status.commitMs.p50),
    commitP99Ms: rounded(status.commitMs.p99),
    outputDelayP99Ms: rounded(status.outputDelayMs.p99),
    queueMibMax: rounded(stretch.queueBytesMax / MIB),
    sentMbPerSecond: rounded(stretch.bytesSent / stretch.seconds / 1e6),
    primaryCpuPercent: rounded(stretch.primaryCpuMs / stretch.seconds / 10),
    backupCpuPercent: rounded(stretch.backupCpuMs / stretch.seconds / 10),
    primaryMibStart: before[0].ownMib,
    primaryMibEnd: after[0].ownMib,
    backupMibStart: before[1].ownMib,
    backupMibEnd: after[1].ownMib,
    primaryResidentMibStart: before[0].residentMib,
    primaryResidentMibEnd: after[0].residentMib,
    backupResidentMibStart: before[1].residentMib,
    backupResidentMibEnd: after[1].residentMib,
    state: status.state,
  };
}

function claimsOf(row: Row | undefined): Claim[] {
  const growth = (node: string): number =>
    rounded(numberOf(row, `${node}MibEnd`) / numberOf(row, `${node}MibStart`));
  return [
    {
      what: 'sustained pace at 1,000 dirty pages an epoch',
      measured: numberOf(row, 'epochsPerSecond'),
      relation: 'at least',
      bound: 99,
      unit: 'epochs/s',
    },
    {
      what: 'largest queue seen meanwhile (high watermark)',
      measured: numberOf(row, 'queueMibMax'),
      relation: 'at most',
      bound: QUEUE_HIGH_BYTES / MIB,
      unit: 'MiB',
    },
    {
      what: 'own memory of the primary, end to start',
      measured: growth('primary'),
      relation: 'at most',
      bound: 1.1,
      unit: '',
    },
    {
      what: 'own memory of the backup, end to start',
      measured: growth('backup'),
      relation: 'at most',
      bound: 1.1,
      unit: '',
    },
  ];
}

/** Holds 100 a second for `seconds`, then 200 and 500 for `fasterSeconds` each. */
export async function run(options: SustainedOptions = {}): Promise<BenchResult> {
  const { seconds = 60, fasterSeconds = 10, warmMs = WARM_MS } = options;
  const rows = await withPair(
    {
      memoryBytes: MEMORY_BYTES,
      workload: 'random',
      rate: rateFor(100),
      beacons: Math.ceil((FRAMES_PER_SECOND * 1e6) / rateFor(100)),
      intervalMs: 10,
    },
    async (pair) => {
      await pair.populate();
      await pair.protect();
      const protectedMib = processUse(pair.primaryPid).ownMib;
      await sleep(warmMs);
      return [
        { ...(await measurePace(pair, 100, seconds)), primaryMibAfterImage: protectedMib },
        await measurePace(pair, 200, fasterSeconds),
        await measurePace(pair, 500, fasterSeconds),
      ];
    },
  );
  return {
    name: 'sustained',
    rows,
    claims: claimsOf(rows[0]),
    notes: [
      '1 GiB machine, all of it written before; uniform writes, about 1,000 dirty pages an epoch asked for.',
      'Own memory: resident and anonymous (RssAnon); the rest is the machine or its image, shared.',
      'The queue is sampled five times a second.',
    ],
  };
}
