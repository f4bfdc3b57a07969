/**
 * Cost follows the dirty set, not the memory: pause and processor time of an epoch for machines of
 * 256 MiB to 16 GiB with the same 1,000 dirty pages, and for one machine with 100 to 100,000.
 */
import { GIB, MIB, PAGE_BYTES } from '../src/base/units.ts';
import { type Pair, type Stretch, withPair } from './lib/pair.ts';
import { memoryAvailableMib } from './lib/process-use.ts';
import { type BenchResult, type Row, rounded } from './lib/result.ts';
import { stepsForPages } from './lib/uniform.ts';

/** What a filled machine takes: itself, the primary's baseline, the backup's image. */
const COPIES = 3;
/** Left to everybody else on the host. */
const SPARE_MIB = 4096;

interface Series {
  readonly memoryBytes: number;
  readonly intervalMs: number;
  readonly dirtyPages: readonly number[];
}

const FULL: readonly Series[] = [
  { memoryBytes: 256 * MIB, intervalMs: 50, dirtyPages: [1000] },
  { memoryBytes: GIB, intervalMs: 50, dirtyPages: [1000] },
  { memoryBytes: 4 * GIB, intervalMs: 50, dirtyPages: [1000] },
  { memoryBytes: 16 * GIB, intervalMs: 50, dirtyPages: [1000] },
  {
    memoryBytes: GIB,
    intervalMs: 250,
    dirtyPages: [100, 300, 1000, 3000, 10_000, 30_000, 100_000],
  },
];
const QUICK: readonly Series[] = [
  { memoryBytes: 256 * MIB, intervalMs: 50, dirtyPages: [1000] },
  { memoryBytes: GIB, intervalMs: 100, dirtyPages: [100, 1000, 10_000] },
];

function rowOf(series: Series, filled: boolean, asked: number, stretch: Stretch): Row {
  const { status, epochs } = stretch;
  return {
    memoryMib: series.memoryBytes / MIB,
    filled: filled ? 'yes' : 'no',
    intervalMs: series.intervalMs,
    askedDirtyPages: asked,
    dirtyPagesP50: Math.round(status.dirtyPages.p50),
    epochs,
    pauseP50Ms: rounded(status.pauseMs.p50),
    pauseP99Ms: rounded(status.pauseMs.p99),
    stopP50Ms: rounded(status.stopMs.p50),
    scanP50Ms: rounded(status.scanMs.p50),
    copyP50Ms: rounded(status.copyMs.p50),
    encodeP50Ms: rounded(status.encodeMs.p50),
    commitP50Ms: rounded(status.commitMs.p50),
    primaryCpuMsPerEpoch: rounded(stretch.primaryCpuMs / Math.max(epochs, 1)),
    backupCpuMsPerEpoch: rounded(stretch.backupCpuMs / Math.max(epochs, 1)),
    state: status.state,
  };
}

async function measureSeries(series: Series, stretchMs: number): Promise<Row[]> {
  const { memoryBytes, intervalMs } = series;
  const pages = memoryBytes / PAGE_BYTES;
  const rateFor = (dirty: number): number => (stepsForPages(dirty, pages) * 1000) / intervalMs;
  const filled = memoryAvailableMib() > (COPIES * memoryBytes) / MIB + SPARE_MIB;
  return await withPair(
    { memoryBytes, workload: 'random', rate: 1000, beacons: 1000, intervalMs },
    async (pair: Pair) => {
      if (filled) await pair.populate();
      await pair.protect();
      const rows: Row[] = [];
      for (const dirty of series.dirtyPages) {
        await pair.setRate(rateFor(dirty));
        rows.push(rowOf(series, filled, dirty, await pair.measure(stretchMs)));
      }
      return rows;
    },
  );
}

/** Measures every series. */
export async function run(
  options: { quick?: boolean; stretchMs?: number } = {},
): Promise<BenchResult> {
  const stretchMs = options.stretchMs ?? 6000;
  const rows: Row[] = [];
  for (const series of options.quick === true ? QUICK : FULL)
    rows.push(...(await measureSeries(series, stretchMs)));
  return {
    name: 'dirty-set',
    rows,
    notes: [
      'Uniform writes of 64 bytes; rates chosen so that the asked number of different pages is dirty.',
      'filled no: the host has no memory for three copies of the machine, so only touched pages exist; ' +
        'native-capture has the filled 16 GiB.',
      'Processor time: utime + stime of the whole process, in ticks of 10 ms, by epochs of the stretch.',
    ],
  };
}
