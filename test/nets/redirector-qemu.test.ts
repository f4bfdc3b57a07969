/**
 * Goal: what a real QEMU's NICs say is held and let out in order, a mark taken while it stands is
 * exact, a lost attachment leaves the network closed until it is replaced, and a removed one leaves
 * nothing behind. Method: a guest that sends numbered frames, and the other end of its wire.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { RomulusError } from '../../src/base/errors.ts';
import { VIRTIO_MODULES } from '../../src/drill/qemu/guest-image.ts';
import { ensureQemu } from '../../src/drill/qemu/qemu-versions.ts';
import { QmpClient } from '../../src/guests/qemu/qmp/qmp-client.ts';
import { drainFrames } from '../../src/native/frame-tap.ts';
import type { NetOutlet } from '../../src/nets/net.ts';
import { OutletSwitch } from '../../src/nets/outlet-switch.ts';
import { OutputGate } from '../../src/nets/output-gate.ts';
import { attachFilters, hasFilters, removeFilters } from '../../src/nets/redirector/filters.ts';
import { Redirector } from '../../src/nets/redirector/redirector.ts';
import { qemuVersions, requireQemu } from '../support/qemu/require-qemu.ts';
import { type RunningGuest, startGuest } from '../support/qemu/start-guest.ts';
import { Wire, wireNetdev } from '../support/qemu/wire.ts';
import { requires } from '../support/require.ts';

const hasQemu = await requireQemu();
const versions = hasQemu ? await qemuVersions() : [];
const WAIT_MS = 20_000;

const nowhere: NetOutlet = {
  ready: true,
  write: () => undefined,
  onReady: () => undefined,
};
const yes = (): boolean => true;

async function until(what: string, done: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + WAIT_MS;
  while (!done()) {
    if (performance.now() > deadlineMs) throw new Error(`waited in vain for ${what}`);
    await sleep(5);
  }
}

/** What one could see of us in a QEMU. */
async function traces(monitor: QmpClient): Promise<unknown> {
  const objects = await monitor.command('qom-list', { path: '/objects' });
  const chardevs = (await monitor.command('query-chardev')) as { label: string }[];
  return { objects, labels: chardevs.map(({ label }) => label).sort() };
}

const cleanups: (() => unknown)[] = [];
async function cleanUp(): Promise<void> {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
}

interface Attachment {
  readonly gate: OutputGate;
  readonly redirector: Redirector;
  readonly lost: RomulusError[];
}

function openAttachment(gate: OutputGate, outlet: OutletSwitch, nicCount: number): Attachment {
  const lost: RomulusError[] = [];
  const redirector = new Redirector({ gate, nicCount, onLost: (error) => lost.push(error) });
  cleanups.push(() => redirector.close());
  outlet.use(redirector);
  return { gate, redirector, lost };
}

function freshGate(mode: 'open' | 'holding'): { gate: OutputGate; outlet: OutletSwitch } {
  const outlet = new OutletSwitch(nowhere);
  return { outlet, gate: new OutputGate({ outlet, nowMs: () => performance.now(), mode }) };
}

async function attach(
  monitor: QmpClient,
  netdevs: readonly string[],
  mode: 'open' | 'holding',
): Promise<Attachment> {
  const { gate, outlet } = freshGate(mode);
  const attachment = openAttachment(gate, outlet, netdevs.length);
  const { redirector } = attachment;
  await attachFilters(
    monitor,
    netdevs.map((netdev, nic) => ({ netdev, ...redirector.farEnds[nic] })) as never,
  );
  redirector.handedOver();
  return attachment;
}

describe.runIf(hasQemu)('the frames of a running QEMU', () => {
  let machine: RunningGuest;
  let monitor: QmpClient;
  let wire: Wire;
  const netdevs = ['n0', 'n1'];
  const lasts: (() => unknown)[] = [];

  beforeAll(async () => {
    machine = await startGuest({
      memoryMib: 128,
      run: ['frames'],
      kernelArgs: [`romulus.modules=${VIRTIO_MODULES.join(',')}`, 'romulus.frames=400/200'],
      extraArgs: [
        ...wireNetdev('n0', 'wire0'),
        '-device',
        'virtio-net-pci,netdev=n0,id=nic0',
        '-netdev',
        'user,id=n1',
        '-device',
        'virtio-net-pci,netdev=n1,id=nic1',
      ],
    });
    lasts.push(() => machine.stop());
    monitor = await QmpClient.connect(machine.qmpPath, { timeoutMs: WAIT_MS });
    lasts.push(() => monitor.close());
    wire = await Wire.connect(join(machine.directory, 'wire0'));
    lasts.push(() => wire.close());
    await until('frames on the wire', () => wire.numbers.length > 10);
  }, 90_000);

  afterEach(async () => {
    await cleanUp();
    await removeFilters(monitor);
  });

  afterAll(async () => {
    for (const last of lasts.toReversed()) await last();
  });

  test('are held until their epoch is released, in order, and nothing of ours stays', async () => {
    const before = await traces(monitor);
    const { gate, redirector, lost } = await attach(monitor, netdevs, 'holding');
    expect(await hasFilters(monitor)).toBe(true);
    await sleep(100);
    const heldFrom = wire.last;
    await until('held frames', () => gate.counters.framesHeld > 50);
    expect(wire.last).toBe(heldFrom);

    await monitor.command('stop');
    const mark = drainFrames(redirector.tapId);
    await monitor.command('cont');
    gate.mark(1, mark);
    gate.release(1, yes);
    await until('the released frames', () => wire.last >= heldFrom + mark - 2);
    await sleep(100);
    // Frames of the kernel's own may be among those counted, never more of the numbered ones.
    expect(wire.last).toBeLessThanOrEqual(heldFrom + mark);

    gate.open();
    await until('frames again', () => wire.last > heldFrom + mark + 100);
    const through = wire.last;
    await redirector.flushed(1000);
    redirector.letGo();
    await removeFilters(monitor);
    redirector.close();
    expect(await traces(monitor)).toEqual(before);
    const here = wire.last;
    await until('frames without a filter', () => wire.last > here + 50);
    // Attaching to a living machine, holding and letting out lost no frame and turned none round.
    const numbers = wire.numbers.slice(0, wire.numbers.indexOf(through) + 1);
    expect(numbers).toEqual(numbers.map((_, index) => (numbers[0] ?? 0) + index));
    expect(lost).toEqual([]);
  });

  test('stay in QEMU while nobody lives to hold them, and are held again behind a new filter', async () => {
    const first = await attach(monitor, netdevs, 'open');
    const beforeDeath = wire.last;
    await until('frames through the filter', () => wire.last > beforeDeath + 20);
    first.redirector.close();
    await sleep(100);
    // Once QEMU has answered twice, it has said on the wire what it had been given, and we have read it.
    for (let turn = 0; turn < 2; turn += 1) await monitor.command('query-status');
    const closedAt = wire.last;
    await sleep(300);
    expect(wire.last).toBe(closedAt);

    const second = await attach(monitor, netdevs, 'holding');
    await until('held frames', () => second.gate.counters.framesHeld > 20);
    expect(wire.last).toBe(closedAt);
    second.gate.open();
    await until('frames', () => wire.last > closedAt);
    // What the guest said while nobody held it is gone.
    expect(wire.numbers[wire.numbers.indexOf(closedAt) + 1]).toBeGreaterThan(closedAt + 1);
  });

  test('are all here when the machine stands', async () => {
    const { redirector } = await attach(monitor, netdevs, 'open');
    for (let round = 0; round < 20; round += 1) {
      await monitor.command('stop');
      const mark = drainFrames(redirector.tapId);
      await sleep(10);
      expect(drainFrames(redirector.tapId)).toBe(mark);
      await monitor.command('cont');
      await sleep(20);
    }
  });

  test('are told of when QEMU closes a socket of ours', async () => {
    const { lost } = await attach(monitor, netdevs, 'open');
    await monitor.commandOutOfBand('yank', {
      instances: [{ type: 'chardev', id: 'romulus-c0' }],
    });
    await until('the loss', () => lost.length > 0);
    expect(lost[0]).toMatchObject({ code: 'ERR_NET_TAP_LOST' });
  });

  test('go on as before when QEMU refuses a filter', async () => {
    const before = await traces(monitor);
    await expect(attach(monitor, ['n0', 'no-such-netdev'], 'open')).rejects.toMatchObject({
      code: 'ERR_NET_FILTER',
    });
    expect(await traces(monitor)).toEqual(before);
    const here = wire.last;
    await until('frames', () => wire.last > here + 20);
  });

  test('stay in QEMU when a network that was closed cannot be taken over', async () => {
    const first = await attach(monitor, netdevs, 'open');
    first.redirector.close();
    await sleep(50);
    await expect(attach(monitor, ['n0', 'no-such-netdev'], 'open')).rejects.toMatchObject({
      code: 'ERR_NET_FILTER',
    });
    const closedAt = wire.last;
    await sleep(200);
    expect(wire.last).toBe(closedAt);
    const second = await attach(monitor, netdevs, 'open');
    await until('frames', () => wire.last > closedAt);
    await removeFilters(monitor);
    second.redirector.close();
  });
});

describe.runIf(hasQemu)('the filters', () => {
  test.each(versions)('attach to and leave QEMU $version', async ({ binary }) => {
    const machine = await startGuest({
      qemu: binary,
      memoryMib: 64,
      bootWait: false,
      extraArgs: ['-nic', 'user,model=virtio-net-pci', '-nic', 'user,model=e1000'],
    });
    cleanups.push(() => machine.stop());
    try {
      const monitor = await QmpClient.connect(machine.qmpPath, { timeoutMs: WAIT_MS });
      cleanups.push(() => monitor.close());
      const before = await traces(monitor);
      const text = await monitor.humanMonitor('info network');
      const found = [...text.matchAll(/\\ (\S+): index/g)].map(([, name]) => name ?? '');
      const { redirector } = await attach(monitor, found, 'open');
      expect(found).toHaveLength(2);
      const again = await attach(monitor, found, 'open');
      await removeFilters(monitor);
      again.redirector.close();
      redirector.close();
      expect(await traces(monitor)).toEqual(before);
    } finally {
      await cleanUp();
    }
  });
});

/** Runs QEMU in a network namespace of its own that has a tap. */
const IN_NAMESPACE = `#!/bin/sh
exec unshare -n sh -c 'ip tuntap add tap0 mode tap && ip link set tap0 up && exec "$0" "$@"' QEMU "$@"
`;

/** Frames that came out of the guest into the tap of its namespace. */
function framesOut(pid: number): number {
  const line = /^\s*tap0:\s*\d+\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/net/dev`, 'utf8'));
  return Number(line?.[1] ?? 0);
}

function mayMakeTaps(): boolean {
  const made = spawnSync('unshare', ['-n', 'ip', 'tuntap', 'add', 'tap0', 'mode', 'tap']);
  const why = made.error?.message ?? made.stderr.toString().trim();
  return requires('filters on a tap', made.status === 0, why);
}

describe.runIf(hasQemu && mayMakeTaps())('a tap', () => {
  test('carries what is let out, and nothing else', { timeout: 90_000 }, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'romulus-tap-'));
    cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
    const qemu = join(folder, 'qemu');
    writeFileSync(qemu, IN_NAMESPACE.replace('QEMU', await ensureQemu()), { mode: 0o755 });
    try {
      const machine = await startGuest({
        qemu,
        memoryMib: 128,
        run: ['frames'],
        kernelArgs: [`romulus.modules=${VIRTIO_MODULES.join(',')}`, 'romulus.frames=200/200'],
        extraArgs: [
          '-netdev',
          'tap,id=n0,ifname=tap0,script=no,downscript=no',
          '-device',
          'virtio-net-pci,netdev=n0',
        ],
      });
      cleanups.push(() => machine.stop());
      const monitor = await QmpClient.connect(machine.qmpPath, { timeoutMs: WAIT_MS });
      cleanups.push(() => monitor.close());
      const out = (): number => framesOut(machine.pid);
      await until('frames', () => out() > 10);
      const { gate, redirector, lost } = await attach(monitor, ['n0'], 'holding');
      await sleep(50);
      const here = out();
      await until('held frames', () => gate.counters.framesHeld > 40);
      expect(out()).toBe(here);
      gate.mark(1, 20);
      gate.release(1, yes);
      await until('the released frames', () => out() === here + 20);
      await sleep(100);
      expect(out()).toBe(here + 20);
      gate.open();
      await until('all frames', () => out() > here + 100);
      redirector.letGo();
      await removeFilters(monitor);
      const after = out();
      await until('frames without a filter', () => out() > after + 20);
      expect(lost).toEqual([]);
    } finally {
      await cleanUp();
    }
  });
});
