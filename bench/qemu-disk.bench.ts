/**
 * What protection costs the disk of a real QEMU: the first copy of a random disk beside `qemu-img
 * convert` of the same file to qemu-nbd; 4 KiB writes of the guest, one at a time, unprotected, under
 * QEMU's own mirror alone, and protected; and commits by how often the replica is synced.
 *
 * Copies and writes are on tmpfs, so that no disk is measured; what the policies do needs a real one.
 */
import { execFileSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MIB } from '../src/base/units.ts';
import { VIRTIO_MODULES } from '../src/drill/qemu/guest-image.ts';
import { CoreSpeed } from './lib/core-speed.ts';
import { measureWrites, type WriteTimes } from './lib/guest-writes.ts';
import { type Go, matchedRatio } from './lib/matched.ts';
import { withMonitor, withNbdServer, withPlainMirror } from './lib/qemu-baselines.ts';
import { QemuPair } from './lib/qemu-pair.ts';
import {
  type BenchResult,
  type Claim,
  numberOf,
  percentile,
  type Row,
  rounded,
} from './lib/result.ts';

const MEMORY_MIB = 256;
const DISK_ID = 'd0';
const WRITES_MIB = 16;
const SYNC_RATIO_MIN = 0.6;
const WRITE_RATIO_MAX = 2.2;
const INTERVALS_MS = [25, 50] as const;
const DEFAULT_INTERVAL_MS = 25;
const POLICIES = ['commit', '8', 'off'] as const;
const SETTLE_MS = 1000;
const UNPROTECTED = 'unprotected';

export interface QemuDiskOptions {
  readonly syncMib?: number;
  readonly syncRounds?: number;
  readonly writeSeconds?: number;
  readonly writeRounds?: number;
  readonly policySeconds?: number;
  /** Between the beginning of protection and the first measurement. */
  readonly nodesWarmMs?: number;
}

/** A folder of memory where there is one; it goes with the process. */
function memoryFolder(): string {
  const folder = mkdtempSync(
    join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'romulus-bench-'),
  );
  process.once('exit', () => {
    rmSync(folder, { recursive: true, force: true });
  });
  return folder;
}

function writeRandom(path: string, mib: number): void {
  const file = openSync(path, 'wx', 0o640);
  const piece = Buffer.alloc(MIB);
  for (let count = 0; count < mib; count += 1) writeSync(file, randomFillSync(piece));
  closeSync(file);
}

function driveArgs(path: string, format: string): string[] {
  const drive = `if=none,id=${DISK_ID},file=${path},format=${format},discard=unmap`;
  return ['-drive', drive, '-device', `virtio-blk-pci,drive=${DISK_ID}`];
}

/** Milliseconds of one `qemu-img convert` of the disk to an NBD server. */
async function convertMs(
  pair: QemuPair,
  source: { readonly path: string; readonly format: string },
  target: { readonly path: string; readonly bytes: number },
): Promise<number> {
  return await withNbdServer(pair.stage, target, async (socketPath) => {
    const startMs = performance.now();
    const child = pair.stage.start({
      name: 'qemu-img',
      command: 'qemu-img',
      // The machine that stands by holds the file's lock.
      args: ['convert', '-U', '-n', '-f', source.format, '-O', 'raw', source.path].concat(
        `nbd:unix:${socketPath}`,
      ),
      output: 'log',
    });
    const end = await child.gone;
    if (end !== 'exit code 0') throw new Error(`qemu-img convert: ${end}`);
    return performance.now() - startMs;
  });
}

/** The first copy of a disk of one format, in turn with its baseline. */
async function measureSync(
  folder: string,
  options: { readonly format: 'raw' | 'qcow2'; readonly mib: number; readonly rounds: number },
): Promise<Row> {
  const { format, mib, rounds } = options;
  const path = join(folder, `source.${format}`);
  const raw = join(folder, 'source.raw');
  if (format !== 'raw') execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', format, raw, path]);
  const pair = await QemuPair.start({ memoryMib: MEMORY_MIB, extraArgs: driveArgs(path, format) });
  const target = { path: join(folder, 'target.raw'), bytes: mib * MIB };
  const syncMs = async (words: readonly string[]): Promise<number> => {
    await pair.protect(DEFAULT_INTERVAL_MS, {
      words,
      drives: { [DISK_ID]: { path: target.path, format: 'raw' } },
    });
    const { syncMs: taken } = pair;
    await pair.unprotect();
    rmSync(target.path, { force: true });
    return taken;
  };
  const times = { convert: [] as number[], withDisk: [] as number[], without: [] as number[] };
  try {
    for (let round = 0; round < rounds; round += 1) {
      times.convert.push(await convertMs(pair, { path, format }, target));
      times.withDisk.push(await syncMs(['--disk', 'replicate']));
      // Where nothing is replicated the backup's QEMU still wants a file, and believes its format.
      writeFileSync(target.path, '');
      truncateSync(target.path, target.bytes);
      times.without.push(await syncMs(['--disk', 'none']));
    }
  } finally {
    await pair.close();
  }
  const median = (samples: readonly number[]): number => percentile(samples, 0.5);
  const diskMs = times.withDisk.map((ms, turn) => ms - (times.without[turn] ?? Number.NaN));
  // Of each turn, since the host's clock may change from one to the next.
  const toConvert = (samples: readonly number[]): number =>
    rounded(median(samples.map((ms, turn) => (times.convert[turn] ?? Number.NaN) / ms)));
  const mbPerSecond = (ms: number): number => rounded((mib * MIB) / 1e3 / ms);
  return {
    what: `first copy, ${format}`,
    diskMib: mib,
    turns: rounds,
    convertMs: rounded(median(times.convert)),
    syncMs: rounded(median(times.withDisk)),
    syncWithoutDiskMs: rounded(median(times.without)),
    convertMbPerSecond: mbPerSecond(median(times.convert)),
    diskMbPerSecond: mbPerSecond(median(diskMs)),
    ratio: toConvert(diskMs),
    ratioWithMemory: toConvert(times.withDisk),
  };
}

async function startWriter(path: string): Promise<QemuPair> {
  return await QemuPair.start({
    memoryMib: MEMORY_MIB,
    run: ['writes'],
    kernelArgs: [`romulus.modules=${VIRTIO_MODULES.join()}`, `romulus.writes=${WRITES_MIB}`],
    extraArgs: driveArgs(path, 'raw'),
  });
}

/** Writes of the guest, one at a time, in every circumstance in turn. */
async function measureWriting(
  folder: string,
  options: { readonly seconds: number; readonly rounds: number; readonly nodesWarmMs: number },
): Promise<Row[]> {
  const { seconds, rounds, nodesWarmMs } = options;
  const path = join(folder, 'writes.raw');
  const target = { path: join(folder, 'target.raw'), bytes: WRITES_MIB * MIB };
  writeRandom(path, WRITES_MIB);
  const pair = await startWriter(path);
  const speed = CoreSpeed.start();
  const { serial } = pair.machine;
  const turns: Map<string, WriteTimes[]>[] = [];
  const take = async (what: string): Promise<void> => {
    await sleep(SETTLE_MS);
    const turn = turns.at(-1);
    turn?.set(what, [...(turn.get(what) ?? []), await measureWrites(serial, { seconds, speed })]);
  };
  try {
    for (let round = 0; round < rounds; round += 1) {
      turns.push(new Map());
      await take(UNPROTECTED);
      await withNbdServer(pair.stage, target, (socketPath) =>
        withMonitor(pair.machine.qmpPath, (monitor) =>
          withPlainMirror(monitor, { device: DISK_ID, socketPath }, () => take('mirror alone')),
        ),
      );
      await take(UNPROTECTED);
      await pair.protect(DEFAULT_INTERVAL_MS, { drives: { [DISK_ID]: target.path } });
      await sleep(nodesWarmMs);
      for (const intervalMs of INTERVALS_MS) {
        await pair.setInterval(intervalMs);
        await take(`protected, ${intervalMs} ms`);
      }
      await pair.unprotect();
      rmSync(target.path, { force: true });
    }
  } finally {
    speed.close();
    await pair.close();
  }
  return [...(turns[0]?.keys() ?? [])].map((what) => writingRow(turns, what));
}

/**
 * Medians over the turns; ratios are each turn's own, since the host's clock may change in between, but for
 * `toUnprotected`: of every quarter of a second, to those unprotected in which the cores were as fast.
 */
function writingRow(turns: readonly ReadonlyMap<string, WriteTimes[]>[], what: string): Row {
  const mean = (
    turn: ReadonlyMap<string, WriteTimes[]>,
    of: string,
    key: Exclude<keyof WriteTimes, 'spells'>,
  ): number => {
    const samples = turn.get(of) ?? [];
    return samples.reduce((sum, times) => sum + times[key], 0) / samples.length;
  };
  const median = (valueOf: (turn: ReadonlyMap<string, WriteTimes[]>) => number): number =>
    rounded(percentile(turns.map(valueOf), 0.5));
  const spells = (of: string): Go[] =>
    turns.flatMap((turn) => (turn.get(of) ?? []).flatMap((times) => times.spells));
  const byTurn = turns.map(
    (turn) => mean(turn, what, 'meanUs') / mean(turn, UNPROTECTED, 'meanUs'),
  );
  return {
    what: `4 KiB writes, ${what}`,
    meanUs: median((turn) => mean(turn, what, 'meanUs')),
    guestP50Us: median((turn) => mean(turn, what, 'guestP50Us')),
    guestP99Us: median((turn) => mean(turn, what, 'guestP99Us')),
    toUnprotected: rounded(matchedRatio(spells(what), spells(UNPROTECTED))),
    toUnprotectedByTurn: rounded(percentile(byTurn, 0.5)),
    toUnprotectedByTurnMin: rounded(Math.min(...byTurn)),
    toUnprotectedByTurnMax: rounded(Math.max(...byTurn)),
    guestP50ToUnprotected: median(
      (turn) => mean(turn, what, 'guestP50Us') / mean(turn, UNPROTECTED, 'guestP50Us'),
    ),
  };
}

/** Commits under the same writes, by how often the replica is synced. On a real disk. */
async function measurePolicies(seconds: number): Promise<Row[]> {
  const rows: Row[] = [];
  for (const policy of POLICIES) {
    const folder = mkdtempSync(join(tmpdir(), 'romulus-bench-'));
    const path = join(folder, 'writes.raw');
    writeRandom(path, WRITES_MIB);
    const pair = await startWriter(path);
    try {
      await pair.protect(DEFAULT_INTERVAL_MS, {
        words: ['--disk-sync', policy],
        drives: { [DISK_ID]: join(folder, 'replica.raw') },
      });
      await sleep(SETTLE_MS);
      const { status, epochs, seconds: lasted } = await pair.measure(seconds * 1000);
      rows.push({
        what: `commits, --disk-sync ${policy}`,
        commitP50Ms: rounded(status.commitMs.p50),
        commitP99Ms: rounded(status.commitMs.p99),
        commitMaxMs: rounded(status.commitMs.max),
        pauseP50Ms: rounded(status.pauseMs.p50),
        made: rounded(epochs / lasted),
      });
    } finally {
      await pair.close();
      rmSync(folder, { recursive: true, force: true });
    }
  }
  return rows;
}

function claimsOf(rows: readonly Row[]): Claim[] {
  return rows.flatMap((row): Claim[] => {
    const what = String(row['what']);
    if (what.startsWith('first copy'))
      return [
        {
          what: `QEMU's disk, ${what}: speed to qemu-img convert`,
          measured: numberOf(row, 'ratio'),
          relation: 'at least',
          bound: SYNC_RATIO_MIN,
          unit: '',
        },
      ];
    if (!what.includes('writes, protected')) return [];
    return [
      {
        what: `QEMU's disk, ${what}: time to unprotected, pauses included`,
        measured: numberOf(row, 'toUnprotected'),
        relation: 'at most',
        bound: WRITE_RATIO_MAX,
        unit: '',
      },
    ];
  });
}

/** The first copies, the guest's writes, the policies. */
export async function run(options: QemuDiskOptions = {}): Promise<BenchResult> {
  const {
    syncMib = 512,
    syncRounds = 5,
    writeSeconds = 5,
    writeRounds = 5,
    policySeconds = 10,
    nodesWarmMs = 10_000,
  } = options;
  const folder = memoryFolder();
  writeRandom(join(folder, 'source.raw'), syncMib);
  const copy = { mib: syncMib, rounds: syncRounds };
  const rows = [
    await measureSync(folder, { format: 'raw', ...copy }),
    await measureSync(folder, { format: 'qcow2', ...copy }),
    ...(await measureWriting(folder, { seconds: writeSeconds, rounds: writeRounds, nodesWarmMs })),
    ...(await measurePolicies(policySeconds)),
  ];
  return {
    name: 'qemu-disk',
    rows,
    claims: claimsOf(rows),
    notes: [
      'first copy: from "syncing" to "protected", less the same with --disk none; the baseline is qemu-img convert of the same file to qemu-nbd; all files on tmpfs',
      'meanUs: one 4 KiB O_DIRECT write after the other, by a clock outside, pauses of checkpoints included; guestP50Us: the median by the clock of the guest, which stands in a pause: what its disk alone became slower by',
      'toUnprotected: each quarter of a second is compared with the 25 unprotected ones in which the cores were about as fast, by a fixed piece of work in registers on each core every 4 ms (see qemu-run); toUnprotectedByTurn: the same without that, the median of the turns',
      'mirror alone: blockdev-mirror, write-blocking, to qemu-nbd, no checkpoints: the share of QEMU; what protected has beyond it is ours (pauses, write-protection faults, two nodes on the same processors)',
      'commits: replicas on a real disk; a commit is acknowledged before the replica is written, so a policy shows where the backup falls behind',
    ],
  };
}
