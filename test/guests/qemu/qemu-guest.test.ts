/** A stock QEMU under our eyes: pauses, and what its user does meanwhile. */
import { closeSync, constants, existsSync, openSync, readSync } from 'node:fs';
import { dirname } from 'node:path';
import { MIB } from '../../../src/base/units.ts';
import { afterEach, describe, expect, test } from 'vitest';
import { attachQemu } from '../../../src/guests/qemu/attach.ts';
import type { GuestLoss } from '../../../src/guests/guest.ts';
import type { QemuGuest } from '../../../src/guests/qemu/qemu-guest.ts';
import { checkDeviceState } from '../../../src/guests/qemu/stream/device-state.ts';
import { isProcessAlive } from '../../../src/guests/process.ts';
import { Capture } from '../../../src/native/capture.ts';
import { Tracker } from '../../../src/native/tracker.ts';
import { requireQemu } from '../../support/qemu/require-qemu.ts';
import { statePipeOf } from '../../support/qemu/state-pipe.ts';
import {
  type GuestOptions,
  type RunningGuest,
  startGuest,
} from '../../support/qemu/start-guest.ts';
import { type Cleanups, eventually, startForUser } from './user-machine.ts';

const hasQemu = await requireQemu();
/** A whole Linux boots. */
const TIMEOUT_MS = 90_000;

const cleanups: Cleanups = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

async function start(options: GuestOptions = {}): Promise<RunningGuest> {
  const machine = await startGuest({ memoryMib: 128, run: ['counter'], ...options });
  cleanups.push(() => machine.stop());
  return machine;
}

async function attach(machine: RunningGuest): Promise<QemuGuest> {
  const guest = await attachQemu({
    qmpPath: machine.qmpPath,
    diskMode: 'none',
    holdsOutput: false,
  });
  cleanups.push(() => guest.detach());
  return guest;
}

/** Keeps this thread, as a long capture would. */
function stall(durationMs: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, durationMs);
}

function lossOf(guest: QemuGuest): Promise<GuestLoss> {
  return new Promise((resolve) => guest.onLost(resolve));
}

describe.runIf(hasQemu)('a running QEMU', { timeout: TIMEOUT_MS }, () => {
  test('pauses, gives its state, and runs on; nothing of ours is left after detaching', async () => {
    const machine = await start();
    const guest = await attach(machine);
    const folder = dirname(statePipeOf(process.pid));
    expect(guest.pid).toBe(machine.pid);
    expect(guest.descriptor.blocks.map(({ name }) => name)).toContain('pc.bios');
    for (let round = 0; round < 5; round += 1) {
      let stood = false;
      const report = await guest.pause(() => {
        stood = true;
      });
      expect(stood).toBe(true);
      expect(checkDeviceState(report.deviceState).length).toBeGreaterThan(10);
      expect(report.pauseMs).toBeGreaterThan(0);
    }
    const here = machine.serial.lines.length;
    await machine.serial.waitFor('more lines', (text) => text.startsWith('c '), {
      after: here,
      withinMs: 5000,
    });
    await guest.detach();
    expect(existsSync(folder)).toBe(false);
  });

  test('runs on when the capture inside its pause fails', async () => {
    const machine = await start();
    const guest = await attach(machine);
    const failing = (): void => {
      throw new Error('no capture today');
    };
    await expect(guest.pause(failing)).rejects.toThrow('no capture today');
    // The conversation is in step again.
    expect((await guest.pause(() => undefined)).deviceState.byteLength).toBeGreaterThan(1000);
  });

  test('is neither checkpointed nor resumed while its user has paused it', async () => {
    const { machine, user } = await startForUser(cleanups);
    const guest = await attach(machine);
    await user.command('stop');
    for (let round = 0; round < 3; round += 1)
      await expect(guest.pause(() => undefined)).rejects.toMatchObject({
        code: 'ERR_GUEST_CANNOT_SUSPEND',
      });
    expect(await user.command('query-status')).toMatchObject({ status: 'paused' });
    await user.command('cont');
    const report = await eventually(() => guest.pause(() => undefined));
    expect(report.deviceState.byteLength).toBeGreaterThan(1000);
    expect(await user.command('query-status')).toMatchObject({ status: 'running' });
  });

  test('is paused by its user in the middle of a pause: that holds', async () => {
    const { machine, user } = await startForUser(cleanups);
    const guest = await attach(machine);
    let stopped: Promise<unknown> = Promise.resolve();
    await guest.pause(() => {
      stopped = user.command('stop');
      stall(100);
    });
    await stopped;
    expect(await user.command('query-status')).toMatchObject({ status: 'paused' });
    await expect(guest.pause(() => undefined)).rejects.toMatchObject({
      code: 'ERR_GUEST_CANNOT_SUSPEND',
    });
    expect(await user.command('query-status')).toMatchObject({ status: 'paused' });
  });

  test('is paused by its user just before a pause, and about its beginning: that holds', async () => {
    const { machine, user } = await startForUser(cleanups, [], { bootWait: false });
    const guest = await attach(machine);
    for (let round = 0; round < 40; round += 1) {
      const stopped = user.command('stop');
      // Both conversations go on while this thread, which would hear of it, does not.
      stall(round < 10 ? 20 : (round - 10) / 10);
      await guest
        .pause(() => undefined)
        .catch((error: unknown) => {
          expect(error).toMatchObject({ code: 'ERR_GUEST_CANNOT_SUSPEND' });
        });
      await stopped;
      expect(await user.command('query-status')).toMatchObject({ status: 'paused' });
      await user.command('cont');
      await eventually(() => guest.pause(() => undefined));
    }
  });

  test('runs on before a pause is over when somebody takes what holds it: told, and made good', async () => {
    const machine = await start();
    const guest = await attach(machine);
    await guest.pause(() => undefined);
    const path = statePipeOf(process.pid);
    const spoilt = guest.pause(() => {
      const pipe = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      for (let round = 0; round < 50; round += 1) {
        try {
          readSync(pipe, Buffer.alloc(MIB));
        } catch {
          // QEMU has not written more yet.
        }
        stall(2);
      }
      closeSync(pipe);
    });
    await expect(spoilt).rejects.toMatchObject({ code: 'ERR_GUEST_RAN_ON' });
    const { deviceState } = await guest.pause(() => undefined);
    expect(checkDeviceState(deviceState).length).toBeGreaterThan(10);
  });

  test('stands exactly as long as the capture takes, however small its state', async () => {
    const machine = await start();
    const guest = await attach(machine);
    for (let round = 0; round < 5; round += 1) {
      const { pauseMs } = await guest.pause(() => {
        stall(50);
      });
      expect(pauseMs).toBeGreaterThan(50);
    }
  });

  test('is not taken for paused by its user while we have it stopped', async () => {
    const machine = await start();
    const guest = await attach(machine);
    await guest.monitor.command('stop');
    const refusal = await guest.pause(() => undefined).catch((error: unknown) => error);
    expect(refusal).toMatchObject({ code: 'ERR_GUEST_CANNOT_SUSPEND', details: {} });
    expect(String(refusal)).toContain('a change of ours');
    await guest.monitor.command('cont');
    await guest.pause(() => undefined);
  });

  test('tells a power-off by its own system from a death', async () => {
    const machine = await start();
    const guest = await attach(machine);
    const lost = lossOf(guest);
    await machine.command('poweroff').catch(() => undefined);
    expect(await lost).toMatchObject({ kind: 'ended' });
    expect(await guest.lastWords()).toMatchObject({ kind: 'ended' });

    const other = await start();
    const died = lossOf(await attach(other));
    process.kill(other.pid, 'SIGKILL');
    expect(await died).toMatchObject({ kind: 'died' });
  });

  test('is another machine once a device was plugged in', async () => {
    const { machine, user } = await startForUser(cleanups, ['-device', 'pcie-root-port,id=port0']);
    const guest = await attach(machine);
    await guest.pause(() => undefined);
    const lost = lossOf(guest);
    await user.command('device_add', { driver: 'virtio-rng-pci', id: 'late', bus: 'port0' });
    await expect(guest.pause(() => undefined)).rejects.toMatchObject({ code: 'ERR_GUEST_LOST' });
    expect(await lost).toMatchObject({ kind: 'changed' });
  });

  test('ends when it is fenced', async () => {
    const machine = await start();
    const guest = await attach(machine);
    await guest.fence();
    expect(isProcessAlive(machine.pid)).toBe(false);
  });

  test('reboots under protection: firmware tables written anew are seen by the tracker', {
    timeout: 2 * TIMEOUT_MS,
  }, async () => {
    const machine = await start();
    const guest = await attach(machine);
    const tracker = new Tracker({
      pid: guest.pid,
      ranges: guest.blocks.map(({ address, bytes }) => ({ address, bytes })),
      kind: 'auto',
    });
    cleanups.push(() => tracker.close());
    const captures = guest.blocks.map((_, block) => new Capture({ tracker, block, threads: 1 }));
    cleanups.push(() => {
      for (const capture of captures) capture.close();
    });
    const populated = captures.map((capture) => capture.capture({ full: true }).pages);
    // Memory that the machine never touched is no part of a base image, though it is tracked.
    if (process.getuid?.() === 0) expect(populated[0]).toBeLessThan(32_000);
    const here = machine.serial.lines.length;
    await machine.command('reboot').catch(() => undefined);
    await machine.serial.waitFor('second boot', (text) => text.startsWith('ready'), {
      after: here,
      withinMs: 60_000,
    });
    let pages = 0;
    await guest.pause(() => {
      for (const capture of captures) pages += capture.capture().pages;
    });
    expect(pages).toBeGreaterThan(100);
  });
});
