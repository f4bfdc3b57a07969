/**
 * What protection costs a running Linux in a real QEMU, and whether its pace holds: a fixed job in
 * the guest (sorting, packing, summing) without protection and at 20 and 40 epochs a second, timed
 * from outside by what it prints, because a machine that stands still does not count its own pauses,
 * and compared with what it took without protection while its core was as fast; then epochs under a program that dirties 1,000 pages in each, and under a busy shell, and whether a
 * heartbeat was missed meanwhile.
 *
 * Guest, primary and backup share this host's processors: on two hosts a guest would lose less.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { MIB } from '../src/base/units.ts';
import type { SerialLine } from '../src/drill/qemu/serial-line.ts';
import { CoreSpeed } from './lib/core-speed.ts';
import { type Go, matchedRatio } from './lib/matched.ts';
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
/** Until then the nodes' own code is still being compiled, on the guest's processors. */
const NODES_WARM_MS = 30_000;
const JOB_PACES = [20, 40];

export interface QemuRunOptions {
  /** How long a stretch of the job is, and how many turns of them are measured. */
  readonly jobSeconds?: number;
  readonly jobTurns?: number;
  readonly paceSeconds?: number;
  /** Between the beginning of protection and the first measurement. */
  readonly nodesWarmMs?: number;
}

/** One stretch of the job. */
interface JobStretch {
  /** Its rounds, and how slow their cores were. */
  readonly rounds: readonly Go[];
  /** Median of the rounds. */
  readonly roundMs: number;
  /** Of its time, the part in which the guest's processor ran, or could have and another thread did. */
  readonly vcpuRanPercent: number;
  readonly vcpuWaitedPercent: number;
}

async function jobStretch(
  serial: SerialLine,
  machinePid: number,
  options: { seconds: number; speed: CoreSpeed },
): Promise<JobStretch> {
  const { seconds, speed } = options;
  const vcpu = busiestThread(machinePid);
  const startMs = performance.now();
  const before = threadUse(machinePid, vcpu);
  const leave = speed.follow(machinePid, vcpu);
  const ends = await roundEndsMs(serial, seconds);
  leave();
  const after = threadUse(machinePid, vcpu);
  const elapsedNs = (performance.now() - startMs) * 1e6;
  // What the witnesses say of the last rounds is still on its way.
  await sleep(SETTLE_MS);
  const rounds = ends.slice(1).flatMap((endMs, index): Go[] => {
    const fromMs = ends[index] ?? Number.NaN;
    const slowness = speed.slowness(fromMs, endMs);
    return slowness === null ? [] : [{ took: endMs - fromMs, slowness }];
  });
  return {
    rounds,
    roundMs: percentile(
      rounds.map(({ took }) => took),
      0.5,
    ),
    vcpuRanPercent: (100 * (after.ranNs - before.ranNs)) / elapsedNs,
    vcpuWaitedPercent: (100 * (after.waitedNs - before.waitedNs)) / elapsedNs,
  };
}

/** When rounds of the job ended, over the lines that fell into a stretch; by `performance.now()`. */
async function roundEndsMs(serial: SerialLine, seconds: number): Promise<number[]> {
  const first = serial.lines.length;
  const offsetMs = Number(process.hrtime.bigint()) / 1e6 - performance.now();
  await sleep(seconds * 1000);
  return serial.lines
    .slice(first)
    .filter(({ text }) => text.startsWith('w '))
    .map(({ atNs }) => Number(atNs) / 1e6 - offsetMs);
}

/** Stretches without protection, and at each pace, in turn. */
async function measureJob(options: {
  seconds: number;
  turns: number;
  nodesWarmMs: number;
}): Promise<Row[]> {
  const { seconds, turns, nodesWarmMs } = options;
  const pair = await QemuPair.start({ memoryMib: MEMORY_MIB, run: ['work'] });
  const speed = CoreSpeed.start();
  const free: JobStretch[] = [];
  const held = new Map<number, JobStretch[]>(JOB_PACES.map((pace) => [pace, []]));
  const stretch = async (): Promise<JobStretch> => {
    await sleep(SETTLE_MS);
    return await jobStretch(pair.machine.serial, pair.machine.pid, { seconds, speed });
  };
  try {
    await sleep(WARM_MS);
    free.push(await stretch());
    for (let turn = 0; turn < turns; turn += 1) {
      await pair.protect(1000 / (JOB_PACES[0] ?? 1));
      await sleep(nodesWarmMs);
      for (const [epochsPerSecond, stretches] of held) {
        await pair.setInterval(1000 / epochsPerSecond);
        stretches.push(await stretch());
      }
      await pair.unprotect();
      free.push(await stretch());
    }
    return [...held].map(([epochsPerSecond, stretches]) =>
      jobRow(epochsPerSecond, { held: stretches, free, quickest: speed.quickest }),
    );
  } finally {
    speed.close();
    await pair.close();
  }
}

/** `free[n]` came before the n-th of the stretches, and `free[n + 1]` after it. */
function jobRow(
  epochsPerSecond: number,
  options: {
    held: readonly JobStretch[];
    free: readonly JobStretch[];
    /** How slow a core is that has all its units to itself. */
    quickest: number;
  },
): Row {
  const { held, free, quickest } = options;
  const roundMs = (stretch: JobStretch | undefined): number => stretch?.roundMs ?? Number.NaN;
  const byTurn = held.map(
    (stretch, turn) => (2 * stretch.roundMs) / (roundMs(free[turn]) + roundMs(free[turn + 1])),
  );
  const roundsOf = (stretches: readonly JobStretch[]): Go[] =>
    stretches.flatMap(({ rounds }) => rounds);
  const median = (values: readonly number[]): number => rounded(percentile(values, 0.5));
  const slowness = (stretches: readonly JobStretch[]): number =>
    median(roundsOf(stretches).map((round) => round.slowness / quickest));
  return {
    what: 'job',
    epochsPerSecond,
    turns: held.length,
    rounds: roundsOf(held).length,
    roundsUnprotected: roundsOf(free).length,
    slowdown: rounded(matchedRatio(roundsOf(held), roundsOf(free))),
    coreSlowness: slowness(held),
    coreSlownessUnprotected: slowness(free),
    protectedMs: median(held.map((stretch) => stretch.roundMs)),
    unprotectedMs: median(free.map((stretch) => stretch.roundMs)),
    slowdownByTurn: median(byTurn),
    slowdownByTurnLowest: rounded(Math.min(...byTurn)),
    slowdownByTurnHighest: rounded(Math.max(...byTurn)),
    vcpuRanPercent: median(held.map((stretch) => stretch.vcpuRanPercent)),
    vcpuWaitedPercent: median(held.map((stretch) => stretch.vcpuWaitedPercent)),
    vcpuWaitedPercentUnprotected: median(free.map((stretch) => stretch.vcpuWaitedPercent)),
  };
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
    heartbeatGapMsMax: rounded(stretch.heartbeatGapMsMax),
    heartbeatsLate: stretch.heartbeatsLate,
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
        what: `heartbeats missed meanwhile, ${row['what']}`,
        measured: numberOf(row, 'heartbeatsLate'),
        relation: 'at most',
        bound: 0,
        unit: '',
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
  const { jobSeconds = 8, jobTurns = 6, paceSeconds = 300, nodesWarmMs = NODES_WARM_MS } = options;
  const rows = [
    ...(await measureJob({ seconds: jobSeconds, turns: jobTurns, nodesWarmMs })),
    await measurePace('1,000 pages an epoch', {
      run: ['dirty'],
      kernelArgs: ['romulus.dirty=1000/25ms/8'],
      epochsPerSecond: 40,
      seconds: paceSeconds,
    }),
    await measurePace('a busy shell', {
      run: ['shell'],
      epochsPerSecond: 20,
      seconds: paceSeconds,
    }),
  ];
  return {
    name: 'qemu-run',
    rows,
    claims: claimsOf(rows),
    notes: [
      'guest, primary and backup on the same two processors; times of the job by a clock outside; in each turn the machine is protected, then not; slowdown: every protected round is compared with the 25 unprotected ones during which its core was about as fast, because on a shared host a core is slow for seconds, up to twice, whatever runs on it; how fast it is says a witness, a fixed piece of work in registers on each core every 4 ms, in all stretches alike; coreSlowness: its median, to the quickest; slowdownByTurn: the same rounds without the witness, each protected stretch by the mean of the unprotected ones before and after it; vcpuWaitedPercent: the guest could have run, and another thread of this host did',
      'heartbeatGapMsMax: the longest time between two heartbeats, sent every 10 ms, as either node heard the other; missed (heartbeatsLate, of both) is one that came 74 ms or more after the last, which makes suspect who is not known for standing still; what the hearing node itself stood still meanwhile is in the gap and makes none late',
      'Remus reported 1.52 and 2.03 for a kernel compile at 20 and 40 checkpoints a second',
    ],
  };
}
