/**
 * Beside its peers on the same machine in one run: QEMU's own COLO, which checkpoints continuously
 * too, and QEMU's ways to take one image of a machine, `migrate` and `background-snapshot`.
 *
 * COLO runs in QEMU 11.1 (under TCG older ones deadlock): two QEMUs over a unix socket, no disks, and
 * a checkpoint each PERIOD_MS. Its pause holds the sending of the pages and the other side's loading
 * of the state, ours local work alone; that is the point of comparing them, and not equal work.
 * Pauses are from QEMU's own events STOP and RESUME for COLO, from the conversation for ours.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, rmSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { qemuOfVersion } from '../src/drill/qemu/qemu-versions.ts';
import { QmpClient } from '../src/guests/qemu/qmp/qmp-client.ts';
import { type RunningGuest, startGuest } from '../test/support/qemu/start-guest.ts';
import { QemuEpochs, spreadOf } from './lib/qemu-epochs.ts';
import { type BenchResult, type Claim, percentile, type Row, rounded } from './lib/result.ts';

const VERSION = '11.1';
const MEMORY_MIB = 512;
const PERIOD_MS = 120;
const BURST_MS = 100;
const DIRTY_SETS = [1000, 4000, 16_000];
const PAUSE_RATIO_MAX: Readonly<Record<number, number>> = { 1000: 0.4, 4000: 0.3, 16_000: 0.25 };
const BYTES_RATIO_MAX = 0.1;
const WAIT_MS = 60_000;
const POLL_MS = 50;
const UNLIMITED_BYTES = 16 * 1024 ** 3;

export interface QemuPeersOptions {
  readonly seconds?: number;
  readonly dirtySets?: readonly number[];
}

interface MigrationStatus {
  readonly status?: string;
  readonly 'total-time'?: number;
  readonly downtime?: number;
}

async function migrationOf(monitor: QmpClient): Promise<MigrationStatus> {
  return (await monitor.command('query-migrate')) as MigrationStatus;
}

async function until(what: string, test: () => Promise<boolean> | boolean): Promise<void> {
  const deadlineMs = performance.now() + WAIT_MS;
  while (!(await test())) {
    if (performance.now() > deadlineMs) throw new Error(`no ${what} within ${WAIT_MS} ms`);
    await sleep(POLL_MS);
  }
}

/** The same machine once more, waiting: a COLO secondary. */
async function startSecondary(
  primary: RunningGuest,
  binary: string,
): Promise<{ monitor: QmpClient; stop: () => Promise<void> }> {
  const qmpPath = join(primary.directory, 'secondary.qmp');
  const args: string[] = [];
  for (let at = 0; at < primary.args.length; at += 1) {
    const arg = primary.args[at] ?? '';
    const value = primary.args[at + 1] ?? '';
    if (arg === '-chardev') at += 1;
    else if (arg === '-serial') {
      args.push('-serial', 'null');
      at += 1;
    } else if (arg === '-qmp') {
      args.push('-qmp', `unix:${qmpPath},server=on,wait=off`);
      at += 1;
    } else if (arg.startsWith('-') && value !== '' && !value.startsWith('-')) {
      args.push(arg, value);
      at += 1;
    } else args.push(arg);
  }
  const child = spawn(binary, [...args, '-incoming', 'defer'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const gone = once(child, 'exit');
  const kill = (): void => {
    child.kill('SIGKILL');
  };
  process.once('exit', kill);
  await until('secondary', () => existsSync(qmpPath));
  const monitor = await QmpClient.connect(qmpPath);
  return {
    monitor,
    stop: async () => {
      monitor.close();
      kill();
      process.removeListener('exit', kill);
      await gone;
    },
  };
}

/** Times between STOP and RESUME, collected from QEMU's events. */
class PauseWatch {
  readonly pausesMs: number[] = [];
  #stoppedAtMs: number | null = null;

  constructor(monitor: QmpClient) {
    monitor.onEvent(({ event, timestampMs }) => {
      if (event === 'STOP') this.#stoppedAtMs = timestampMs;
      if (event !== 'RESUME' || this.#stoppedAtMs === null) return;
      this.pausesMs.push(timestampMs - this.#stoppedAtMs);
      this.#stoppedAtMs = null;
    });
  }
}

interface Measured {
  readonly pauseMs: number;
  readonly pauseP99Ms: number;
  readonly bytes: number;
  readonly checkpoints: number;
}

/** Counts what goes through between two unix sockets. It slows COLO down: for bytes only. */
async function startRelay(
  fromPath: string,
  toPath: string,
): Promise<{ bytes: () => number; close: () => void }> {
  let bytes = 0;
  const server = createServer((socket) => {
    const onward = createConnection(toPath);
    socket.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    socket.pipe(onward);
    onward.pipe(socket);
    for (const end of [socket, onward]) end.on('error', () => end.destroy());
  });
  await new Promise<void>((resolve) => server.listen(fromPath, resolve));
  return { bytes: () => bytes, close: () => server.close() };
}

async function measureColo(
  machine: RunningGuest,
  binary: string,
  dirtySets: readonly number[],
  options: { seconds: number; counted: boolean },
): Promise<Map<number, Measured>> {
  const { seconds, counted } = options;
  const secondary = await startSecondary(machine, binary);
  const primary = await QmpClient.connect(machine.qmpPath);
  const results = new Map<number, Measured>();
  try {
    const capabilities = ['x-colo', 'return-path'].map((capability) => ({
      capability,
      state: true,
    }));
    const path = join(machine.directory, 'colo.sock');
    const uri = `unix:${path}`;
    for (const monitor of [secondary.monitor, primary])
      await monitor.command('migrate-set-capabilities', { capabilities });
    await secondary.monitor.command('migrate-incoming', { uri });
    await primary.command('migrate-set-parameters', {
      'x-checkpoint-delay': PERIOD_MS,
      'max-bandwidth': UNLIMITED_BYTES,
    });
    const relayed = `${path}.relay`;
    const relay = counted ? await startRelay(relayed, path) : null;
    await primary.command('migrate', { uri: relay === null ? uri : `unix:${relayed}` });
    await until('COLO', async () => (await migrationOf(primary)).status === 'colo');
    const watch = new PauseWatch(primary);
    for (const dirty of dirtySets) {
      await machine.command(`set dirty ${dirty}/${BURST_MS}ms`);
      await sleep(1000);
      watch.pausesMs.length = 0;
      const before = relay?.bytes() ?? Number.NaN;
      await sleep(seconds * 1000);
      const checkpoints = watch.pausesMs.length;
      const bytes = (relay?.bytes() ?? Number.NaN) - before;
      results.set(dirty, {
        pauseMs: rounded(percentile(watch.pausesMs, 0.5)),
        pauseP99Ms: rounded(percentile(watch.pausesMs, 0.99)),
        bytes: Math.round(bytes / Math.max(checkpoints, 1)),
        checkpoints,
      });
    }
    relay?.close();
  } finally {
    primary.close();
    await secondary.stop();
  }
  return results;
}

async function measureOurs(
  machine: RunningGuest,
  dirtySets: readonly number[],
  seconds: number,
): Promise<Map<number, Measured>> {
  const results = new Map<number, Measured>();
  const epochs = await QemuEpochs.attach(machine.qmpPath);
  try {
    for (const dirty of dirtySets) {
      await machine.command(`set dirty ${dirty}/${BURST_MS}ms`);
      await sleep(1000);
      const rounds = Math.round((seconds * 1000) / PERIOD_MS);
      const [samples = []] = (
        await epochs.series(['ahead'], { rounds, periodMs: PERIOD_MS })
      ).values();
      const { pauseMs, pauseP99Ms } = spreadOf(samples);
      const bytes = samples.reduce((sum, { sentBytes }) => sum + sentBytes, 0);
      const checkpoints = samples.length;
      results.set(dirty, {
        pauseMs,
        pauseP99Ms,
        bytes: Math.round(bytes / checkpoints),
        checkpoints,
      });
    }
  } finally {
    await epochs.close();
  }
  return results;
}

/** QEMU's own full images of a machine: what the alternative to increments costs. */
async function measureImages(machine: RunningGuest): Promise<Row[]> {
  const monitor = await QmpClient.connect(machine.qmpPath);
  const rows: Row[] = [];
  try {
    for (const kind of ['migrate', 'background-snapshot'] as const) {
      const watch = new PauseWatch(monitor);
      const path = join(machine.directory, `${kind}.sock`);
      let bytes = 0;
      const server = createServer((socket) => {
        socket.on('data', (chunk) => {
          bytes += chunk.length;
        });
      });
      await new Promise<void>((resolve) => server.listen(path, resolve));
      const snapshot = [{ capability: 'background-snapshot', state: kind !== 'migrate' }];
      await monitor.command('migrate-set-capabilities', { capabilities: snapshot });
      await monitor.command('migrate-set-parameters', { 'max-bandwidth': UNLIMITED_BYTES });
      const startedMs = performance.now();
      await monitor.command('migrate', { uri: `unix:${path}` });
      await until(kind, async () => (await migrationOf(monitor)).status === 'completed');
      const totalMs = rounded(performance.now() - startedMs);
      const { downtime } = await migrationOf(monitor);
      await monitor.command('cont');
      await sleep(POLL_MS);
      rows.push({
        what: kind,
        pauseMs: rounded(Math.max(downtime ?? 0, ...watch.pausesMs)),
        totalMs,
        bytes,
      });
      server.close();
      rmSync(path, { force: true });
      await monitor.command('migrate-set-capabilities', {
        capabilities: [{ capability: 'background-snapshot', state: false }],
      });
    }
  } finally {
    monitor.close();
  }
  return rows;
}

/** COLO and ours on machines of the same kind, one after the other, then the full images. */
export async function run(options: QemuPeersOptions = {}): Promise<BenchResult> {
  const { seconds = 12, dirtySets = DIRTY_SETS } = options;
  const binary = await qemuOfVersion(VERSION);
  const settings = { memoryMib: MEMORY_MIB, run: ['dirty'], qemu: binary };
  const rows: Row[] = [];
  const claims: Claim[] = [];
  let machine = await startGuest(settings);
  let ours: Map<number, Measured>;
  try {
    ours = await measureOurs(machine, dirtySets, seconds);
    rows.push(...(await measureImages(machine)));
  } finally {
    await machine.stop();
  }
  const colo = new Map<number, Measured>();
  for (const counted of [false, true]) {
    machine = await startGuest(settings);
    try {
      const measured = await measureColo(machine, binary, dirtySets, { seconds, counted });
      for (const [dirty, one] of measured)
        colo.set(dirty, counted ? { ...(colo.get(dirty) ?? one), bytes: one.bytes } : one);
    } finally {
      await machine.stop();
    }
  }
  for (const dirty of dirtySets) {
    const [a, b] = [ours.get(dirty), colo.get(dirty)];
    if (a === undefined || b === undefined) continue;
    rows.push({ what: `romulus, ${dirty} pages`, ...a }, { what: `COLO, ${dirty} pages`, ...b });
    claims.push(
      {
        what: `pause at ${dirty} dirty pages, to COLO's`,
        measured: rounded(a.pauseMs / b.pauseMs),
        relation: 'at most',
        bound: PAUSE_RATIO_MAX[dirty] ?? Number.NaN,
        unit: '',
      },
      {
        what: `bytes a checkpoint at ${dirty} dirty pages, to COLO's`,
        measured: rounded(a.bytes / b.bytes),
        relation: 'at most',
        bound: BYTES_RATIO_MAX,
        unit: '',
      },
    );
  }
  return {
    name: 'qemu-peers',
    rows,
    claims,
    notes: [
      `QEMU ${VERSION}, ${MEMORY_MIB} MiB q35, TCG, a checkpoint each ${PERIOD_MS} ms, unix socket`,
      "COLO's bytes were counted in a second run through a relay; ours are the encoded pages",
    ],
  };
}
