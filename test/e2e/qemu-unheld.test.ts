/**
 * Goal: a machine whose output QEMU's filters cannot hold is refused before anything is touched, with
 * what to do about it; and where it is declared that nothing is held, and that no disk is copied, the
 * machine is protected all the same, visibly so, and fails over.
 * Method: a real QEMU with a tap of two queues and a disk, in a network namespace that ends with it.
 * (One with vhost needs /dev/vhost-net, which a virtual host may lack: test/guests/qemu/profile.)
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { VIRTIO_MODULES } from '../../src/drill/qemu/guest-image.ts';
import { ensureQemu } from '../../src/drill/qemu/qemu-versions.ts';
import type { QmpClient } from '../../src/guests/qemu/qmp/qmp-client.ts';
import { killed, LuckStage, until, untilStatus, WAIT_MS } from '../support/qemu/luck-stage.ts';
import { requireHosts, requireQemu } from '../support/qemu/require-qemu.ts';

const isPossible = (await requireQemu()) && (await requireHosts());
const DISK_BYTES = 1024 * 1024;

/** Runs QEMU where there is a tap of several queues. */
const IN_NAMESPACE = `#!/bin/sh
exec unshare -n sh -c 'ip tuntap add tap0 mode tap multi_queue && ip link set tap0 up && exec "$0" "$@"' QEMU "$@"
`;

/** Frames that came out of the guest into the tap of its namespace. */
function framesOut(pid: number): number {
  const line = /^\s*tap0:\s*\d+\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/net/dev`, 'utf8'));
  return Number(line?.[1] ?? 0);
}

describe.runIf(isPossible)('a machine whose output cannot be held', () => {
  let stage: LuckStage;

  afterEach(() => stage.close());

  /** Whatever could be seen of us in a QEMU. */
  async function traces(user: QmpClient): Promise<string[]> {
    const objects = (await user.command('qom-list', { path: '/objects' })) as { name: string }[];
    const chardevs = (await user.command('query-chardev')) as { label: string }[];
    const nodes = (await user.command('query-named-block-nodes')) as { 'node-name': string }[];
    const jobs = (await user.command('query-block-jobs')) as { device: string }[];
    return [
      ...objects.map(({ name }) => name),
      ...chardevs.map(({ label }) => label),
      ...nodes.map((node) => node['node-name']),
      ...jobs.map(({ device }) => device),
    ].filter((name) => name.startsWith('romulus'));
  }

  it('is refused, and protected where that is declared on both nodes', {
    timeout: 4 * WAIT_MS,
  }, async () => {
    stage = await LuckStage.open();
    const qemu = stage.path('qemu');
    writeFileSync(qemu, IN_NAMESPACE.replace('QEMU', await ensureQemu()), { mode: 0o755 });
    const [imageA, imageB] = [stage.path('a.img'), stage.path('b.img')];
    writeFileSync(imageA, Buffer.alloc(DISK_BYTES));
    writeFileSync(imageB, Buffer.alloc(DISK_BYTES, 7));
    const machine = await stage.startMachine({
      qemu,
      run: ['frames', 'counter'],
      kernelArgs: [`romulus.modules=${VIRTIO_MODULES.join()}`, 'romulus.frames=50'],
      extraArgs: [
        '-netdev',
        'tap,id=n0,ifname=tap0,script=no,downscript=no,queues=2',
        '-device',
        'virtio-net-pci,netdev=n0,id=nic0,mq=on,vectors=6',
        '-drive',
        `if=none,id=dr0,file=${imageA},format=raw`,
        '-device',
        'virtio-blk-pci,drive=dr0,id=vd0',
      ],
    });
    const user = await stage.userMonitor();
    await until('frames', () => framesOut(machine.pid) > 10);

    const refused = await stage.run([...stage.nodeArgs('a', 'protect'), '--disk', 'none']);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/-netdev n0: .*several queues \[net-queues\].*without queues=/s);
    expect(await traces(user)).toEqual([]);
    expect(await user.command('query-status')).toMatchObject({ status: 'running' });

    const extra = ['--net', 'hold=none', '--disk', 'none'];
    const a = stage.startNode('a', 'protect', { extra });
    const b = stage.startNode('b', 'backup', {
      extra: [...extra, '--qemu', qemu],
      drives: { dr0: imageB },
    });
    await untilStatus(a, 'protection', ({ state }) => state === 'protected');
    expect(a.progress).toMatchObject({ outputHold: 'none', diskMode: 'none', diskCount: 0 });
    expect(stage.logOf(a.child)).toContain('connections may have seen output that is lost');
    const status = await stage.run(['status', '--state-dir', stage.stateOf('a')]);
    expect(status.stdout).toMatch(/\boutput +NOT HELD/);
    expect(status.stdout).toMatch(/\bdisk +none: nothing is copied/);
    expect(await traces(user)).toEqual([]);
    const here = framesOut(machine.pid);
    await until('frames', () => framesOut(machine.pid) > here + 10);

    await killed(machine);
    await untilStatus(b, 'a takeover', ({ role }) => role === 'primary');
    const copy = stage.machineOf('b').pid;
    await until('frames of the copy', () => framesOut(copy) > 10);
    const said = stage.consoleOf('b').lines.map(({ text }) => text);
    expect(said.filter((text) => /BAD|^!/.test(text))).toEqual([]);
    await untilStatus(
      b,
      'what was declared',
      (s) => s.outputHold === 'none' && s.diskMode === 'none',
    );
    // What is on its disk is what was put there.
    expect(readFileSync(imageB).equals(Buffer.alloc(DISK_BYTES, 7))).toBe(true);
  });
});
