/**
 * Goal: a defect that ends a thread of a node does not end what the node protects. A machine that is
 * alone runs on and is heard, and a node started again holds it anew; one that has a copy is
 * succeeded by it. Method: an exception thrown into one thread of a real node, through its inspector.
 */
import { writeFileSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { VIRTIO_MODULES } from '../../src/drill/qemu/guest-image.ts';
import type { NodeProcess } from '../../src/drill/node-process.ts';
import { crashThread, INSPECTABLE } from '../support/crash-thread.ts';
import {
  exitCodeOf,
  killed,
  LuckStage,
  until,
  untilStatus,
  WAIT_MS,
} from '../support/qemu/luck-stage.ts';
import { requireQemu } from '../support/qemu/require-qemu.ts';
import { Wire, wireNetdev } from '../support/qemu/wire.ts';

const DISK_BYTES = 64 * 1024 * 1024;
const hasQemu = await requireQemu();

describe.runIf(hasQemu)('a node one of whose threads ends', { timeout: 4 * WAIT_MS }, () => {
  let stage: LuckStage;

  afterEach(async () => {
    await stage?.close();
  });

  /** A machine that says fifty numbered frames a second and writes to a disk, and the end of its wire. */
  async function start(): Promise<Wire> {
    stage = await LuckStage.open();
    const image = stage.path('a.img');
    writeFileSync(image, Buffer.alloc(DISK_BYTES));
    stage.netdevs.b['n0'] = `stream,server=on,addr.type=unix,addr.path=${stage.path('wire-b')}`;
    await stage.startMachine({
      run: ['frames', 'counter', 'disk'],
      kernelArgs: [
        `romulus.modules=${VIRTIO_MODULES.join()}`,
        'romulus.frames=50',
        'romulus.disk=30/8',
      ],
      extraArgs: [
        ...wireNetdev('n0', stage.path('wire-a')),
        '-device',
        'virtio-net-pci,netdev=n0,id=nic0',
        '-drive',
        `if=none,id=dr0,file=${image},format=raw`,
        '-device',
        'virtio-blk-pci,drive=dr0,id=vd0',
      ],
    });
    const wire = await stage.wireAt('wire-a');
    await wire.speaks();
    return wire;
  }

  const protect = (): NodeProcess => stage.startNode('a', 'protect', { launcher: INSPECTABLE });
  const backUp = (): NodeProcess =>
    stage.startNode('b', 'backup', {
      launcher: INSPECTABLE,
      drives: { dr0: stage.path('b.img') },
    });

  /** The guest writes to its disk, and finds there what it wrote. */
  async function writesOn(side: 'a' | 'b'): Promise<void> {
    expect(await stage.diskComplaints(side)).toEqual([]);
  }

  it.each(['capture', 'heartbeat'])('lets a machine that is alone go: %s', async (thread) => {
    const wire = await start();
    const user = await stage.userMonitor();
    const filters = async (): Promise<string[]> => {
      const objects = (await user.command('qom-list', { path: '/objects' })) as { name: string }[];
      return objects.map(({ name }) => name).filter((name) => name.startsWith('romulus-'));
    };
    const first = protect();
    await untilStatus(first, 'attachment', ({ state }) => state === 'unprotected');
    await wire.speaks();
    expect(await filters()).toEqual(['romulus-nf0']);

    await crashThread(first.child, thread);
    expect(await exitCodeOf(first)).toBe(1);
    expect(stage.logOf(first.child)).toContain('a defect, for a test');
    await until('an open network', async () => (await filters()).length === 0);
    await wire.speaks();
    expect(await user.command('query-status')).toMatchObject({ status: 'running' });

    const second = protect();
    backUp();
    await untilStatus(second, 'protection', ({ state }) => state === 'protected');
    await wire.speaks();
    await writesOn('a');
    expect(await filters()).toEqual(['romulus-nf0']);
  });

  it('is succeeded by the copy of a machine that has one', async () => {
    const wireA = await start();
    const a = protect();
    const b = backUp();
    await untilStatus(a, 'protection', ({ state }) => state === 'protected');
    await wireA.speaks();
    await crashThread(a.child, 'capture');
    await untilStatus(b, 'a takeover', ({ role }) => role === 'primary');
    const wireB = await stage.wireAt('wire-b');
    await wireB.speaks();
    expect(wireB.numbers[0]).toBeGreaterThan(wireA.last);
    // The node of the crash has a machine no more, and follows.
    await untilStatus(a, 'its new role', ({ role }) => role === 'backup');
  });

  it.each([
    ['a', 'disk'],
    ['b', 'apply'],
    ['b', 'heartbeat'],
  ] as const)('protects again without being started again: %s, %s', async (side, thread) => {
    const wireA = await start();
    const nodes = { a: protect(), b: backUp() };
    await untilStatus(nodes.a, 'protection', ({ state }) => state === 'protected');
    const crashed = nodes[side].child;
    await crashThread(crashed, thread);
    await until('its last words', () => stage.logOf(crashed).includes('a defect, for a test'));
    // Without its heartbeats a backup is a backup still.
    if (thread !== 'heartbeat')
      await untilStatus(nodes.a, 'the outage', ({ state }) => state !== 'protected');
    await untilStatus(nodes.a, 'protection', ({ state }) => state === 'protected');
    await wireA.speaks();
    await writesOn('a');
    // The copy can take over, and notices that it must.
    await killed(nodes.a.child);
    await untilStatus(nodes.b, 'a takeover', ({ role }) => role === 'primary');
    await (await stage.wireAt('wire-b')).speaks();
    await writesOn('b');
  });
});
