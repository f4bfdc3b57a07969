/**
 * Goal: what a guest wrote to its disks is there after a failover, to the last write that anybody was
 * told of, and no write that should not be.
 * Method: real nodes, a real QEMU whose guest writes to its disk all the time and knows what must be
 * on it, a second disk; kills; and the replica's file beside the guest's own view.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, readSync, statSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { compareDisks } from '../../src/disks/replica.ts';
import type { Child } from '../../src/drill/children.ts';
import type { NodeProcess } from '../../src/drill/node-process.ts';
import { VIRTIO_MODULES } from '../../src/drill/qemu/guest-image.ts';
import { killed, LuckStage, type Side, untilStatus, WAIT_MS } from '../support/qemu/luck-stage.ts';
import { requireQemu } from '../support/qemu/require-qemu.ts';

const hasQemu = await requireQemu();
const MIB = 1024 * 1024;
const KERNEL_ARGS = [
  'romulus.pattern=8/50',
  `romulus.modules=${VIRTIO_MODULES.join()}`,
  'romulus.disk=200/8',
];

describe.runIf(hasQemu)('the disks of a protected QEMU', { timeout: 4 * WAIT_MS }, () => {
  let stage: LuckStage;
  beforeEach(async () => {
    stage = await LuckStage.open();
  });
  afterEach(() => stage.close());

  const startWriting = (extraArgs: readonly string[]): Promise<Child> =>
    stage.startMachine({ run: ['disk'], kernelArgs: KERNEL_ARGS, extraArgs });

  /** The guest's own checker goes on writing, and found nothing wrong so far. */
  async function writesOn(side: Side): Promise<void> {
    expect(await stage.diskComplaints(side)).toEqual([]);
  }

  const protectedAt = (node: NodeProcess): Promise<void> =>
    untilStatus(node, 'protection', ({ state }) => state === 'protected');
  const primaryAt = (node: NodeProcess): Promise<void> =>
    untilStatus(node, 'the copy', ({ role }) => role === 'primary');

  /** Where two images first differ, from some byte on; -1: nowhere. */
  function difference(pathA: string, pathB: string, from = 0): number {
    const [a, b] = [openSync(pathA, 'r'), openSync(pathB, 'r')];
    try {
      const { size } = statSync(pathB);
      const rest = (fd: number): Buffer => {
        const bytes = Buffer.alloc(size - from);
        readSync(fd, bytes, 0, bytes.byteLength, from);
        return bytes;
      };
      return from === 0 ? compareDisks(a, b, size) : rest(a).equals(rest(b)) ? -1 : from;
    } finally {
      closeSync(a);
      closeSync(b);
    }
  }

  it('hold every write, raw and qcow2, over two failovers', async () => {
    const raw = stage.path('a-raw.img');
    const qcow2 = stage.path('a.qcow2');
    const odd = 24 * MIB + 512;
    writeFileSync(raw, randomBytes(odd));
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', qcow2, String(10 * MIB + 512)]);
    const machine = await startWriting([
      '-object',
      'iothread,id=io0',
      '-blockdev',
      `driver=file,node-name=file0,filename=${qcow2}`,
      '-blockdev',
      'driver=qcow2,node-name=disk0,file=file0,l2-cache-size=1048576',
      '-device',
      'virtio-blk-pci,drive=disk0,id=vd0,iothread=io0',
      '-drive',
      `if=none,id=dr1,file=${raw},format=raw,discard=unmap`,
      '-device',
      'virtio-blk-pci,drive=dr1,id=vd1',
    ]);
    await writesOn('a');
    const drives = { disk0: stage.path('b0.img'), dr1: stage.path('b1.img') };
    const a = stage.startNode('a', 'protect', {
      drives: { disk0: stage.path('a0-again.img'), dr1: raw },
    });
    const b = stage.startNode('b', 'backup', { drives, extra: ['--disk-sync', '8'] });
    await protectedAt(a);
    expect(a.progress).toMatchObject({ diskMode: 'replicate', diskCount: 2 });
    await writesOn('a');
    await killed(machine);
    await primaryAt(b);
    await writesOn('b');
    expect(statSync(drives.disk0).size).toBe(10 * MIB + 512);
    expect(difference(raw, drives.dr1)).toBe(-1);
    // The node whose machine was killed follows; its old raw disk becomes the replica.
    await protectedAt(b);
    await writesOn('b');
    process.kill(stage.machineOf('b').pid, 'SIGKILL');
    await primaryAt(a);
    await writesOn('a');
    expect(difference(raw, drives.dr1)).toBe(-1);
  });

  it.each(['raw', 'qcow2'])(
    'are sent again as far as they changed, when the backup was away: %s',
    async (format) => {
      const raw = stage.path('a.img');
      const image = format === 'raw' ? raw : stage.path('a.qcow2');
      const convert = (from: string, to: string): void => {
        if (format === 'qcow2')
          execFileSync(
            'qemu-img',
            ['convert', '-f', from, '-O', to].concat(from === 'raw' ? [raw, image] : [image, raw]),
          );
      };
      writeFileSync(raw, randomBytes(64 * MIB));
      convert('raw', 'qcow2');
      const drive = `if=none,id=dr0,file=${image},format=${format},cache=none`;
      const device = 'logical_block_size=4096,physical_block_size=4096';
      const machine = await startWriting([
        '-drive',
        drive,
        '-device',
        `virtio-blk-pci,drive=dr0,id=vd0,${device}`,
      ]);
      const replica = stage.path('b.img');
      const a = stage.startNode('a', 'protect', { drives: { dr0: stage.path('a-again.img') } });
      const b = stage.startNode('b', 'backup', { drives: { dr0: replica } });
      await protectedAt(a);
      const sent = (): { since: number | null; totalBytes: number }[] =>
        stage
          .logOf(a.child)
          .split('\n')
          .filter((line) => line.includes('the disks are sent'))
          .map((line) => JSON.parse(line) as { since: number | null; totalBytes: number });
      expect(sent()).toMatchObject([{ since: null, totalBytes: 64 * MIB }]);
      for (let outage = 1; outage <= 2; outage += 1) {
        b.child.process.kill('SIGSTOP');
        await untilStatus(a, 'an outage', ({ state }) => state === 'unprotected');
        await writesOn('a');
        b.child.process.kill('SIGCONT');
        await protectedAt(a);
        const again = sent()[outage];
        expect(again?.since).toBeGreaterThan(0);
        // The guest writes to the first eighth.
        expect(again?.totalBytes).toBeLessThanOrEqual(8 * MIB);
        expect(a.progress).toMatchObject({ diskWaitingBytes: expect.any(Number) });
      }
      await writesOn('a');
      await killed(machine);
      await primaryAt(b);
      await writesOn('b');
      // What was never written again came with the first copy.
      convert('qcow2', 'raw');
      expect(difference(raw, replica, 8 * MIB)).toBe(-1);
    },
  );
});
