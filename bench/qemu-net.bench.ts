/**
 * What protection costs the network of a real QEMU, as a client on a host of its own sees it: an idle
 * ping, redis-benchmark's SETs and one long download, each unprotected, behind QEMU's filter alone, and
 * protected, with epochs that end when output waits and with epochs of a fixed length. Then the same of
 * a machine whose redis keeps its file on a disk, and there also under QEMU's mirror alone, and under its mirror
 * and filter.
 *
 * Hosts, switch and client are namespaces of this machine, made by root.
 */
import { rmSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { DISK_ID } from '../src/drill/qemu/drill-disk.ts';
import { NetClients, type PingTimes } from './lib/net-clients.ts';
import {
  withMonitor,
  withNbdServer,
  withPassingFilter,
  withPlainMirror,
} from './lib/qemu-baselines.ts';
import { QemuPair, type QemuStretch } from './lib/qemu-pair.ts';
import {
  type BenchResult,
  type Claim,
  numberOf,
  percentile,
  type Row,
  rounded,
} from './lib/result.ts';

const MEMORY_MIB = 256;
const NETDEV = 'n0';
/** As in `qemu-soak`: long enough that ending an epoch early matters. */
const INTERVAL_MS = 50;
const PING_ADDED_MS_MAX = 8;
const SETTLE_MS = 1000;
const UNPROTECTED = 'unprotected';
const FILTERED = 'filter alone, passing';
const MIRRORED = 'mirror alone';
const MIRRORED_AND_FILTERED = 'mirror and filter alone';
const OUTPUT_DRIVEN = 'protected, output ends epochs';
const FIXED = 'protected, epochs of 50 ms';

/** Words for the nodes, by what is measured. */
const PROTECTIONS: readonly (readonly [string, readonly string[]])[] = [
  [OUTPUT_DRIVEN, []],
  [FIXED, ['--min-interval', 'off']],
];

export interface QemuNetOptions {
  /** Of each figure, in each circumstance. */
  readonly seconds?: number;
  readonly rounds?: number;
  /** Between the beginning of protection and the first measurement. */
  readonly nodesWarmMs?: number;
}

/** One look at one circumstance. */
interface Sample {
  readonly ping: PingTimes;
  readonly setsPerSecond: number;
  readonly bulkMbPerSecond: number;
}

/** What the primary said of itself during the same. */
interface Held {
  readonly ping: QemuStretch;
  readonly redis: QemuStretch;
  readonly bulk: QemuStretch;
}

class Bench {
  readonly samples = new Map<string, Sample[]>();
  readonly held = new Map<string, Held[]>();
  readonly #pair: QemuPair;
  readonly #clients: NetClients;
  readonly #seconds: number;

  constructor(pair: QemuPair, seconds: number) {
    this.#pair = pair;
    this.#clients = new NetClients(pair.clientLauncher, pair.machine);
    this.#seconds = seconds;
  }

  /** QEMU's own means with nothing of ours behind them. */
  async takeQemuAlone(): Promise<void> {
    const { machine, stage, disks } = this.#pair;
    await withMonitor(machine.qmpPath, async (monitor) => {
      const filtered = (what: string): Promise<void> =>
        withPassingFilter(monitor, { netdev: NETDEV, stage }, () => this.takeFree(what));
      await filtered(FILTERED);
      if (disks === null) return;
      const [path, replica] = disks;
      const target = { path: replica, bytes: statSync(path).size };
      await withNbdServer(stage, target, (socketPath) =>
        withPlainMirror(monitor, { device: DISK_ID, socketPath }, async () => {
          await this.takeFree(MIRRORED);
          await filtered(MIRRORED_AND_FILTERED);
        }),
      );
    });
  }

  async takeFree(what: string): Promise<void> {
    await sleep(SETTLE_MS);
    this.#note(what, {
      ping: await this.#clients.ping(this.#seconds),
      setsPerSecond: await this.#clients.redisSetsPerSecond(this.#seconds),
      bulkMbPerSecond: await this.#clients.bulkMbPerSecond(this.#seconds),
    });
  }

  async takeProtected(what: string): Promise<void> {
    const seconds = this.#seconds;
    const ping = await this.#pair.measureDuring(() => this.#clients.ping(seconds));
    const redis = await this.#pair.measureDuring(() => this.#clients.redisSetsPerSecond(seconds));
    const bulk = await this.#pair.measureDuring(() => this.#clients.bulkMbPerSecond(seconds));
    this.#note(what, {
      ping: ping.outcome,
      setsPerSecond: redis.outcome,
      bulkMbPerSecond: bulk.outcome,
    });
    const held = { ping: ping.stretch, redis: redis.stretch, bulk: bulk.stretch };
    this.held.set(what, [...(this.held.get(what) ?? []), held]);
  }

  /** The median of a figure over all looks at a circumstance. */
  medianOf(what: string, figure: (sample: Sample) => number): number {
    return percentile((this.samples.get(what) ?? []).map(figure), 0.5);
  }

  #note(what: string, sample: Sample): void {
    this.samples.set(what, [...(this.samples.get(what) ?? []), sample]);
  }
}

/** What the primary says of how it held the output; nothing where nobody did. */
function heldRow(all: readonly Held[]): Row {
  if (all.length === 0) return {};
  const stretches = all.flatMap(({ ping, redis, bulk }) => [ping, redis, bulk]);
  const median = (figure: (held: Held) => number): number =>
    rounded(percentile(all.map(figure), 0.5));
  const perSecond = ({ epochs, seconds }: QemuStretch): number => epochs / seconds;
  return {
    heldFramesMax: Math.max(...stretches.map(({ heldFramesMax }) => heldFramesMax)),
    droppedFrames: Math.max(...stretches.map(({ status }) => status.outputDroppedFrames)),
    lapses: stretches.reduce((sum, { unprotected }) => sum + unprotected, 0),
    atPingOutputDelayP50Ms: median(({ ping }) => ping.status.outputDelayMs.p50),
    atPingPauseP50Ms: median(({ ping }) => ping.status.pauseMs.p50),
    atPingCommitP50Ms: median(({ ping }) => ping.status.commitMs.p50),
    atPingEpochsPerSecond: median(({ ping }) => perSecond(ping)),
    atPingEarlyPerSecond: median(({ ping }) => ping.earlyCheckpoints / ping.seconds),
    atRedisEpochsPerSecond: median(({ redis }) => perSecond(redis)),
    atBulkEpochsPerSecond: median(({ bulk }) => perSecond(bulk)),
  };
}

/** `name` tells the circumstances of one machine from those of another. */
function rowsOf(bench: Bench, name: (what: string) => string): Row[] {
  const free = (figure: (sample: Sample) => number): number => bench.medianOf(UNPROTECTED, figure);
  return [...bench.samples].map(([what, samples]) => {
    const own = (figure: (sample: Sample) => number): number => bench.medianOf(what, figure);
    const pingMs = own(({ ping }) => ping.p50Ms);
    const sets = own(({ setsPerSecond }) => setsPerSecond);
    const bulk = own(({ bulkMbPerSecond }) => bulkMbPerSecond);
    const row = {
      what: name(what),
      pingP50Ms: rounded(pingMs),
      pingP99Ms: rounded(own(({ ping }) => ping.p99Ms)),
      pingAddedMs: rounded(pingMs - free(({ ping }) => ping.p50Ms)),
      pingsLost: samples.reduce((sum, { ping }) => sum + ping.lost, 0),
      pingsTwice: samples.reduce((sum, { ping }) => sum + ping.twice, 0),
      setsPerSecond: rounded(sets),
      setsToUnprotected: rounded(sets / free(({ setsPerSecond }) => setsPerSecond)),
      bulkMbPerSecond: rounded(bulk),
      bulkToUnprotected: rounded(bulk / free(({ bulkMbPerSecond }) => bulkMbPerSecond)),
    };
    return Object.assign(row, heldRow(bench.held.get(what) ?? []));
  });
}

function claimsOf(rows: readonly Row[], name: (what: string) => string): Claim[] {
  const what = name(OUTPUT_DRIVEN);
  const row = rows.find((one) => one['what'] === what);
  return [
    {
      what: `QEMU's network, ${what}: what is added to an idle ping`,
      measured: numberOf(row, 'pingAddedMs'),
      relation: 'at most',
      bound: PING_ADDED_MS_MAX,
      unit: 'ms',
    },
    {
      what: `QEMU's network, ${what}: protection lost meanwhile`,
      measured: numberOf(row, 'lapses'),
      relation: 'at most',
      bound: 0,
      unit: 'times',
    },
  ];
}

/** Each circumstance in turn, on one machine. */
async function measureMachine(disk: boolean, options: Required<QemuNetOptions>): Promise<Bench> {
  const { seconds, rounds, nodesWarmMs } = options;
  const pair = await QemuPair.start({
    memoryMib: MEMORY_MIB,
    run: ['counter'],
    kernelArgs: ['romulus.counter=1'],
    parts: { disk, net: true },
  });
  const bench = new Bench(pair, seconds);
  try {
    // It would write beside redis.
    if (disk) await pair.machine.command('end disk');
    for (let round = 0; round < rounds; round += 1) {
      await bench.takeFree(UNPROTECTED);
      await bench.takeQemuAlone();
      for (const [what, words] of PROTECTIONS) {
        await pair.protect(INTERVAL_MS, { words });
        await sleep(nodesWarmMs);
        await bench.takeProtected(what);
        await pair.unprotect();
        if (pair.disks !== null) rmSync(pair.disks[1], { force: true });
      }
    }
  } finally {
    await pair.close();
  }
  return bench;
}

/** A machine without a disk, then one with. */
export async function run(options: QemuNetOptions = {}): Promise<BenchResult> {
  const { seconds = 6, rounds = 3, nodesWarmMs = 8000 } = options;
  const rows: Row[] = [];
  const claims: Claim[] = [];
  for (const disk of [false, true]) {
    const name = (what: string): string => (disk ? `disk: ${what}` : what);
    const bench = await measureMachine(disk, { seconds, rounds, nodesWarmMs });
    const machineRows = rowsOf(bench, name);
    rows.push(...machineRows);
    claims.push(...claimsOf(machineRows, name));
  }
  return {
    name: 'qemu-net',
    rows,
    claims,
    notes: [
      'a client on a host of its own (namespaces), a virtio card on a tap, redis with appendfsync always, 50 connections; the download is one TCP connection of zeros',
      'redis keeps its file in the memory of the guest; rows that begin with disk: another machine, whose redis keeps it in an ext4 on a raw disk (cache=unsafe: its syncs reach the page cache of the host), which is replicated',
      'filter alone, passing: a filter-redirector whose frames go back at once through a process that does nothing else; mirror alone: blockdev-mirror, write-blocking, to qemu-nbd: the share of QEMU; what protected has beyond it is ours',
      'ratios are to unprotected on the same machine, by medians of the rounds; every download is bound by what may be held in one epoch: TCP sends no more than its window before an answer',
      'heldFramesMax: most frames that a progress line of the primary told of, five a second',
    ],
  };
}
