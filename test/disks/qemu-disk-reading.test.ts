/**
 * Goal: what a replica lacks and the mirror does not bring is read, from a file that a real QEMU writes
 * to or through QEMU itself, so that the replica equals the disk at every boundary.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { findDisks } from '../../src/disks/found-disks.ts';
import { type DescriptorMonitor, QemuExport } from '../../src/disks/qemu-export.ts';
import { writesReceived } from '../../src/native/disk-intake.ts';
import { DiskRig, driveArguments } from '../support/qemu/disk-rig.ts';
import { qemuVersions, requireQemu } from '../support/qemu/require-qemu.ts';

const hasQemu = await requireQemu();
const versions = hasQemu ? await qemuVersions() : [];

const TEST_MS = 120_000;
const MIB = 1024 * 1024;

describe.skipIf(!hasQemu)('the disks of a real QEMU, read', () => {
  let rig: DiskRig;
  beforeEach(() => {
    rig = new DiskRig();
  });
  afterEach(() => rig.close());

  it(
    'are read from a qcow2 file that the guest writes to, time and again',
    async () => {
      const raw = rig.path('disk.raw');
      const image = rig.path('disk.qcow2');
      const diskBytes = 64 * MIB + 512;
      // Nothing is allocated where the guest writes. Small clusters, so that there are many tables.
      writeFileSync(raw, Buffer.concat([Buffer.alloc(8 * MIB), randomBytes(diskBytes - 8 * MIB)]));
      const form = ['-O', 'qcow2', '-o', 'cluster_size=4k'];
      execFileSync('qemu-img', ['convert', '-f', 'raw', ...form, raw, image]);
      await rig.boot(driveArguments(image, 'format=qcow2,discard=unmap'));
      const file = { path: image, format: 'qcow2' } as const;
      for (let round = 0; round < 6; round += 1) {
        const disks = await rig.attach({ disks: [{ name: 'dr0', file }], epoch: 1 });
        const jobs = (await rig.monitor.command('query-block-jobs')) as { len: number }[];
        // QEMU itself copies nothing.
        expect(jobs.map(({ len }) => len < MIB)).toEqual([true]);
        await rig.copyBase(disks);
        await rig.runEpochs(disks, 25, () => {
          const convert = ['convert', '-U', '-f', 'qcow2', '-O', 'raw', image, raw];
          execFileSync('qemu-img', convert);
          expect(rig.difference(raw)).toBe(-1);
        });
        await disks.detach();
        rig.replicas.splice(0).forEach((replica) => {
          replica.close();
        });
        rig.epoch = 0;
      }
      expect(await rig.traces()).toEqual([]);
      expect(rig.losses).toEqual([]);
      await rig.expectWriting();
    },
    TEST_MS,
  );

  it(
    'are read from a qcow2 file of which QEMU has part in memory only',
    async () => {
      const image = rig.qcow2Image(8 * MIB);
      await rig.start({ bare: true, extraArgs: driveArguments(image, 'format=qcow2') });
      const write = { 'command-line': 'qemu-io dr0 "write -P 0x5a 1M 3M"' };
      await rig.monitor.command('human-monitor-command', write);
      const mapped = execFileSync('qemu-img', ['map', '-U', '-f', 'qcow2', image], {
        encoding: 'utf8',
      });
      expect(mapped).not.toContain(image);
      const file = { path: image, format: 'qcow2' } as const;
      const disks = await rig.attach({ disks: [{ name: 'dr0', file }] });
      await rig.copyBase(disks);
      const raw = rig.path('raw');
      const written = Buffer.alloc(8 * MIB).fill(0x5a, MIB, 4 * MIB);
      writeFileSync(raw, written);
      expect(rig.difference(raw)).toBe(-1);
      await disks.detach();
      expect(await rig.traces()).toEqual([]);
    },
    TEST_MS,
  );

  it(
    'are not read from a file that is no longer theirs',
    async () => {
      const image = rig.qcow2Image(8 * MIB);
      await rig.start({ bare: true, extraArgs: driveArguments(image, 'format=qcow2') });
      const [found] = await findDisks(rig.monitor, ['dr0']);
      await rig.monitor.command('blockdev-snapshot-sync', {
        device: 'dr0',
        'snapshot-file': rig.path('overlay.qcow2'),
      });
      const write = { 'command-line': 'qemu-io dr0 "write -P 0x5a 1M 3M"' };
      await rig.monitor.command('human-monitor-command', write);
      const known = found?.image;
      if (known === undefined || known === null) throw new Error('no image');
      const disks = await rig.attach({
        disks: [{ name: 'vd0', file: { path: image, format: 'qcow2', known } }],
      });
      await rig.copyBase(disks);
      const raw = rig.path('raw');
      writeFileSync(raw, Buffer.alloc(8 * MIB).fill(0x5a, MIB, 4 * MIB));
      expect(rig.difference(raw)).toBe(-1);
      await disks.detach();
    },
    TEST_MS,
  );

  it(
    'are not read from a file below which something was put at run time',
    async () => {
      const base = rig.path('base.raw');
      writeFileSync(base, Buffer.alloc(8 * MIB, 0x5a));
      // Its header names no backing file.
      const image = rig.qcow2Image(8 * MIB);
      const below = `driver=raw,node-name=base0,read-only=on,file.driver=file,file.filename=${base}`;
      const node = `driver=qcow2,node-name=disk0,backing=base0,file.driver=file,file.filename=${image}`;
      const device = 'virtio-blk-pci,drive=disk0,id=vd0';
      await rig.start({
        bare: true,
        extraArgs: ['-blockdev', below, '-blockdev', node, '-device', device],
      });
      const disks = await rig.attach({
        disks: [{ name: 'vd0', file: { path: image, format: 'qcow2' } }],
      });
      await rig.copyBase(disks);
      expect(rig.difference(base)).toBe(-1);
      await disks.detach();
    },
    TEST_MS,
  );

  it.each(['raw', 'qcow2'] as const)(
    'are not read from a file that is replaced while the mirror is started: %s',
    async (format) => {
      const image = rig.path('disk.image');
      execFileSync('qemu-img', ['create', '-q', '-f', format, image, String(8 * MIB)]);
      await rig.start({ bare: true, extraArgs: driveArguments(image, `format=${format}`) });
      const replaced = { device: 'dr0', 'snapshot-file': rig.path('overlay.qcow2') };
      const write = { 'command-line': 'qemu-io dr0 "write -P 0x5a 1M 3M"' };
      const monitor: DescriptorMonitor = {
        command: async (name, args, options) => {
          if (name === 'blockdev-mirror') {
            await rig.monitor.command('blockdev-snapshot-sync', replaced);
            await rig.monitor.command('human-monitor-command', write);
          }
          return rig.monitor.command(name, args, options);
        },
        commandWithDescriptor: (name, args, descriptor) =>
          rig.monitor.commandWithDescriptor(name, args, descriptor),
        onEvent: (listener) => rig.monitor.onEvent(listener),
        onEnd: (listener) => {
          rig.monitor.onEnd(listener);
        },
      };
      const [found] = await findDisks(rig.monitor, ['dr0']);
      const known = found?.image;
      if (known === undefined || known === null) throw new Error('no image');
      const wanted = [{ name: 'dr0', file: { path: image, format, known } }];
      await expect(rig.attach({ monitor, disks: wanted })).rejects.toThrow(RomulusError);
      expect(await rig.traces()).toEqual([]);
      const disks = await rig.attach({ disks: wanted });
      await rig.copyBase(disks);
      const raw = rig.path('raw');
      writeFileSync(raw, Buffer.alloc(8 * MIB).fill(0x5a, MIB, 4 * MIB));
      expect(rig.difference(raw)).toBe(-1);
      // No other image is put there once the mirror is.
      const again = { device: 'dr0', 'snapshot-file': rig.path('another.qcow2') };
      await expect(rig.monitor.command('blockdev-snapshot-sync', again)).rejects.toMatchObject({
        code: expect.stringContaining('ERR_GUEST_QMP_'),
      });
      await disks.detach();
    },
    TEST_MS,
  );

  it.each(['raw', 'qcow2'] as const)(
    'are resumed with what was written while nobody was there: %s',
    async (format) => {
      const image = rig.path('disk.image');
      const raw = format === 'raw' ? image : rig.path('disk.raw');
      const diskBytes = 64 * MIB + 512;
      writeFileSync(raw, randomBytes(diskBytes));
      if (format === 'qcow2')
        execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, image]);
      const expectEqual = (): void => {
        if (format === 'qcow2')
          execFileSync('qemu-img', ['convert', '-U', '-f', 'qcow2', '-O', 'raw', image, raw]);
        expect(rig.difference(raw)).toBe(-1);
      };
      await rig.boot(driveArguments(image, `format=${format},cache=none`));
      const file = { path: image, format };
      const disks = await rig.attach({ disks: [{ name: 'dr0', file }], epoch: 1 });
      await rig.copyBase(disks);
      await rig.runEpochs(disks, 25, expectEqual);
      const held = rig.epoch;
      // Two epochs that the backup never got, and then nobody.
      for (let lost = 0; lost < 2; lost += 1) {
        rig.epoch += 1;
        await rig.monitor.command('stop');
        const through = writesReceived(rig.counter);
        await rig.monitor.command('cont');
        disks.take(rig.epoch, through);
      }
      disks.rest();
      await rig.expectWriting();
      expect(disks.canResume(0)).toBe(false);
      expect(disks.canResume(held)).toBe(true);
      const lackedBytes = await disks.resume({ since: held, epoch: rig.epoch + 1 });
      expect(lackedBytes).toBeLessThan(9 * MIB);
      expect((await rig.traces()).includes('romulus-x0')).toBe(format === 'qcow2');
      expect(await rig.takeBase(disks)).toBeGreaterThanOrEqual(lackedBytes);
      await rig.runEpochs(disks, 25, expectEqual);
      // What was read is closed with the first epoch.
      expect(await rig.traces()).not.toContain('romulus-x0');
      await disks.detach();
      expect(rig.losses).toEqual([]);
      expect(await rig.traces()).toEqual([]);
      expect(existsSync(rig.path('export.sock'))).toBe(false);
      await rig.expectWriting();
    },
    TEST_MS,
  );

  it(
    "are not read through a QEMU whose server is somebody else's; one that we left is ended",
    async () => {
      const image = rig.qcow2Image(8 * MIB);
      await rig.boot(driveArguments(image, 'format=qcow2'));
      const disks = await rig.attach({ disks: [{ name: 'dr0', file: null }] });
      await rig.copyBase(disks);
      await rig.runEpochs(disks, 5, () => undefined);
      const held = rig.epoch;
      const others = { type: 'unix', data: { path: rig.path('others.sock') } };
      await rig.monitor.command('nbd-server-start', { addr: others });
      await expect(disks.resume({ since: held, epoch: held + 1 })).rejects.toMatchObject({
        code: 'ERR_DISK_READ',
      });
      expect(existsSync(rig.path('others.sock'))).toBe(true);
      await rig.monitor.command('nbd-server-stop');

      // Another attempt, and then an end in the middle, as of a node that is killed.
      await disks.resume({ since: held, epoch: held + 1 });
      expect(await rig.traces()).toContain('romulus-x0');
      const successor = await rig.attach({ disks: [{ name: 'dr0', file: null }] });
      expect(await rig.traces()).not.toContain('romulus-x0');
      await disks.detach().catch(() => undefined);
      await successor.detach();
      expect(await rig.traces()).toEqual([]);
      await rig.expectWriting();
    },
    TEST_MS,
  );

  it.each(versions)(
    'are served by a QEMU with an iothread only if it outlives who reads them: $version',
    async ({ binary }) => {
      const image = rig.qcow2Image(8 * MIB);
      const device = 'virtio-blk-pci,drive=disk0,id=vd0,iothread=io0';
      const node = `driver=qcow2,node-name=disk0,file.driver=file,file.filename=${image}`;
      await rig.boot(['-object', 'iothread,id=io0', '-blockdev', node, '-device', device], binary);
      const [found] = await findDisks(rig.monitor, ['vd0']);
      if (found === undefined) throw new Error('no disk');
      const open = (): Promise<QemuExport> => QemuExport.open(rig.monitor, rig.path('export.sock'));
      const { qemu } = (await rig.monitor.command('query-version')) as { qemu: { major: number } };
      if (qemu.major < 10) {
        await expect(open()).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
        expect(existsSync(rig.path('export.sock'))).toBe(false);
      } else
        for (let round = 0; round < 20; round += 1) {
          const served = await open();
          const reader = await served.reader(0, found);
          // In the middle of an answer, as who is killed goes.
          const asked = reader.read(0, MIB).catch(() => null);
          if (round % 2 === 0) await asked;
          reader.close();
          await served.close();
          await expect
            .poll(() => rig.monitor.command('query-block-exports'), { timeout: 5000 })
            .toEqual([]);
        }
      expect(await rig.traces()).toEqual([]);
      await rig.expectWriting();
    },
    TEST_MS,
  );
});
