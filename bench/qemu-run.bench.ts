/**
 * What protection costs a running Linux in a real QEMU, and whether its pace holds: a fixed job in
 * the guest (sorting, packing, summing) without protection and at 20 and 40 epochs a second, timed
 * from outside by what it prints, because a machine that stands still does not count its own pauses;
 * then epochs under a program that dirties 1,000 pages in each, and under a busy shell.
 *
 * Guest, primary and backup share this host's processors: on two hosts a guest would lose less.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { MIB } from '../src/base/units.ts';
import type { SerialLine } from '../src/drill/qemu/serial-line.ts';
import { busiestThread, threadUse } from './lib/process-use.ts';
import { QemuPair, type QemuStretch } from './lib/qemu-pair.ts';
import {
  type BenchResult,
  type Claim,
  numberOf,
  percentile,
  type Row,
  rounded,
} from './lib/result.ts';

const MEMORY_MIB = 512;
const SLOWDOWN_MAX: Readonly<Record<number, number>> = { 20: 1.1, 40: 1.2 };
const PACE_SHARE_MIN = 0.99;
const QUEUE_HIGH_BYTES = 64 * MIB;
const WARM_MS = 3000;
const SETTLE_MS = 1000;
/**
 * A shared host has slow and fast phases, seconds long, that differ by half. The faster quarter of the
 * rounds is compared too, beside the medians: where the two differ, phases were measured.
 */
const PHASE_QUANTILE = 0.25;
/** For the first half minute the nodes' own code is still being compiled, on the guest's processors. */
const NODES_WARM_MS = 30_000;

export interface QemuRunOptions {
  /** How long each pace of the job is measured, and how often all are. */
  readonly jobSeconds?: number;
  readonly jobRounds?: number;
  readonly paceSeconds?: number;
  /** Between the beginning of protection and the first measurement. */
  readonly nodesWarmMs?: number;
}

/** The job at one pace. */
class JobSamples {
  readonly roundsMs: number[] = [];
  #elapsedNs = 0;
  #ranNs = 0;
  #waitedNs = 0;

  /** Goes on for so long. */
  async add(serial: SerialLine, machinePid: number, seconds: number): Promise<void> {
    const vcpu = busiestThread(machinePid);
    const before = { atMs: performance.now(), ...threadUse(machinePid, vcpu) };
    this.roundsMs.push(...(await roundsMs(serial, seconds)));
    const after = threadUse(machinePid, vcpu);
    this.#elapsedNs += (performance.now() - before.atMs) * 1e6;
    this.#ranNs += after.ranNs - before.ranNs;
    this.#waitedNs += after.waitedNs - before.waitedNs;
  }

  /** Of the time, the part in which the guest's processor ran, or could have and another thread did. */
  get vcpuPercents(): { ran: number; waited: number } {
    const percent = (ns: number): number => rounded((100 * ns) / this.#elapsedNs);
    return { ran: percent(this.#ranNs), waited: percent(this.#waitedNs) };
  }
}

/** Times that rounds of the job took, over the lines that fell into a stretch. */
async function roundsMs(serial: SerialLine, seconds: number): Promise<number[]> {
  const first = serial.lines.length;
  await sleep(seconds * 1000);
  const times = serial.lines
    .slice(first)
    .filter(({ text }) => text.startsWith('w '))
    .map(({ atNs }) => Number(atNs) / 1e6);
  return times.slice(1).map((time, index) => time - (times[index] ?? time));
}

async function measureJob(options: {
  seconds: number;
  rounds: number;
  nodesWarmMs: number;
}): Promise<Row[]> {
  const { seconds, rounds, nodesWarmMs } = options;
  const pair = await QemuPair.start({ memoryMib: MEMORY_MIB, run: ['work'] });
  const { serial, pid } = pair.machine;
  const free = new JobSamples();
  const held = new Map<number, JobSamples>([
    [20, new JobSamples()],
    [40, new JobSamples()],
  ]);
  try {
    await sleep(WARM_MS);
    await free.add(serial, pid, (seconds * rounds) / 2);
    await pair.protect(50);
    await sleep(nodesWarmMs);
    for (let round = 0; round < rounds; round += 1)
      for (const [epochsPerSecond, samples] of held) {
        await pair.setInterval(1000 / epochsPerSecond);
        await sleep(SETTLE_MS);
        await samples.add(serial, pid, seconds);
      }
    await pair.unprotect();
    await sleep(SETTLE_MS);
    await free.add(serial, pid, (seconds * rounds) / 2);
  } finally {
    await pair.close();
  }
  const spread = (samples: JobSamples): [number, number] => [
    percentile(samples.roundsMs, PHASE_QUANTILE),
    percentile(samples.roundsMs, 0.5),
  ];
  const [freeMs, freeMedianMs] = spread(free);
  return [...held].map(([epochsPerSecond, samples]) => {
    const [heldMs, heldMedianMs] = spread(samples);
    return {
      what: 'job',
      epochsPerSecond,
      unprotectedMs: rounded(freeMedianMs),
      protectedMs: rounded(heldMedianMs),
      slowdown: rounded(heldMedianMs / freeMedianMs),
      slowdownInFastPhases: rounded(heldMs / freeMs),
      vcpuRanPercent: samples.vcpuPercents.ran,
      vcpuWaitedPercent: samples.vcpuPercents.waited,
      vcpuWaitedPercentUnprotected: free.vcpuPercents.waited,
    };
  });
}

function paceRow(what: string, asked: number, stretch: QemuStretch): Row {
  const { status, seconds } = stretch;
  return {
    what,
    epochsPerSecond: asked,
    made: rounded(stretch.epochs / seconds),
    seconds: Math.round(seconds),
    dirtyPagesP50: Math.round(status.dirtyPages.p50),
    pauseP50Ms: rounded(status.pauseMs.p50),
    pauseP99Ms: rounded(status.pauseMs.p99),
    commitP50Ms: rounded(status.commitMs.p50),
    commitP99Ms: rounded(status.commitMs.p99),
    queueMibMax: rounded(stretch.queueBytesMax / MIB),
    sentMbPerSecond: rounded(stretch.bytesSent / seconds / 1e6),
    primaryCpuPercent: rounded(stretch.primaryCpuMs / seconds / 10),
    backupCpuPercent: rounded(stretch.backupCpuMs / seconds / 10),
    lapses: stretch.unprotected,
  };
}

async function measurePace(
  what: string,
  options: { run: string[]; kernelArgs?: string[]; epochsPerSecond: number; seconds: number },
): Promise<Row> {
  const { run, kernelArgs = [], epochsPerSecond, seconds } = options;
  const pair = await QemuPair.start({ memoryMib: MEMORY_MIB, run, kernelArgs });
  try {
    await pair.protect(1000 / epochsPerSecond);
    await sleep(WARM_MS);
    return paceRow(what, epochsPerSecond, await pair.measure(seconds * 1000));
  } finally {
    await pair.close();
  }
}

function claimsOf(rows: readonly Row[]): Claim[] {
  return rows.flatMap((row): Claim[] => {
    const asked = numberOf(row, 'epochsPerSecond');
    if (row['what'] === 'job')
      return [
        {
          what: `a job in the guest at ${asked} epochs a second, to unprotected`,
          measured: numberOf(row, 'slowdown'),
          relation: 'at most',
          bound: SLOWDOWN_MAX[asked] ?? Number.NaN,
          unit: '',
        },
      ];
    return [
      {
        what: `pace of QEMU, ${row['what']}, ${asked} a second asked`,
        measured: numberOf(row, 'made'),
        relation: 'at least',
        bound: PACE_SHARE_MIN * asked,
        unit: 'epochs/s',
      },
      {
        what: `largest queue meanwhile, ${row['what']}`,
        measured: numberOf(row, 'queueMibMax'),
        relation: 'at most',
        bound: QUEUE_HIGH_BYTES / MIB,
        unit: 'MiB',
      },
      {
        what: `protection lost meanwhile, ${row['what']}`,
        measured: numberOf(row, 'lapses'),
        relation: 'at most',
        bound: 0,
        unit: 'times',
      },
    ];
  });
}

/** The job at both paces, then the paces themselves. */
export async function run(options: QemuRunOptions = {}): Promise<BenchResult> {
  const { jobSeconds = 5, jobRounds = 8, paceSeconds = 300, nodesWarmMs = NODES_WARM_MS } = options;
  const rows = [
    ...(await measureJob({ seconds: jobSeconds, rounds: jobRounds, nodesWarmMs })),
    await measurePace('1,000 pages an epoch', {
      run: ['dirty'],
      kernelArgs: ['romulus.dirty=1000/25ms/8'],
      epochsPerSecond: 40,
      seconds: paceSeconds,
    }),
    await measurePace('a busy shell', {
      run: ['shell'],
      epochsPerSecond: 20,
      seconds: Math.ceil(paceSeconds / 5),
    }),
  ];
  return {
    name: 'qemu-run',
    rows,
    claims: claimsOf(rows),
    notes: [
      'guest, primary and backup on the same two processors; times of the job by a clock outside, half a minute after protection began; slowdown compares medians of rounds, slowdownInFastPhases their lower quartiles; vcpuWaitedPercent: the guest could have run, and another thread of this host did',
      'Remus reported 1.52 and 2.03 for a kernel compile at 20 and 40 checkpoints a second',
    ],
  };
}
