/**
 * What finding and copying the dirty pages of another process costs, beside its floor: one bare
 * PAGEMAP_SCAN by one thread, then a non-temporal copy of the same pages by two threads that already
 * run. Captures and floors alternate within one run, so that the host's noise meets both.
 *
 * The other process stands still while it is captured, as a suspended machine does. Run with
 * `npx tsx bench/native-capture.bench.ts`; prints one JSON object.
 */
import { pathToFileURL } from 'node:url';
import { GIB, MIB, PAGE_BYTES } from '../src/base/units.ts';
import { Capture } from '../src/native/capture.ts';
import { loadNative } from '../src/native/load.ts';
import { Memory, type MemoryHandle } from '../src/native/memory.ts';
import { Tracker, type TrackerHandle } from '../src/native/tracker.ts';
import { PokeMachine } from '../test/fixtures/poke-machine.ts';
import { type BenchResult, type Claim, numberOf, percentile, rounded } from './lib/result.ts';

interface FloorNative {
  benchCaptureFloor(
    tracker: TrackerHandle,
    memory: MemoryHandle,
    pagesMax: number,
  ): { pages: number; scanNs: number; copyNs: number };
}

interface Sample {
  readonly pages: number;
  readonly scanNs: number;
  readonly copyNs: number;
}

const totalMs = (sample: Sample): number => (sample.scanNs + sample.copyNs) / 1e6;

const FLOOR_RATIO_MAX = 1.25;
const P99_RATIO_MAX = 3;

const CASES: readonly { bytes: number; dirty: number; samples: number }[] = [
  { bytes: GIB, dirty: 1000, samples: 300 },
  { bytes: GIB, dirty: 16_000, samples: 200 },
  { bytes: GIB, dirty: 100, samples: 100 },
  { bytes: GIB, dirty: 4000, samples: 100 },
  { bytes: GIB, dirty: 100_000, samples: 30 },
  { bytes: 256 * MIB, dirty: 1000, samples: 100 },
  { bytes: 4 * GIB, dirty: 1000, samples: 60 },
  { bytes: 16 * GIB, dirty: 1000, samples: 30 },
];

function row(
  bytes: number,
  dirty: number,
  captures: readonly Sample[],
  floors: readonly Sample[],
): Record<string, number> {
  const p50 = percentile(captures.map(totalMs), 0.5);
  const p99 = percentile(captures.map(totalMs), 0.99);
  const floorMs = percentile(floors.map(totalMs), 0.5);
  return {
    memoryMib: bytes / MIB,
    dirtyPages: dirty,
    samples: captures.length,
    scanMs: rounded(
      percentile(
        captures.map((s) => s.scanNs / 1e6),
        0.5,
      ),
    ),
    copyMs: rounded(
      percentile(
        captures.map((s) => s.copyNs / 1e6),
        0.5,
      ),
    ),
    totalP50Ms: rounded(p50),
    totalP99Ms: rounded(p99),
    floorScanMs: rounded(
      percentile(
        floors.map((s) => s.scanNs / 1e6),
        0.5,
      ),
    ),
    floorCopyMs: rounded(
      percentile(
        floors.map((s) => s.copyNs / 1e6),
        0.5,
      ),
    ),
    floorP50Ms: rounded(floorMs),
    floorP99Ms: rounded(percentile(floors.map(totalMs), 0.99)),
    ratioToFloor: rounded(p50 / floorMs),
    p99ToP50: rounded(p99 / p50),
  };
}

async function measureMemory(
  bytes: number,
  cases: readonly { dirty: number; samples: number }[],
  threads: 1 | 2,
): Promise<Record<string, number>[]> {
  const native = loadNative<FloorNative>();
  const machine = await PokeMachine.start({ kind: 'shared', bytes });
  const memory = Memory.map({ path: machine.sharedPath ?? '', bytes, writable: false });
  const tracker = new Tracker({
    pid: machine.pid,
    ranges: [{ address: machine.address, bytes }],
    kind: 'uffd-wp',
  });
  const capture = new Capture({ tracker, block: 0, memory, threads });
  const rows: Record<string, number>[] = [];
  let seed = 1;
  try {
    // All of the memory is populated, and mapped by us too, as after a base image.
    await machine.command(`fill 0 ${bytes / PAGE_BYTES}`);
    const partPages = 65_536;
    for (let fromPage = 0; fromPage < capture.pageCount; fromPage += partPages) {
      const pageCount = Math.min(partPages, capture.pageCount - fromPage);
      capture.capture({ full: true, fromPage, pageCount });
    }
    capture.trim();
    for (const { dirty, samples } of cases) {
      const captures: Sample[] = [];
      const floors: Sample[] = [];
      for (let i = -3; i < samples; i += 1) {
        const turn = async (take: () => Sample, into: Sample[]): Promise<void> => {
          await machine.command(`random ${dirty} ${(seed += 7919)}`);
          const sample = take();
          if (i >= 0) into.push(sample);
        };
        await turn(() => capture.capture(), captures);
        await turn(
          () => native.benchCaptureFloor(tracker.handle, memory.handle, 2 * dirty + 64),
          floors,
        );
      }
      rows.push({ ...row(bytes, dirty, captures, floors), threads });
    }
  } finally {
    capture.close();
    tracker.close();
    memory.close();
    await machine.stop();
  }
  return rows;
}

function claimsOf(rows: readonly Record<string, number>[]): Claim[] {
  return rows
    .filter((one) => one['memoryMib'] === GIB / MIB)
    .filter((one) => [1000, 16_000].includes(one['dirtyPages'] ?? 0))
    .flatMap((one): Claim[] => {
      const what = `capture of ${one['dirtyPages']} dirty pages of 1 GiB`;
      return [
        {
          what: `${what}, to its floor`,
          measured: numberOf(one, 'ratioToFloor'),
          relation: 'at most',
          bound: FLOOR_RATIO_MAX,
          unit: '',
        },
        {
          what: `${what}, p99 to p50`,
          measured: numberOf(one, 'p99ToP50'),
          relation: 'at most',
          bound: P99_RATIO_MAX,
          unit: '',
        },
      ];
    });
}

/** Runs the sweep; `only` limits it to memories up to that many bytes. */
export async function run(options: { bytesMax?: number } = {}): Promise<BenchResult> {
  const rows: Record<string, number>[] = [];
  const sizes = [...new Set(CASES.map((one) => one.bytes))];
  for (const bytes of sizes.filter((size) => size <= (options.bytesMax ?? Number.MAX_VALUE))) {
    const cases = CASES.filter((one) => one.bytes === bytes);
    rows.push(...(await measureMemory(bytes, cases, 2)));
  }
  return {
    name: 'native-capture',
    rows,
    claims: claimsOf(rows),
    notes: [
      'Tracker uffd-wp on shared memory of another process, fully populated with 4 KiB pages.',
      'Floor: one PAGEMAP_SCAN by one thread, then non-temporal copies by two running threads.',
      'A ratio below 1: captures scan with both threads, the floor is defined with one.',
      'Captures and floors run at the same (real-time, where allowed) priority.',
    ],
  };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const bytesMax = process.argv[2] === undefined ? {} : { bytesMax: Number(process.argv[2]) * MIB };
  process.stdout.write(`${JSON.stringify(await run(bytesMax), null, 1)}\n`);
}
