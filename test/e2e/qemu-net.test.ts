/**
 * Goal: what a protected QEMU says on its network leaves when its epoch is safe and not before; an
 * engine that dies leaves the network closed, and one started again opens it by right. Method: a
 * guest that sends numbered frames, and the far ends of both machines' wires: a number that was heard
 * on one side must never be said again by the other.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import type { Child } from '../../src/drill/children.ts';
import { VIRTIO_MODULES } from '../../src/drill/qemu/guest-image.ts';
import type { NodeProcess } from '../../src/drill/node-process.ts';
import { killed, LuckStage, until, untilStatus, WAIT_MS } from '../support/qemu/luck-stage.ts';
import { requireQemu } from '../support/qemu/require-qemu.ts';
import { Wire, wireNetdev } from '../support/qemu/wire.ts';

const hasQemu = await requireQemu();
/** Longer than any epoch here: who is silent for so long is closed. */
const SILENCE_MS = 1500;

describe.runIf(hasQemu)('the network of a protected QEMU', { timeout: 4 * WAIT_MS }, () => {
  let stage: LuckStage;

  afterEach(async () => {
    await stage?.close();
  });

  /** A machine that says fifty numbered frames a second, and the end of its wire. */
  async function start(): Promise<{ wireA: Wire; machine: Child }> {
    stage = await LuckStage.open();
    stage.netdevs.b['n0'] = `stream,server=on,addr.type=unix,addr.path=${stage.path('wire-b')}`;
    stage.netdevs.a['n0'] = `stream,server=on,addr.type=unix,addr.path=${stage.path('wire-a2')}`;
    const machine = await stage.startMachine({
      run: ['frames', 'counter'],
      kernelArgs: [`romulus.modules=${VIRTIO_MODULES.join()}`, 'romulus.frames=50'],
      extraArgs: [
        ...wireNetdev('n0', stage.path('wire-a')),
        '-device',
        'virtio-net-pci,netdev=n0,id=nic0',
      ],
    });
    const wireA = await stage.wireAt('wire-a');
    await until('frames on the wire', () => wireA.last > 5);
    return { wireA, machine };
  }

  async function isSilent(wire: Wire): Promise<boolean> {
    await sleep(100);
    const here = wire.last;
    await sleep(SILENCE_MS);
    return wire.last === here;
  }

  async function protect(): Promise<{ a: NodeProcess; b: NodeProcess }> {
    const a = stage.startNode('a', 'protect');
    const b = stage.startNode('b', 'backup');
    await untilStatus(a, 'protection', ({ state }) => state === 'protected');
    return { a, b };
  }

  it('says nothing twice when its machine dies, and goes on held on the other side', async () => {
    const { wireA, machine } = await start();
    const { a, b } = await protect();
    const from = wireA.last;
    await until('epochs', () => wireA.last > from + 50);
    expect(a.progress?.outputHold).toBe('all');
    expect(a.progress?.outputReleasedFrames).toBeGreaterThan(20);
    expect(a.progress?.outputDelayMs.p50).toBeGreaterThan(0);
    // Attaching, holding and letting out lost nothing and turned nothing round.
    expect(wireA.numbers).toEqual(wireA.numbers.map((_, index) => (wireA.numbers[0] ?? 0) + index));

    const wireB = await stage.wireAt('wire-b');
    await killed(machine);
    await untilStatus(b, 'a takeover', ({ role }) => role === 'primary');
    await wireB.speaks();
    expect(wireB.numbers[0]).toBeGreaterThan(wireA.last);
    // The promoted machine is held as well, now that somebody can be told of it.
    await until('its filter', () => (b.progress?.outputReleasedFrames ?? 0) > 0);
  });

  it('stays closed when its engine dies alone', async () => {
    const { wireA } = await start();
    const { a, b } = await protect();
    const user = await stage.userMonitor();
    await until('frames', () => wireA.last > 30);
    a.child.process.kill('SIGKILL');
    await a.child.gone;
    await sleep(200);
    // Once QEMU has answered twice, it has said on the wire what it had been given, and we have read it.
    for (let turn = 0; turn < 2; turn += 1) await user.command('query-status');
    const lastOfA = wireA.last;
    await untilStatus(b, 'a takeover', ({ role }) => role === 'primary');
    const wireB = await stage.wireAt('wire-b');
    await wireB.speaks();
    expect(wireA.last).toBe(lastOfA);
    expect(wireB.numbers[0]).toBeGreaterThan(lastOfA);
  });

  it('is opened by the guardian of an engine that ran alone, and held by the next one', async () => {
    const { wireA } = await start();
    const user = await stage.userMonitor();
    const filters = async (): Promise<string[]> => {
      const objects = (await user.command('qom-list', { path: '/objects' })) as { name: string }[];
      return objects.map(({ name }) => name).filter((name) => name.startsWith('romulus-'));
    };
    const first = stage.startNode('a', 'protect');
    await untilStatus(first, 'attachment', ({ state }) => state === 'unprotected');
    await wireA.speaks();
    expect(await filters()).toEqual(['romulus-nf0']);
    first.child.process.kill('SIGKILL');
    await first.child.gone;
    await until('an open network', async () => (await filters()).length === 0);
    await wireA.speaks();

    const second = stage.startNode('a', 'protect');
    await untilStatus(second, 'attachment', ({ state }) => state === 'unprotected');
    await wireA.speaks();
    expect(await filters()).toEqual(['romulus-nf0']);

    // Somebody breaks our sockets: closed at once, attached to anew, open again.
    await user.command('yank', { instances: [{ type: 'chardev', id: 'romulus-c0' }] });
    await wireA.speaks();
    expect(second.child.isGone()).toBe(false);

    second.child.process.kill('SIGTERM');
    await second.child.gone;
    expect(await filters()).toEqual([]);
    await wireA.speaks();
  });

  it('is freed of a frozen engine, and held again when it wakes', async () => {
    const { wireA } = await start();
    const node = stage.startNode('a', 'protect');
    await untilStatus(node, 'attachment', ({ state }) => state === 'unprotected');
    await wireA.speaks();
    node.child.process.kill('SIGSTOP');
    // Closed, but the guest goes on: nothing in it waits for us.
    expect(await isSilent(wireA)).toBe(true);
    const said = stage.consoleOf('a').lines.length;
    await until('the guest', () => stage.consoleOf('a').lines.length > said + 50);
    node.child.process.kill('SIGCONT');
    await wireA.speaks();
    expect(node.child.isGone()).toBe(false);
  });
});
