/**
 * Goal: whatever is wrong with disks, it is told clearly, the guest goes on writing, and no copy runs
 * that must not.
 * Method: real nodes and a real QEMU, whose guest writes to its disk and checks it all the time.
 */
import { existsSync, readFileSync, truncateSync, writeFileSync, mkdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { VIRTIO_MODULES } from '../../src/drill/qemu/guest-image.ts';
import type { QmpClient } from '../../src/guests/qemu/qmp/qmp-client.ts';
import {
  killed,
  LuckStage,
  type Side,
  until,
  untilStatus,
  WAIT_MS,
} from '../support/qemu/luck-stage.ts';
import { requireQemu } from '../support/qemu/require-qemu.ts';
import { requireRoot } from '../support/require.ts';

const hasQemu = await requireQemu();
const isRoot = requireRoot('tests that mount a tmpfs');
const MIB = 1024 * 1024;
const DISK_BYTES = 64 * MIB;

describe.runIf(hasQemu)('disks in trouble', { timeout: 4 * WAIT_MS }, () => {
  let stage: LuckStage;
  let image: string;
  let replica: string;
  beforeEach(async () => {
    stage = await LuckStage.open();
    image = stage.path('a.img');
    replica = stage.path('b.img');
    writeFileSync(image, '');
    truncateSync(image, DISK_BYTES);
  });
  afterEach(() => stage.close());

  const start = (run: string[], settings: string): ReturnType<LuckStage['startMachine']> =>
    stage.startMachine({
      run,
      kernelArgs: [`romulus.modules=${VIRTIO_MODULES.join()}`, settings],
      extraArgs: [
        '-drive',
        `if=none,id=dr0,file=${image},format=raw`,
        '-device',
        'virtio-blk-pci,drive=dr0,id=vd0',
      ],
    });

  async function writesOn(side: Side): Promise<void> {
    expect(await stage.diskComplaints(side)).toEqual([]);
  }

  async function traces(user: QmpClient): Promise<string[]> {
    const nodes = (await user.command('query-named-block-nodes')) as { 'node-name': string }[];
    const jobs = (await user.command('query-block-jobs')) as { device: string }[];
    return [...nodes.map((node) => node['node-name']), ...jobs.map(({ device }) => device)].filter(
      (name) => name.startsWith('romulus'),
    );
  }

  it('a replica of another size, or none agreed on, is refused before anything is touched', async () => {
    await start(['disk'], 'romulus.disk=200/8');
    const user = await stage.userMonitor();
    const a = stage.startNode('a', 'protect');
    writeFileSync(replica, Buffer.alloc(4096, 7));
    const small = stage.startNode('b', 'backup', { drives: { dr0: replica } });
    const said =
      /the replica .* has 4096 bytes, the primary's disk 67108864 \[disk-size\]\. Name another file/;
    await untilStatus(a, 'the reason', ({ why }) => said.test(why));
    await killed(small.child);
    expect(readFileSync(replica).equals(Buffer.alloc(4096, 7))).toBe(true);

    const other = stage.startNode('b', 'backup', {
      drives: { dr0: stage.path('other.img') },
      extra: ['--disk', 'none'],
    });
    await untilStatus(a, 'the mode', ({ why }) => /\[disk-mode\]/.test(why));
    await killed(other.child);
    expect(existsSync(stage.path('other.img'))).toBe(false);
    const lost = stage.startNode('b', 'backup');
    await untilStatus(a, 'the mapping', ({ why }) =>
      /id=dr0.* needs its copy here \[mapping\]/.test(why),
    );
    await killed(lost.child);
    expect(await traces(user)).toEqual([]);
    await writesOn('a');
  });

  it('a machine whose disk is being copied by somebody else is refused', async () => {
    await start(['disk'], 'romulus.disk=200/8');
    const user = await stage.userMonitor();
    await user.command('blockdev-add', {
      driver: 'null-co',
      'node-name': 'nowhere',
      size: DISK_BYTES,
    });
    await user.command('blockdev-mirror', {
      'job-id': 'theirs',
      device: 'dr0',
      target: 'nowhere',
      sync: 'full',
    });
    const ended = await stage.run(stage.nodeArgs('a', 'protect'));
    expect(ended.code).toBe(1);
    expect(ended.stderr).toMatch(/the block job 'theirs': .*\[disk-job\]/);
    await writesOn('a');
  });

  it.runIf(isRoot)('a full or failing replica costs the image, and nothing else', async () => {
    await start(['disk'], 'romulus.disk=30/60');
    const tmpfs = stage.path('tmpfs');
    mkdirSync(tmpfs);
    await stage.runHelper(['mount', '-t', 'tmpfs', '-o', 'size=66M', 'none', tmpfs]);
    try {
      const drives = { dr0: `${tmpfs}/b.img` };
      const a = stage.startNode('a', 'protect');
      const b = stage.startNode('b', 'backup', { drives });
      await untilStatus(a, 'protection', ({ state }) => state === 'protected');
      await stage.runHelper(['dd', 'if=/dev/zero', `of=${tmpfs}/fill`, 'bs=64k']);
      await until('the loss', () => stage.logOf(b.child).includes('ERR_DISK_FULL'));
      await untilStatus(
        a,
        'the outage',
        ({ state }) => !['protected', 'backlogged'].includes(state),
      );
      await writesOn('a');
      // It does not synchronise in a circle, as fast as it can.
      await untilStatus(a, 'the reason', ({ why }) => /disk-room|no room|cannot hold/.test(why));
      await stage.runHelper(['rm', `${tmpfs}/fill`]);
      await untilStatus(a, 'protection', ({ state }) => state === 'protected');
      await writesOn('a');

      // From now on the kernel refuses what that process writes behind the first MiB of any file.
      const limit = (bytes: string): Promise<string> =>
        stage.runHelper(['prlimit', `--pid=${b.child.pid}`, `--fsize=${bytes}:`]);
      expect(await limit(String(MIB))).toBe('');
      const reason =
        /cannot write to the disk's replica: EFBIG.*Check the storage under the replica/s;
      await until('the reason', () =>
        a.events.some(
          ({ event }) =>
            event.event === 'state' && event.state === 'unprotected' && reason.test(event.why),
        ),
      );
      expect(b.events.map(({ event }) => event)).toContainEqual(
        expect.objectContaining({
          event: 'error',
          code: 'ERR_DISK_WRITE',
          remedy: expect.stringMatching(/^Check the storage/) as string,
        }),
      );
      expect(b.progress?.role).toBe('backup');
      await writesOn('a');
      expect(await limit('unlimited')).toBe('');
      await untilStatus(a, 'protection', ({ state }) => state === 'protected');
      await writesOn('a');
      await killed(b.child);
    } finally {
      await stage.runHelper(['umount', '-l', tmpfs]);
    }
  });

  it('an engine that is killed leaves a guest that writes; another one cleans up and protects it', async () => {
    const machine = await start(['disk'], 'romulus.disk=200/8');
    const user = await stage.userMonitor();
    let a = stage.startNode('a', 'protect', { drives: { dr0: image } });
    let b = stage.startNode('b', 'backup', { drives: { dr0: replica } });
    await untilStatus(a, 'protection', ({ state }) => state === 'protected');
    await killed(b.child);
    await untilStatus(a, 'an outage', ({ state }) => state === 'unprotected');
    await killed(a.child);
    await writesOn('a');
    expect(await user.command('query-status')).toMatchObject({ status: 'running' });
    expect(await traces(user)).not.toEqual([]);
    a = stage.startNode('a', 'protect', { drives: { dr0: image } });
    await until('a clean machine', async () => (await traces(user)).length === 0);
    b = stage.startNode('b', 'backup', { drives: { dr0: replica } });
    await untilStatus(a, 'protection', ({ state }) => state === 'protected');
    await writesOn('a');
    await killed(machine);
    await untilStatus(b, 'the copy', ({ role }) => role === 'primary');
    await writesOn('b');
  });

  it('shared disks: no copy starts before the other side is fenced', async () => {
    const machine = await start(['counter'], 'romulus.counter=10');
    const said = stage.path('fenced');
    const isMended = stage.path('mended');
    const fence = `echo "$ROMULUS_GUEST $ROMULUS_PEER $ROMULUS_GENERATION" >> ${said}; test -e ${isMended}`;
    const extra = ['--disk', 'shared', '--fence', fence];
    const refused = await stage.run([...stage.nodeArgs('a', 'protect'), '--disk', 'shared']);
    expect(refused.code).toBe(2);
    expect(refused.stderr).toContain('two machines writing to one disk ruin it');
    const a = stage.startNode('a', 'protect', { extra });
    const b = stage.startNode('b', 'backup', { extra });
    await untilStatus(a, 'protection', ({ state }) => state === 'protected');
    expect(a.progress).toMatchObject({ diskMode: 'shared', diskCount: 0 });
    await killed(machine);
    await until('a fence', () => existsSync(said));
    await untilStatus(b, 'the failure', ({ why }) => why.includes('the fence failed'));
    expect(b.events.map(({ event }) => event)).toContainEqual(
      expect.objectContaining({ event: 'error', code: 'ERR_FENCED_FENCE' }),
    );
    const here = stage.consoleOf('b').lines.length;
    await sleep(1000);
    expect(stage.consoleOf('b').lines.length).toBe(here);
    writeFileSync(isMended, '');
    const forced = await stage.run(['promote', '--force', '--state-dir', stage.stateOf('b')]);
    expect(forced.code, forced.stderr).toBe(0);
    await untilStatus(b, 'the copy', ({ role }) => role === 'primary');
    await stage.consoleOf('b').waitFor('more', (text) => text.startsWith('c '), {
      withinMs: WAIT_MS,
      after: here,
    });
    expect(readFileSync(said, 'utf8').trim().split('\n')).toHaveLength(2);
    expect(readFileSync(said, 'utf8')).toMatch(/^qemu a [1-9]\d*\n/);
  });
});
