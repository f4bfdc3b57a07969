/**
 * What protection costs a machine and its users: interval x workload x rate, with real nodes in
 * processes of their own. Overhead is what the machine runs slower than the same machine without
 * protection just before, at unlimited rate: pauses, write-protection faults, and the processors it
 * shares with both nodes and the world when all run on one host.
 */
import { MIB } from '../src/base/units.ts';
import type { SimWorkload } from '../src/guests/sim/info.ts';
import { type MachineSpeed, type Stretch, withPair } from './lib/pair.ts';
import { type BenchResult, type Row, rounded } from './lib/result.ts';

const MEMORY_BYTES = 256 * MIB;
/** Output frames a second that the machine should make, to have delays to measure. */
const FRAMES_PER_SECOND = 400;
/** What a machine without a limit reaches, roughly: only for the number of frames. */
const UNLIMITED_STEPS_PER_SECOND = 2_000_000;
/** kv has no load of its own at rate 0. */
const KV_UNLIMITED_RATE = 100_000_000;

const WORKLOADS = ['hotspot', 'random', 'kv', 'stream'] as const;
const INTERVALS_MS = [10, 25, 50, 100];
const RATES = [20_000, 100_000, 0];

export interface SweepOptions {
  readonly workloads?: readonly SimWorkload[];
  readonly intervalsMs?: readonly number[];
  readonly rates?: readonly number[];
  readonly stretchMs?: number;
}

function rowOf(
  shape: { workload: SimWorkload; rate: number; intervalMs: number; alone: MachineSpeed },
  stretch: Stretch,
): Row {
  const { status, seconds } = stretch;
  const stepsPerCpuMs = (stretch.stepsPerSecond * seconds) / Math.max(stretch.machineCpuMs, 1);
  return {
    workload: shape.workload,
    rate: shape.rate === 0 ? 'unlimited' : shape.rate,
    intervalMs: shape.intervalMs,
    epochs: stretch.epochs,
    epochsPerSecond: rounded(stretch.epochs / seconds),
    dirtyPagesP50: Math.round(status.dirtyPages.p50),
    pauseP50Ms: rounded(status.pauseMs.p50),
    pauseP99Ms: rounded(status.pauseMs.p99),
    stopP50Ms: rounded(status.stopMs.p50),
    scanP50Ms: rounded(status.scanMs.p50),
    copyP50Ms: rounded(status.copyMs.p50),
    encodeP50Ms: rounded(status.encodeMs.p50),
    commitP50Ms: rounded(status.commitMs.p50),
    commitP99Ms: rounded(status.commitMs.p99),
    outputDelayP50Ms: rounded(status.outputDelayMs.p50),
    outputDelayP99Ms: rounded(status.outputDelayMs.p99),
    rawMbPerSecond: rounded(stretch.bytesRaw / seconds / 1e6),
    sentMbPerSecond: rounded(stretch.bytesSent / seconds / 1e6),
    sentToRaw: rounded(stretch.bytesRaw === 0 ? 0 : stretch.bytesSent / stretch.bytesRaw),
    aloneStepsPerSecond: Math.round(shape.alone.stepsPerSecond),
    protectedStepsPerSecond: Math.round(stretch.stepsPerSecond),
    speedToAlone: rounded(stretch.stepsPerSecond / shape.alone.stepsPerSecond),
    stepsPerCpuToAlone: rounded(stepsPerCpuMs / shape.alone.stepsPerCpuMs),
    pausedPercent: rounded((100 * stretch.epochs * status.pauseMs.p50) / (seconds * 1000)),
    state: status.state,
  };
}

async function measureMachine(
  workload: SimWorkload,
  rate: number,
  options: { intervalsMs: readonly number[]; stretchMs: number },
): Promise<Row[]> {
  const reached = rate === 0 ? UNLIMITED_STEPS_PER_SECOND : rate;
  const machineRate = workload === 'kv' && rate === 0 ? KV_UNLIMITED_RATE : rate;
  const { intervalsMs, stretchMs } = options;
  return await withPair(
    {
      memoryBytes: MEMORY_BYTES,
      workload,
      rate: machineRate,
      beacons: Math.ceil((FRAMES_PER_SECOND * 1e6) / reached),
      intervalMs: intervalsMs[0] ?? 25,
    },
    async (pair) => {
      if (workload !== 'kv') await pair.populate();
      const alone = await pair.speed(stretchMs / 2);
      // The base image of a machine that writes all its memory every epoch would take its time.
      await pair.setRate(
        Math.min(machineRate === 0 ? Number.MAX_SAFE_INTEGER : machineRate, 20_000),
      );
      await pair.protect();
      await pair.setRate(machineRate);
      const rows: Row[] = [];
      for (const intervalMs of intervalsMs) {
        await pair.setInterval(intervalMs);
        const stretch = await pair.measure(stretchMs);
        rows.push(rowOf({ workload, rate, intervalMs, alone }, stretch));
      }
      return rows;
    },
  );
}

/** Runs every combination, one after the other. */
export async function run(options: SweepOptions = {}): Promise<BenchResult> {
  const intervalsMs = options.intervalsMs ?? INTERVALS_MS;
  const stretchMs = options.stretchMs ?? 2500;
  const rows: Row[] = [];
  const failures: string[] = [];
  const workloads = options.workloads ?? WORKLOADS;
  const rates = options.rates ?? RATES;
  for (const workload of workloads)
    for (const rate of rates) {
      try {
        rows.push(...(await measureMachine(workload, rate, { intervalsMs, stretchMs })));
      } catch (error) {
        // One machine that cannot be protected must not take the other rows with it.
        failures.push(`${workload} at rate ${rate} failed: ${String(error)}`);
        process.stderr.write(`sweep: ${failures.at(-1)}\n`);
      }
    }
  return {
    name: 'sweep',
    rows,
    claims: [
      {
        what: 'machines of the sweep that could be protected and measured',
        measured: workloads.length * rates.length - failures.length,
        relation: 'at least',
        bound: workloads.length * rates.length,
        unit: '',
      },
      {
        what: 'stretches of the sweep that ended protected',
        measured: rows.filter((row) => row['state'] === 'protected').length,
        relation: 'at least',
        bound: rows.length,
        unit: '',
      },
    ],
    notes: [
      ...failures,
      `${MEMORY_BYTES / MIB} MiB machine, written all over before; stretches of ${stretchMs} ms.`,
      'Machine, both nodes and the world share the processors of one host; speedToAlone includes that.',
      'stepsPerCpuToAlone: steps for the same processor time of the machine: what write protection ' +
        'costs it, without pauses and without waiting for a processor.',
      'pausedPercent: epochs x median pause, as a share of the time.',
      'rate: steps a second asked for; the unlimited kv machine runs a load of its own.',
      'Output delay: from the engine receiving a frame to its release. Commit: from asking for the stop to the release.',
    ],
  };
}
