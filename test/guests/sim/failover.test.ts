/**
 * The guest and its copy: state out of one machine, into another, and the copy goes on as the
 * original would have, which the oracle knows.
 */
import { existsSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import { type IncomingSim, prepareIncomingSim } from '../../../src/guests/sim/incoming.ts';
import { SIM_WORKLOADS } from '../../../src/guests/sim/info.ts';
import { isProcessAlive } from '../../../src/guests/process.ts';
import { attachSim, type SimGuest } from '../../../src/guests/sim/sim-guest.ts';
import { Memory } from '../../../src/native/memory.ts';
import { infoOf, MachineKit, runToStep, until } from './machine-kit.ts';

let kit: MachineKit;
beforeEach(async () => {
  kit = new MachineKit();
  await kit.open();
});
afterEach(async () => {
  await kit.close();
});

async function attach(socketPath: string): Promise<SimGuest> {
  const guest = await attachSim({ socketPath });
  kit.onClose(() => guest.detach());
  return guest;
}

async function prepare(guest: SimGuest): Promise<IncomingSim> {
  const incoming = await prepareIncomingSim({
    descriptor: guest.descriptor,
    directory: kit.directory,
  });
  kit.onClose(() => incoming.discard());
  return incoming;
}

/** Copies what a replication would have: all of RAM and disk. */
function copyImages(guest: SimGuest, incoming: IncomingSim): void {
  const pairs = [
    [guest.blocks[0]?.sharedPath, incoming.ram],
    [guest.disks.imagePath, incoming.disk],
  ] as const;
  for (const [path, target] of pairs) {
    if (typeof path !== 'string') throw new Error('no path');
    const source = Memory.map({ path, bytes: target.bytes, writable: false });
    target.write(0, source.read(0, target.bytes));
    source.close();
  }
}

describe('SimGuest', () => {
  it('describes the machine it attached to and suspends it', async () => {
    const machine = await kit.start({ workload: 'stream', seed: (1n << 64n) - 1n });
    const guest = await attach(machine.socketPath);
    expect(guest.pid).toBe(machine.pid);
    expect(guest.descriptor).toMatchObject({
      kind: 'sim',
      blocks: [{ id: 0, name: 'ram', bytes: 16 * MIB }],
      disks: [{ id: 0, name: 'disk', bytes: 16 * MIB }],
      diskMode: 'replicate',
      profile: { workload: 'stream', seed: '18446744073709551615', rate: 20_000 },
    });
    const report = await guest.suspend();
    expect(report).toMatchObject({ framesSent: 0, diskWrites: 0 });
    expect((await guest.info()).step).toBe(report.position);
    const first = Buffer.from(await guest.saveDeviceState());
    await guest.resume();
    await until('it is further', async () => (await guest.info()).step > report.position);
    const next = await guest.suspend();
    expect(next.position).toBeGreaterThan(report.position);
    const second = Buffer.from(await guest.saveDeviceState());
    // Neighbouring states differ little: they travel as deltas.
    expect(second.length).toBe(first.length);
    const changed = first.filter((byte, at) => byte !== second[at]).length;
    expect(changed).toBeGreaterThan(0);
    expect(changed).toBeLessThan(4096);
    await guest.resume();
    await guest.setRate(0);
    expect((await guest.info()).rate).toBe(0);
  });

  it('skips an epoch when the machine refuses, and works on', async () => {
    const machine = await kit.start();
    const guest = await attach(machine.socketPath);
    const control = await kit.control(machine.socketPath);
    await control.command('busy on');
    await expect(guest.suspend()).rejects.toMatchObject({ code: 'ERR_GUEST_CANNOT_SUSPEND' });
    await control.command('busy off');
    await guest.suspend();
    expect(await guest.saveDeviceState()).toHaveLength(69_632);
    await guest.resume();
  });

  it('pauses around a capture, and runs on when that fails', async () => {
    const machine = await kit.start();
    const guest = await attach(machine.socketPath);
    let stood = 0;
    const report = await guest.pause(() => {
      stood += 1;
    });
    expect(stood).toBe(1);
    expect(report.deviceState).toHaveLength(69_632);
    expect(report.pauseMs).toBeGreaterThanOrEqual(report.stopMs);
    const failing = (): void => {
      throw new Error('no capture today');
    };
    await expect(guest.pause(failing)).rejects.toThrow('no capture today');
    expect((await guest.info()).running).toBe(true);
  });

  it('says once that the machine is lost', async () => {
    const machine = await kit.start();
    const guest = await attach(machine.socketPath);
    const lost: string[] = [];
    guest.onLost((loss) => lost.push(`${loss.kind}: ${loss.why}`));
    machine.kill('SIGKILL');
    await until('it was noticed', () => lost.length > 0);
    await expect(guest.suspend()).rejects.toMatchObject({ code: 'ERR_GUEST_LOST' });
    expect(lost).toHaveLength(1);
    expect(lost[0]).toMatch(/^died: /);
    await guest.fence();
    expect(existsSync(machine.socketPath)).toBe(false);
  });

  it('fences a machine for good, even one that is frozen', async () => {
    for (const frozen of [false, true]) {
      const machine = await kit.start();
      const guest = await attach(machine.socketPath);
      const lost: string[] = [];
      guest.onLost((loss) => lost.push(`${loss.kind}: ${loss.why}`));
      if (frozen) machine.kill('SIGSTOP');
      await guest.fence();
      await guest.fence();
      expect(isProcessAlive(machine.pid)).toBe(false);
      expect(existsSync(machine.socketPath)).toBe(false);
      expect(lost).toEqual([]);
    }
  });

  it('lets go of a suspended machine running', async () => {
    const machine = await kit.start();
    const guest = await attach(machine.socketPath);
    await guest.suspend();
    await guest.detach();
    await guest.detach();
    const control = await kit.control(machine.socketPath);
    expect((await infoOf(control)).running).toBe(true);
  });

  it('gives a frozen machine up after a bounded wait', async () => {
    const machine = await kit.start();
    const guest = await attachSim({ socketPath: machine.socketPath, timeoutMs: 2000 });
    machine.kill('SIGSTOP');
    await expect(guest.suspend()).rejects.toMatchObject({ code: 'ERR_TIMEOUT_GUEST_CONTROL' });
    machine.kill('SIGCONT');
    const control = await kit.control(machine.socketPath);
    await until('it runs', async () => (await infoOf(control)).running);
  });

  it('names what is wrong when no machine is there', async () => {
    await expect(attachSim({ socketPath: kit.freshPath() })).rejects.toMatchObject({
      code: 'ERR_GUEST_UNREACHABLE',
    });
  });
});

describe('IncomingSim', () => {
  for (const workload of SIM_WORKLOADS) {
    it(`${workload}: the copy goes on as the original would have`, async () => {
      const settings = { workload, paused: true, rate: 100_000, beacons: 20_000 };
      const original = await kit.start(settings);
      const control = await kit.control(original.socketPath);
      await runToStep(control, 4_321);
      const guest = await attach(original.socketPath);
      await guest.suspend();
      const incoming = await prepare(guest);
      copyImages(guest, incoming);
      const state = await guest.saveDeviceState();
      await guest.fence();

      const port = await kit.port(incoming.controlPath);
      const copyControl = await kit.control(incoming.controlPath);
      await copyControl.command('stop-at 9000');
      const copy = await incoming.start(state);
      expect(copy.descriptor.profile).toEqual(guest.descriptor.profile);
      await until('step 9000', async () => (await copy.info()).step === 9000);
      const info = await copy.info();
      const oracle = kit.oracle(info);
      oracle.runTo(9000);
      expect(oracle.ram.compare(incoming.ram)).toBe(-1);
      expect(oracle.disk.compare(incoming.disk)).toBe(-1);
      expect(info.hash).toBe(oracle.registers.hash);
      // All output from the first on: the original's was never acknowledged.
      await until('all came', () => port.emits.length >= oracle.registers.emitSeq);
      expect(port.frames[0]).toMatchObject({ kind: 'line-open', seq: 1, step: 4321 });
      expect(port.payloads.slice(1)).toEqual(oracle.frames());
      await copy.fence();
    });
  }

  it('refuses a damaged or foreign state and runs nothing', async () => {
    const machine = await kit.start({ paused: true });
    const guest = await attach(machine.socketPath);
    await guest.suspend();
    const incoming = await prepare(guest);
    const state = Buffer.from(await guest.saveDeviceState());
    const code = { code: 'ERR_INTEGRITY_DEVICE_STATE' };
    for (const at of [0, 8, 30, 60, 120, 150]) {
      const damaged = Buffer.from(state);
      damaged.writeUInt8(damaged.readUInt8(at) ^ 1, at);
      await expect(incoming.start(damaged)).rejects.toMatchObject(code);
    }
    await expect(incoming.start(state.subarray(1))).rejects.toMatchObject(code);
    await expect(incoming.start(Buffer.alloc(0))).rejects.toMatchObject(code);
    const other = await kit.start({ seed: 8n, paused: true });
    const otherGuest = await attach(other.socketPath);
    await otherGuest.suspend();
    await expect(incoming.start(await otherGuest.saveDeviceState())).rejects.toMatchObject(code);
    const control = await kit.control(incoming.controlPath);
    await expect(control.command('cont')).rejects.toMatchObject({ code: 'ERR_GUEST_NO_STATE' });
    const copy = await incoming.start(state);
    await until('it runs', async () => (await copy.info()).running);
    await expect(incoming.start(state)).rejects.toMatchObject({ code: 'ERR_GUEST_STATE' });
    await copy.fence();
  });

  it('refuses a descriptor of something else', async () => {
    const machine = await kit.start();
    const guest = await attach(machine.socketPath);
    const { descriptor } = guest;
    const wrong = [
      { ...descriptor, kind: 'qemu' as const },
      { ...descriptor, blocks: [] },
      { ...descriptor, profile: { ...descriptor.profile, workload: 'sleep' } },
      { ...descriptor, profile: {} },
    ];
    for (const candidate of wrong) {
      await expect(
        prepareIncomingSim({ descriptor: candidate, directory: kit.directory }),
      ).rejects.toMatchObject({ code: 'ERR_GUEST_DESCRIPTOR' });
    }
  });

  it('leaves nothing when it is given up', async () => {
    const machine = await kit.start();
    const incoming = await prepare(await attach(machine.socketPath));
    expect(isProcessAlive(incoming.pid)).toBe(true);
    await incoming.discard();
    await incoming.discard();
    expect(isProcessAlive(incoming.pid)).toBe(false);
    expect(existsSync(incoming.controlPath)).toBe(false);
  });
});
