/**
 * Whether protection of a QEMU with disk and network holds for long: a guest that writes to its disk
 * and checks it, dirties memory and serves redis to a client, at 20 epochs a second, its image compared
 * every minute; what both engines use must not grow.
 *
 * Half an hour by default (`--seconds`), so it only runs when asked for by name.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { GUEST_ADDRESS } from '../src/drill/hosts/two-hosts.ts';
import { isRoot } from '../src/drill/qemu/debian.ts';
import { digestOf } from '../src/drill/qemu/drill-disk.ts';
import { type NodeUse, QemuPair } from './lib/qemu-pair.ts';
import { processUse } from './lib/process-use.ts';
import { type BenchResult, type Claim, numberOf, type Row, rounded } from './lib/result.ts';
import { slopePerMinute } from './lib/slope.ts';

const MEMORY_MIB = 256;
const EPOCHS_PER_SECOND = 20;
const PACE_SHARE_MIN = 0.99;
/** How soon a death is found is measured elsewhere; a busy host must not end half an hour's run. */
const PATIENT = ['--heartbeat', '150ms', '--promise', '1500ms'];
const SAMPLE_MS = 5000;
const SCRUB_MS = 60_000;
/** For so long the nodes' code and heaps still settle: a fifth of the run, at most. */
const WARM_MS_MAX = 120_000;
const WARM_SHARE = 0.2;
/** Over half an hour a leak is far above. */
const MEMORY_MIB_PER_MINUTE_MAX = 1;
const DESCRIPTORS_PER_MINUTE_MAX = 0.1;
const REPLICA_WAIT_MS = 10_000;
const REDIS_CLIENTS = 2;
/** More than any run waits for. */
const REDIS_REQUESTS = 1_000_000_000;

export interface QemuSoakOptions {
  readonly seconds: number;
}

interface Sample {
  readonly atMs: number;
  readonly uses: readonly [NodeUse, NodeUse];
  /** Memory of QEMU's process: it grows as the guest fills its own. */
  readonly machineMib: number;
}

/** What was found in one run. */
interface Found {
  readonly samples: Sample[];
  scrubs: number;
  divergences: number;
}

function startRedisLoad(pair: QemuPair): void {
  pair.stage.start({
    name: 'redis-benchmark',
    launcher: pair.clientLauncher,
    command: 'redis-benchmark',
    args: `-h ${GUEST_ADDRESS} -t set -c ${REDIS_CLIENTS} -n ${REDIS_REQUESTS} -q`.split(' '),
    output: 'log',
  });
}

/** Looks at both nodes every few seconds and compares the images every minute. */
async function watch(pair: QemuPair, durationMs: number): Promise<Found> {
  const found: Found = { samples: [], scrubs: 0, divergences: 0 };
  const startMs = performance.now();
  let scrubAtMs = startMs + Math.min(SCRUB_MS, durationMs / 2);
  while (performance.now() - startMs < durationMs) {
    await sleep(SAMPLE_MS);
    found.samples.push({
      atMs: performance.now() - startMs,
      uses: pair.uses(),
      machineMib: processUse(pair.machine.pid).residentMib,
    });
    if (performance.now() < scrubAtMs) continue;
    scrubAtMs += SCRUB_MS;
    const { match } = await pair.scrub();
    found.scrubs += 1;
    if (!match) found.divergences += 1;
  }
  return found;
}

/** Has the guest write its last; true when it found its disk as it should be and the replica is alike. */
async function disksAgree(pair: QemuPair, hasRedis: boolean): Promise<boolean> {
  const { machine, disks } = pair;
  const [blocks = ''] = await machine.command('check disk');
  await machine.command('end disk');
  if (hasRedis) await machine.command('end redis-server');
  await machine.command('unmount');
  const [source, replica] = disks ?? ['', ''];
  const wanted = await digestOf(source);
  const deadlineMs = performance.now() + REPLICA_WAIT_MS;
  while ((await digestOf(replica)) !== wanted) {
    if (performance.now() > deadlineMs) return false;
    await sleep(SAMPLE_MS / 10);
  }
  return blocks.startsWith('ok ');
}

function useRow(
  what: string,
  all: readonly Sample[],
  settled: readonly Sample[],
  node: 0 | 1,
): Row {
  const slope = (figure: (use: NodeUse, sample: Sample) => number): number =>
    slopePerMinute(
      settled.map((sample) => ({ atMs: sample.atMs, value: figure(sample.uses[node], sample) })),
    );
  // The primary keeps a copy of every page that the guest has ever filled; the backup's is the machine itself.
  const grown = node === 0 ? (sample: Sample): number => sample.machineMib : (): number => 0;
  const last = all.at(-1)?.uses[node];
  const first = all[0]?.uses[node];
  const seconds = ((all.at(-1)?.atMs ?? 0) - (all[0]?.atMs ?? 0)) / 1000;
  return {
    what,
    ownMibFirst: first?.ownMib ?? Number.NaN,
    ownMibLast: last?.ownMib ?? Number.NaN,
    ownMibPerMinute: rounded(slope(({ ownMib }) => ownMib)),
    machineMibPerMinute: rounded(slope((_, sample) => grown(sample))),
    beyondMachineMibPerMinute: rounded(slope(({ ownMib }, sample) => ownMib - grown(sample))),
    descriptorsFirst: first?.descriptors ?? Number.NaN,
    descriptorsLast: last?.descriptors ?? Number.NaN,
    descriptorsPerMinute: rounded(slope(({ descriptors }) => descriptors)),
    cpuPercent: rounded(((last?.cpuMs ?? 0) - (first?.cpuMs ?? 0)) / seconds / 10),
  };
}

function claimsOf([epochs, ...engines]: readonly Row[]): Claim[] {
  const most = (
    what: string,
    row: Row | undefined,
    key: string,
    bound: number,
    unit = '',
  ): Claim => ({
    what: `QEMU for long: ${what}`,
    measured: numberOf(row, key),
    relation: 'at most',
    bound,
    unit,
  });
  return [
    {
      what: 'QEMU for long: pace',
      measured: numberOf(epochs, 'made'),
      relation: 'at least',
      bound: PACE_SHARE_MIN * EPOCHS_PER_SECOND,
      unit: 'epochs/s',
    },
    most('images that differed', epochs, 'divergences', 0),
    most('protection lost', epochs, 'lapses', 0, 'times'),
    most('disks that differed at the end', epochs, 'disksDiffer', 0),
    ...engines.flatMap((row) => [
      most(
        `memory, ${row['what']}, beyond the growth of the machine's own`,
        row,
        'beyondMachineMibPerMinute',
        MEMORY_MIB_PER_MINUTE_MAX,
        'MiB/min',
      ),
      most(
        `descriptors, ${row['what']}`,
        row,
        'descriptorsPerMinute',
        DESCRIPTORS_PER_MINUTE_MAX,
        'a minute',
      ),
    ]),
  ];
}

/** One machine, one protection, for so long. */
export async function run({ seconds }: QemuSoakOptions): Promise<BenchResult> {
  const net = isRoot();
  const pair = await QemuPair.start({
    memoryMib: MEMORY_MIB,
    run: ['dirty'],
    kernelArgs: ['romulus.dirty=500/25ms/8'],
    parts: { disk: true, net },
  });
  let rows: Row[];
  try {
    await pair.protect(1000 / EPOCHS_PER_SECOND, {
      words: ['--min-interval', 'off', ...PATIENT],
      preload: new URL('lib/collect-garbage.mjs', import.meta.url),
    });
    if (net) startRedisLoad(pair);
    const { stretch, outcome } = await pair.measureDuring(() => watch(pair, seconds * 1000));
    const { samples, scrubs, divergences } = outcome;
    const warmMs = Math.min(WARM_MS_MAX, WARM_SHARE * seconds * 1000);
    const settled = samples.filter(({ atMs }) => atMs >= warmMs);
    const { status } = stretch;
    rows = [
      {
        what: 'epochs',
        seconds: Math.round(stretch.seconds),
        made: rounded(stretch.epochs / stretch.seconds),
        scrubs,
        divergences,
        lapses: stretch.unprotected,
        disksDiffer: (await disksAgree(pair, net)) ? 0 : 1,
        pauseP50Ms: rounded(status.pauseMs.p50),
        pauseP99Ms: rounded(status.pauseMs.p99),
        commitP50Ms: rounded(status.commitMs.p50),
        commitP99Ms: rounded(status.commitMs.p99),
        dirtyPagesP50: Math.round(status.dirtyPages.p50),
        heldFramesMax: stretch.heldFramesMax,
        sentMbPerSecond: rounded(stretch.bytesSent / stretch.seconds / 1e6),
      },
      useRow('primary', samples, settled, 0),
      useRow('backup', samples, settled, 1),
    ];
  } finally {
    await pair.close();
  }
  return {
    name: 'qemu-soak',
    rows,
    claims: claimsOf(rows),
    notes: [
      `the guest writes 100 blocks a second to its disk and checks them, dirties 500 pages every 25 ms${net ? ', and redis (appendfsync always, on the disk) is given SETs by two clients' : '; no network, which needs root'}`,
      'all garbage of both nodes is collected every 30 seconds: V8 alone lets that of a quiet thread grow for half an hour before it looks',
      'ownMib: anonymous memory of an engine, by a line through a sample every five seconds, after the first fifth (two minutes at most); the image of the backup is shared memory and is not in it; the primary keeps a copy of every page that the guest has filled so far, so what the process of the machine grew by meanwhile is taken off',
      'heartbeats every 150 ms: guest, nodes and client share the processors, and no false verdict is to end the run',
      'the images are compared every minute, both disks bit by bit at the end, and the blocks by the guest itself',
    ],
  };
}
