/** Goal: the client understands a real QEMU, also one that is held, frozen or killed. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { QmpEvent } from '../../../../src/guests/qemu/qmp/messages.ts';
import { QmpClient } from '../../../../src/guests/qemu/qmp/qmp-client.ts';
import { requireQemu } from '../../../support/qemu/require-qemu.ts';

const hasQemu = await requireQemu();

const QEMU = 'qemu-system-x86_64';
let directory: string;
let path: string;
let qemu: ChildProcess;

async function connectSoon(): Promise<QmpClient> {
  for (let triesLeft = 100; ; triesLeft -= 1) {
    try {
      return await QmpClient.connect(path, { timeoutMs: 5000 });
    } catch (error) {
      if (triesLeft === 0) throw error;
      await delay(50);
    }
  }
}

beforeAll(() => {
  // Says loudly what is missing instead of skipping.
  execFileSync(QEMU, ['--version']);
  directory = mkdtempSync(join(tmpdir(), 'romulus-qmp-'));
  path = join(directory, 'qmp');
  const machine = '-nodefaults -machine q35 -accel tcg -m 64 -display none -S -qmp'.split(' ');
  qemu = spawn(QEMU, [...machine, `unix:${path},server=on,wait=off`], { stdio: 'inherit' });
});

afterAll(() => {
  qemu.kill('SIGKILL');
  rmSync(directory, { recursive: true });
});

describe.skipIf(!hasQemu)('a real QEMU', () => {
  it('greets, answers, refuses and tells events', async () => {
    const client = await connectSoon();
    const events: QmpEvent[] = [];
    client.onEvent((event) => events.push(event));
    expect(client.peerPid).toBe(qemu.pid);
    expect(client.version.major).toBeGreaterThanOrEqual(7);
    expect(client.hasOutOfBand).toBe(true);
    expect(await client.command('query-status')).toMatchObject({ status: 'prelaunch' });
    expect(await client.humanMonitor('info ramblock')).toContain('pc.bios');
    await expect(client.command('no-such-thing')).rejects.toMatchObject({
      code: 'ERR_GUEST_QMP_COMMAND_NOT_FOUND',
    });
    await expect(client.command('device_del', { id: 'nobody' })).rejects.toMatchObject({
      code: 'ERR_GUEST_QMP_DEVICE_NOT_FOUND',
    });
    await expect(client.commandOutOfBand('yank', { instances: [] })).resolves.toEqual({});
    await expect(client.commandOutOfBand('query-status')).rejects.toMatchObject({
      code: 'ERR_GUEST_QMP_REFUSED',
    });
    const many = await Promise.all(Array.from({ length: 40 }, () => client.command('query-name')));
    expect(many).toHaveLength(40);
    await client.command('cont');
    await client.command('stop');
    await expect.poll(() => events.map(({ event }) => event)).toEqual(['RESUME', 'STOP']);
    expect(events[0]?.timestampMs).toBeGreaterThan(1.7e12);
    expect(client.idle).toBe(true);
    client.close();
  });

  it('is held by one client at a time', async () => {
    const first = await connectSoon();
    await expect(QmpClient.connect(path, { timeoutMs: 100 })).rejects.toMatchObject({
      code: 'ERR_GUEST_QMP_HELD',
    });
    expect(await first.command('query-status')).toMatchObject({ running: false });
    first.close();
    (await connectSoon()).close();
  });

  it('times out when frozen, is heard again when thawed', async () => {
    const client = await connectSoon();
    qemu.kill('SIGSTOP');
    await expect(client.command('query-name', undefined, { timeoutMs: 100 })).rejects.toMatchObject(
      { code: 'ERR_TIMEOUT_GUEST_CONTROL' },
    );
    qemu.kill('SIGCONT');
    expect(await client.command('query-name')).toEqual({});
    expect(client.idle).toBe(true);
    client.close();
  });

  it('is lost with its commands when killed', async () => {
    const client = await connectSoon();
    qemu.kill('SIGSTOP');
    const waiting = client.command('query-name').catch((error: unknown) => error);
    const ended = new Promise((resolve) => {
      client.onEnd(resolve);
    });
    qemu.kill('SIGKILL');
    expect(await waiting).toMatchObject({ code: 'ERR_GUEST_LOST' });
    expect(await ended).toMatchObject({ code: 'ERR_GUEST_LOST' });
  });
});
