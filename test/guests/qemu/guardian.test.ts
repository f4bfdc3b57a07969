/** What the guardian does for a real machine when its engine freezes or dies, and what it leaves. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { nowMs } from '../../../src/engine/clock.ts';
import type { QmpClient } from '../../../src/guests/qemu/qmp/qmp-client.ts';
import { STALL_MS_MAX } from '../../../src/native/guardian-link.ts';
import { requireQemu } from '../../support/qemu/require-qemu.ts';
import { guardianOf, killAndWait, pipeOf, startEngine as spawnEngine } from './engine-process.ts';
import type { EngineOrders } from './guarded-engine.ts';
import { type Cleanups, eventually, startForUser } from './user-machine.ts';

const hasQemu = await requireQemu();
const NIC = ['-netdev', 'user,id=n0', '-device', 'virtio-net-pci,netdev=n0'];
/** What the machine's own system does is of no interest here. */
const UNBOOTED = { bootWait: false } as const;
const TIMEOUT_MS = 90_000;
/** A busy host may be late by so much, milliseconds. */
const LATE_MS = 5000;
/** QEMU's monitor has not answered for so long: it is held up, milliseconds. */
const HELD_MS = 500;
/** How long a pause may hold QEMU up (native-sim/src/guardian_hold.h), milliseconds. */
const HOLD_MS_MAX = 10_000;

const cleanups: Cleanups = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

const startEngine = (qmpPath: string, orders: EngineOrders): Promise<ChildProcess> =>
  spawnEngine(cleanups, qmpPath, orders);

/** Whether QEMU answers its user, for so long. */
async function isAnswered(question: Promise<unknown>): Promise<boolean> {
  return await Promise.race([question.then(() => true), sleep(HELD_MS).then(() => false)]);
}

async function addFilters(user: QmpClient, ids: readonly string[]): Promise<void> {
  for (const id of ids)
    await user.command('object-add', {
      'qom-type': 'filter-buffer',
      id,
      netdev: 'n0',
      interval: 1_000_000,
    });
}

async function filtersOf(user: QmpClient): Promise<string[]> {
  const objects = (await user.command('qom-list', { path: '/objects' })) as { name: string }[];
  return objects.map(({ name }) => name).filter((name) => name.includes('nf'));
}

/** Accepts one connection, and says when it ended. */
async function listenOnce(
  path: string,
): Promise<{ socket: Promise<Socket>; endedAtMs: () => number | null }> {
  let endedAtMs: number | null = null;
  const server = createServer();
  const socket = once(server, 'connection').then(([accepted]) => {
    const near = accepted as Socket;
    near.resume().on('end', () => {
      endedAtMs ??= nowMs();
    });
    near.on('error', () => {
      endedAtMs ??= nowMs();
    });
    cleanups.push(() => void near.destroy());
    return near;
  });
  server.listen(path);
  await once(server, 'listening');
  cleanups.push(() => void server.close());
  return { socket, endedAtMs: () => endedAtMs };
}

describe.runIf(hasQemu)('an engine that died', { timeout: TIMEOUT_MS }, () => {
  test('in a pause: its machine runs on, its pipe is removed', async () => {
    const { machine, user } = await startForUser(cleanups, [], UNBOOTED);
    const engine = await startEngine(machine.qmpPath, { pauses: true });
    const question = user.command('query-status');
    expect(await isAnswered(question)).toBe(false);
    await killAndWait(engine);
    expect(await question).toMatchObject({ status: 'running' });
  });

  test('in a pause, with its guardian: its machine runs on', async () => {
    const { machine, user } = await startForUser(cleanups, [], UNBOOTED);
    const engine = await startEngine(machine.qmpPath, { pauses: true });
    const pipe = pipeOf(engine);
    process.kill(guardianOf(pipe), 'SIGKILL');
    const question = user.command('query-status');
    expect(await isAnswered(question)).toBe(false);
    engine.kill('SIGKILL');
    expect(await question).toMatchObject({ status: 'running' });
    rmSync(dirname(pipe), { recursive: true, force: true });
  });

  test('with its guardian, before QEMU opened the pipe: the next engine lets QEMU go', async () => {
    const { machine, user } = await startForUser(cleanups, [], UNBOOTED);
    const engine = await startEngine(machine.qmpPath, {});
    const pipe = pipeOf(engine);
    process.kill(guardianOf(pipe), 'SIGKILL');
    const gone = once(engine, 'exit');
    engine.kill('SIGKILL');
    await gone;
    // What the engine would have asked for in its last moment.
    const saved = user.command('xen-save-devices-state', { filename: pipe, live: false });
    await startEngine(machine.qmpPath, {});
    await saved.catch(() => undefined);
    expect(await user.command('query-status')).toMatchObject({ status: 'running' });
    expect(existsSync(dirname(pipe))).toBe(false);
  });

  test('alone by the register: what held the output is taken out, and nothing else', async () => {
    const { machine, user } = await startForUser(cleanups, NIC, UNBOOTED);
    await addFilters(user, ['romulus-nf0', 'romulus-nf1', 'somebodys-nf0']);
    // One more than there is: gone already is as good as gone.
    const engine = await startEngine(machine.qmpPath, { runsAlone: true, filters: 3 });
    expect(await filtersOf(user)).toHaveLength(3);
    await killAndWait(engine);
    expect(await filtersOf(user)).toEqual(['somebodys-nf0']);
  });

  test('in a pause, alone: both', async () => {
    const { machine, user } = await startForUser(cleanups, NIC, UNBOOTED);
    await addFilters(user, ['romulus-nf0']);
    const engine = await startEngine(machine.qmpPath, {
      pauses: true,
      runsAlone: true,
      filters: 1,
    });
    await killAndWait(engine);
    expect(await filtersOf(user)).toEqual([]);
    expect(await user.command('query-status')).toMatchObject({ status: 'running' });
  });

  test('not alone: its output stays closed', async () => {
    const { machine, user } = await startForUser(cleanups, NIC, UNBOOTED);
    await addFilters(user, ['romulus-nf0']);
    const engine = await startEngine(machine.qmpPath, { pauses: true, filters: 1 });
    await killAndWait(engine);
    expect(await filtersOf(user)).toEqual(['romulus-nf0']);
    expect(await user.command('query-status')).toMatchObject({ status: 'running' });
  });
});

describe.runIf(hasQemu)('an engine that is frozen in a pause', { timeout: TIMEOUT_MS }, () => {
  test('holds its machine up for a bounded time', async () => {
    const { machine, user } = await startForUser(cleanups, [], UNBOOTED);
    const engine = await startEngine(machine.qmpPath, { pauses: true });
    engine.kill('SIGSTOP');
    const fromMs = performance.now();
    expect(await user.command('query-status', {}, { timeoutMs: 3 * HOLD_MS_MAX })).toMatchObject({
      status: 'running',
    });
    const heldMs = performance.now() - fromMs;
    expect(heldMs).toBeGreaterThan(HOLD_MS_MAX / 2);
    expect(heldMs).toBeLessThan(2 * HOLD_MS_MAX + LATE_MS);
  });

  test('holds its machine up no longer wherever it is frozen, and goes on once thawed', async () => {
    const { machine, user } = await startForUser(cleanups, [], UNBOOTED);
    const engine = await startEngine(machine.qmpPath, { pausesOn: true });
    for (let round = 0; round < 2; round += 1) {
      engine.kill('SIGSTOP');
      expect(
        await user.command('query-status', {}, { timeoutMs: 2 * HOLD_MS_MAX + LATE_MS }),
      ).toMatchObject({ status: 'running' });
      engine.kill('SIGCONT');
      if (engine.stdout === null) throw new Error('the engine has no stdout');
      await once(engine.stdout, 'data');
    }
    expect(engine.exitCode).toBeNull();
  });
});

describe.runIf(hasQemu)('an engine that takes leave', { timeout: TIMEOUT_MS }, () => {
  async function leave(orders: EngineOrders): Promise<QmpClient> {
    const { machine, user } = await startForUser(cleanups, [], UNBOOTED);
    const engine = await startEngine(machine.qmpPath, orders);
    await user.command('stop');
    const gone = once(engine, 'exit');
    engine.stdin?.write('leave');
    await gone;
    return user;
  }

  test('while QEMU has not yet answered its cont: the machine runs on', async () => {
    const user = await leave({ hasStopped: true });
    await eventually(async () =>
      expect(await user.command('query-status')).toMatchObject({ status: 'running' }),
    );
  });

  test('of a machine that its user paused: it stays paused', async () => {
    const user = await leave({});
    await sleep(500);
    expect(await user.command('query-status')).toMatchObject({ status: 'paused' });
  });
});

describe.runIf(hasQemu)('a socket that QEMU would wait on', { timeout: TIMEOUT_MS }, () => {
  interface Watched {
    readonly engine: ChildProcess;
    readonly ended: () => boolean;
    readonly endedAtMs: () => number | null;
  }

  async function watched(): Promise<Watched> {
    const { machine, directory } = await startForUser(cleanups, [], UNBOOTED);
    const path = join(directory, 'served.sock');
    const { socket, endedAtMs } = await listenOnce(path);
    const engine = await startEngine(machine.qmpPath, { watched: path });
    await socket;
    return { engine, ended: () => endedAtMs() !== null, endedAtMs };
  }

  /** When the engine's first silence began that was longer than a guardian bears. */
  async function silentFromMs({ stdin, stdout }: ChildProcess): Promise<number> {
    if (stdin === null || stdout === null) throw new Error('the engine cannot be asked');
    stdin.write('silence\n');
    const [said] = (await once(stdout, 'data')) as [Buffer];
    expect(String(said)).toMatch(/^\d/);
    return Number(said);
  }

  test('is left alone while its thread beats, and shut down when the engine freezes', async () => {
    const { engine, ended, endedAtMs } = await watched();
    await sleep(2 * STALL_MS_MAX);
    engine.kill('SIGSTOP');
    const frozenAtMs = nowMs();
    await eventually(() => expect(ended()).toBe(true));
    engine.kill('SIGCONT');
    const endMs = endedAtMs() ?? 0;
    // By its last beat, not by when it was frozen: a busy host may have kept it from beating before.
    expect(endMs - (await silentFromMs(engine))).toBeGreaterThan(STALL_MS_MAX);
    expect(endMs - frozenAtMs).toBeLessThan(STALL_MS_MAX + LATE_MS);
  });

  test('is shut down when its thread alone is silent', async () => {
    const { engine, ended } = await watched();
    engine.stdin?.write('hush\n');
    await eventually(() => expect(ended()).toBe(true));
    expect(engine.exitCode).toBeNull();
  });

  test('ends when it is closed, once the guardian was told', async () => {
    const { engine, ended } = await watched();
    engine.stdin?.write('release\n');
    await eventually(() => expect(ended()).toBe(true));
  });

  test('ends with the engine', async () => {
    const { engine, ended } = await watched();
    await killAndWait(engine);
    await eventually(() => expect(ended()).toBe(true));
  });
});
