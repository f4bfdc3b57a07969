/** Goal: a replica made of what a real QEMU mirrored equals the machine's disk at every boundary. */
import { execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { randomBytes } from 'node:crypto';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BEAT_MS, makeWatchedServer, WatchedConnections } from '../../src/disks/nbd/watchdog.ts';
import { writesReceived } from '../../src/native/disk-intake.ts';
import { DiskRig } from '../support/qemu/disk-rig.ts';
import { requireQemu } from '../support/qemu/require-qemu.ts';

const hasQemu = await requireQemu();

const TEST_MS = 120_000;
const MIB = 1024 * 1024;

describe.skipIf(!hasQemu)('the disks of a real QEMU', () => {
  let rig: DiskRig;
  beforeEach(() => {
    rig = new DiskRig();
  });
  afterEach(() => rig.close());

  it.each([
    { how: 'through QEMU', readsFirst: false },
    { how: 'one of them from its file', readsFirst: true },
  ])(
    'are followed, read $how: two disks, an iothread, 4 KiB sectors, an odd size, TRIM',
    async ({ readsFirst }) => {
      const first = rig.path('first.raw');
      const second = rig.path('second.raw');
      writeFileSync(first, randomBytes(12 * MIB + 3 * 4096));
      writeFileSync(second, randomBytes(3 * MIB + 512));
      const sectors = 'logical_block_size=4096,physical_block_size=4096';
      await rig.boot([
        '-object',
        'iothread,id=io0',
        '-drive',
        `if=none,id=dr0,file=${first},format=raw,discard=unmap`,
        '-device',
        `virtio-blk-pci,drive=dr0,id=vd0,iothread=io0,${sectors}`,
        '-drive',
        `if=none,id=dr1,file=${second},format=raw`,
        '-device',
        'virtio-blk-pci,drive=dr1,id=vd1',
      ]);
      const disks = await rig.attach({
        disks: [
          { name: 'vd0', file: readsFirst ? { path: first, format: 'raw' } : null },
          { name: 'dr1', file: null },
        ],
        baseHighBytes: MIB,
        baseLowBytes: 4096,
      });
      await rig.copyBase(disks);
      const writes = await rig.runEpochs(disks, 50, () => {
        expect(rig.difference(first)).toBe(-1);
        expect(rig.difference(second, 1)).toBe(-1);
      });
      expect(writes).toBeGreaterThan(50);
      await disks.detach();
      expect(await rig.traces()).toEqual([]);
      expect(existsSync(rig.path('nbd.sock'))).toBe(false);
      expect(rig.losses).toEqual([]);
      await rig.expectWriting();
    },
    TEST_MS,
  );

  it(
    'are followed: qcow2; after an overrun and after somebody ended the mirror, anew',
    async () => {
      const image = rig.qcow2Image(8 * MIB + 512);
      await rig.boot([
        '-blockdev',
        `driver=file,node-name=file0,filename=${image}`,
        '-blockdev',
        'driver=qcow2,node-name=disk0,file=file0',
        '-device',
        'virtio-blk-pci,drive=disk0,id=vd0',
      ]);
      // What waits and is never taken runs over; the guest does not notice.
      const overrun = await rig.attach({ waitingBytesMax: 9 * MIB });
      await rig.copyBase(overrun);
      await expect
        .poll(() => rig.losses[0]?.code, { timeout: 60_000 })
        .toBe('ERR_LIMIT_DISK_BACKLOG');
      await rig.expectWriting();

      await overrun.detach();
      rig.losses = [];
      const ended = await rig.attach();
      await rig.copyBase(ended);
      // Standing: some QEMUs do not survive this while the guest writes.
      await rig.monitor.command('stop');
      await rig.monitor.command('job-cancel', { id: 'romulus-m0' });
      await expect.poll(() => rig.losses[0]?.code, { timeout: 10_000 }).toMatch(/^ERR_DISK_/);
      await rig.monitor.command('cont');
      expect(() => ended.take(1, 0)).toThrow(
        expect.objectContaining({ code: rig.losses[0]?.code }),
      );
      await ended.detach();
      expect(await rig.traces()).toEqual([]);

      rig.losses = [];
      const disks = await rig.attach();
      await rig.copyBase(disks);
      const copy = rig.path('copy.raw');
      await rig.runEpochs(disks, 25, () => {
        const convert = ['convert', '-U', '-f', 'qcow2', '-O', 'raw', image, copy];
        execFileSync('qemu-img', convert);
        expect(rig.difference(copy)).toBe(-1);
      });
      await disks.detach();
      expect(rig.losses).toEqual([]);
      await rig.expectWriting();
    },
    TEST_MS,
  );

  it(
    'are let go of while the guest writes, time and again, without harm to QEMU',
    async () => {
      const image = rig.qcow2Image(8 * MIB);
      await rig.boot([
        '-blockdev',
        `driver=file,node-name=file0,filename=${image}`,
        '-blockdev',
        'driver=qcow2,node-name=disk0,file=file0',
        '-device',
        'virtio-blk-pci,drive=disk0,id=vd0',
      ]);
      for (let round = 0; round < 30; round += 1) {
        const disks = await rig.attach();
        // In the middle of the first copy, and after it.
        if (round % 2 === 0) await rig.takeBase(disks);
        await disks.detach();
        expect(await rig.monitor.command('query-status')).toMatchObject({ status: 'running' });
      }
      expect(await rig.traces()).toEqual([]);
      expect(rig.losses).toEqual([]);
      await rig.expectWriting();
    },
    TEST_MS,
  );

  it(
    'are let go by a watchdog when the server hangs, and not before',
    async () => {
      const image = rig.path('disk.raw');
      writeFileSync(image, Buffer.alloc(9 * MIB));
      const path = rig.path('second-qmp.sock');
      await rig.boot([
        '-drive',
        `if=none,id=dr0,file=${image},format=raw`,
        '-device',
        'virtio-blk-pci,drive=dr0,id=vd0',
        '-qmp',
        `unix:${path},server=on,wait=off`,
      ]);
      const server = makeWatchedServer();
      const connections = new WatchedConnections(server);
      // A beat of nobody's, so that the server seems to hang.
      const beat = new BigInt64Array(server.beat);
      const beatNow = (): void => {
        Atomics.store(beat, 0, process.hrtime.bigint() / 1_000_000n);
      };
      const disks = await rig.attach({
        onConnection: (disk, descriptor) => connections.set(disk, descriptor),
      });
      await rig.copyBase(disks);
      const beats = setInterval(beatNow, BEAT_MS);
      const worker = new Worker(new URL('watchdog-worker.mjs', import.meta.url), {
        workerData: { path, server },
      });
      await once(worker, 'message');
      const word = once(worker, 'message');
      // This thread does nothing, with its own part of the server: that alone holds nobody up.
      const before = writesReceived(rig.counter);
      const fromMs = performance.now();
      do {
        beatNow();
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
      } while (writesReceived(rig.counter) === before && performance.now() - fromMs < 10_000);
      expect(writesReceived(rig.counter)).toBeGreaterThan(before);
      expect(rig.losses).toEqual([]);
      clearInterval(beats);
      const [report] = (await word) as [{ code: string }];
      expect(report).toMatchObject({ code: 'ERR_TIMEOUT_DISK_STALL' });
      await expect.poll(() => rig.losses[0]?.code, { timeout: 10_000 }).toMatch(/^ERR_DISK_/);
      await worker.terminate();
      await disks.detach();
      expect(await rig.traces()).toEqual([]);
      await rig.expectWriting();
    },
    TEST_MS,
  );
});
