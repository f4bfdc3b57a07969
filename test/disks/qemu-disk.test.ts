/** Goal: a replica made of what a real QEMU mirrored equals the machine's disk at every boundary. */
import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { RomulusError } from '../../src/base/errors.ts';
import { attachQemuDisks, type QemuDisks } from '../../src/disks/qemu-disk.ts';
import type { QemuDiskOptions } from '../../src/disks/qemu-disk-options.ts';
import { BEAT_MS, makeWatchedServer, WatchedConnections } from '../../src/disks/nbd/watchdog.ts';
import { QemuExport } from '../../src/disks/qemu-export.ts';
import { findDisks } from '../../src/disks/qemu-mirror.ts';
import { compareDisks, DiskReplica } from '../../src/disks/replica.ts';
import { makeCounter, writesReceived } from '../../src/native/disk-intake.ts';
import { VIRTIO_MODULES } from '../../src/drill/qemu/guest-image.ts';
import { QmpClient } from '../../src/guests/qemu/qmp/qmp-client.ts';
import { qemuVersions, requireQemu } from '../support/qemu/require-qemu.ts';
import { type RunningGuest, startGuest } from '../support/qemu/start-guest.ts';

const hasQemu = await requireQemu();
const versions = hasQemu ? await qemuVersions() : [];

const TEST_MS = 120_000;
const MIB = 1024 * 1024;

let directory: string;
let guest: RunningGuest;
let monitor: QmpClient;
let losses: RomulusError[];
let counter: SharedArrayBuffer;
let epoch: number;
let wake: () => void;
const replicas: DiskReplica[] = [];

const modules = VIRTIO_MODULES.filter((name) => !name.includes('net') && name !== 'failover');

/** An empty image. */
function qcow2Image(bytes: number): string {
  const image = join(directory, 'disk.qcow2');
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', image, String(bytes)]);
  return image;
}

/** A disk as `-drive` makes it, `dr0`, for QEMU's command line. */
function driveArguments(image: string, options: string): string[] {
  const device = 'virtio-blk-pci,drive=dr0,id=vd0';
  return ['-drive', `if=none,id=dr0,file=${image},${options}`, '-device', device];
}

async function boot(extraArgs: string[], qemu?: string): Promise<void> {
  guest = await startGuest({
    ...(qemu !== undefined && { qemu }),
    run: ['disk'],
    kernelArgs: [`romulus.modules=${modules.join(',')}`, 'romulus.disk=400/8'],
    extraArgs,
  });
  monitor = await QmpClient.connect(guest.qmpPath, { timeoutMs: 20_000 });
  await expectWriting();
}

async function attach(more: Partial<QemuDiskOptions> = {}): Promise<QemuDisks> {
  const onLost = (error: RomulusError): void => {
    losses.push(error);
  };
  const socketPath = join(directory, 'nbd.sock');
  return attachQemuDisks({
    monitor,
    disks: [{ name: 'vd0', file: null }],
    socketPath,
    exportPath: join(directory, 'export.sock'),
    epoch: 1,
    counter,
    onLost,
    onBase: () => wake(),
    ...more,
  });
}

/** Takes the first copy into new replicas. */
async function copyBase(disks: QemuDisks): Promise<void> {
  for (const [disk, { diskBytes }] of disks.disks.entries()) {
    const path = join(directory, `replica${replicas.length}`);
    // Garbage, so that a stretch nobody writes is noticed.
    writeFileSync(path, randomBytes(diskBytes));
    replicas[disk] = new DiskReplica({ target: { path }, diskBytes, sync: { everyEpochs: 8 } });
  }
  await takeBase(disks);
}

/** Takes what the replicas lack. Gives the bytes. */
async function takeBase(disks: QemuDisks): Promise<number> {
  let bytes = 0;
  for (;;) {
    const untilBase = new Promise<void>((resolve) => {
      wake = resolve;
    });
    const { chunks, next } = await disks.nextBase();
    for (const chunk of chunks) {
      replicas[chunk.disk ?? 0]?.applyBase(chunk);
      bytes += chunk.byteCount;
    }
    if (next === 'complete') return bytes;
    if (next === 'waiting') await untilBase;
  }
}

/** Runs epochs; `atBoundary` is called while the machine stands, with all epochs applied. */
async function runEpochs(disks: QemuDisks, count: number, atBoundary: () => void): Promise<number> {
  let writes = 0;
  for (let done = 1; done <= count; done += 1) {
    epoch += 1;
    await monitor.command('stop');
    const through = writesReceived(counter);
    const isCompared = done % 25 === 0;
    if (!isCompared) await monitor.command('cont');
    const taken = disks.take(epoch, through);
    writes += taken.length;
    for (const [disk, replica] of replicas.entries())
      replica.apply(taken.filter((write) => (write.disk ?? 0) === disk));
    if (isCompared) {
      atBoundary();
      await monitor.command('cont');
    }
    await delay(10);
  }
  return writes;
}

function difference(path: string, replica: DiskReplica | undefined): number {
  const fd = openSync(path, 'r');
  try {
    return replica === undefined ? -2 : compareDisks(fd, replica.fd, replica.diskBytes);
  } finally {
    closeSync(fd);
  }
}

async function traces(): Promise<string[]> {
  const nodes = (await monitor.command('query-named-block-nodes')) as { 'node-name': string }[];
  const jobs = (await monitor.command('query-block-jobs')) as { device: string }[];
  const exported = (await monitor.command('query-block-exports')) as { id: string }[];
  const names = [
    ...nodes.map((node) => node['node-name']),
    ...jobs.map(({ device }) => device),
    ...exported.map(({ id }) => id),
  ];
  return names.filter((name) => name.startsWith('romulus-'));
}

/** The guest writes on, and found no block that is not what it wrote. */
async function expectWriting(): Promise<void> {
  const from = guest.serial.lines.length;
  await expect
    .poll(() => guest.serial.lines.slice(from).some(({ text }) => text.startsWith('k ')), {
      timeout: 10_000,
    })
    .toBe(true);
  expect(guest.serial.lines.filter(({ text }) => /^(k BAD|!)/.test(text))).toEqual([]);
}

describe.skipIf(!hasQemu)('the disks of a real QEMU', () => {
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'romulus-disk-'));
    losses = [];
    counter = makeCounter();
    epoch = 0;
    wake = () => undefined;
  });
  afterEach(async () => {
    for (const replica of replicas.splice(0)) replica.close();
    monitor.close();
    await guest.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  it.each([
    { how: 'through QEMU', readsFirst: false },
    { how: 'one of them from its file', readsFirst: true },
  ])(
    'are followed, read $how: two disks, an iothread, 4 KiB sectors, an odd size, TRIM',
    async ({ readsFirst }) => {
      const first = join(directory, 'first.raw');
      const second = join(directory, 'second.raw');
      writeFileSync(first, randomBytes(12 * MIB + 3 * 4096));
      writeFileSync(second, randomBytes(3 * MIB + 512));
      const sectors = 'logical_block_size=4096,physical_block_size=4096';
      await boot([
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
      const disks = await attach({
        disks: [
          { name: 'vd0', file: readsFirst ? { path: first, format: 'raw' } : null },
          { name: 'dr1', file: null },
        ],
        baseHighBytes: MIB,
        baseLowBytes: 4096,
      });
      await copyBase(disks);
      const writes = await runEpochs(disks, 50, () => {
        expect(difference(first, replicas[0])).toBe(-1);
        expect(difference(second, replicas[1])).toBe(-1);
      });
      expect(writes).toBeGreaterThan(50);
      await disks.detach();
      expect(await traces()).toEqual([]);
      expect(existsSync(join(directory, 'nbd.sock'))).toBe(false);
      expect(losses).toEqual([]);
      await expectWriting();
    },
    TEST_MS,
  );

  it(
    'are followed: qcow2; after an overrun and after somebody ended the mirror, anew',
    async () => {
      const image = qcow2Image(8 * MIB + 512);
      await boot([
        '-blockdev',
        `driver=file,node-name=file0,filename=${image}`,
        '-blockdev',
        'driver=qcow2,node-name=disk0,file=file0',
        '-device',
        'virtio-blk-pci,drive=disk0,id=vd0',
      ]);
      // What waits and is never taken runs over; the guest does not notice.
      const overrun = await attach({ waitingBytesMax: 9 * MIB });
      await copyBase(overrun);
      await expect.poll(() => losses[0]?.code, { timeout: 60_000 }).toBe('ERR_LIMIT_DISK_BACKLOG');
      await expectWriting();

      await overrun.detach();
      losses = [];
      const ended = await attach();
      await copyBase(ended);
      // Standing: some QEMUs do not survive this while the guest writes.
      await monitor.command('stop');
      await monitor.command('job-cancel', { id: 'romulus-m0' });
      await expect.poll(() => losses[0]?.code, { timeout: 10_000 }).toMatch(/^ERR_DISK_/);
      await monitor.command('cont');
      expect(() => ended.take(1, 0)).toThrow(expect.objectContaining({ code: losses[0]?.code }));
      await ended.detach();
      expect(await traces()).toEqual([]);

      losses = [];
      const disks = await attach();
      await copyBase(disks);
      const copy = join(directory, 'copy.raw');
      await runEpochs(disks, 25, () => {
        const convert = ['convert', '-U', '-f', 'qcow2', '-O', 'raw', image, copy];
        execFileSync('qemu-img', convert);
        expect(difference(copy, replicas[0])).toBe(-1);
      });
      await disks.detach();
      expect(losses).toEqual([]);
      await expectWriting();
    },
    TEST_MS,
  );

  it(
    'are read from a qcow2 file that the guest writes to, time and again',
    async () => {
      const raw = join(directory, 'disk.raw');
      const image = join(directory, 'disk.qcow2');
      const diskBytes = 64 * MIB + 512;
      // Nothing is allocated where the guest writes. Small clusters, so that there are many tables.
      writeFileSync(raw, Buffer.concat([Buffer.alloc(8 * MIB), randomBytes(diskBytes - 8 * MIB)]));
      const form = ['-O', 'qcow2', '-o', 'cluster_size=4k'];
      execFileSync('qemu-img', ['convert', '-f', 'raw', ...form, raw, image]);
      await boot(driveArguments(image, 'format=qcow2,discard=unmap'));
      const file = { path: image, format: 'qcow2' } as const;
      for (let round = 0; round < 6; round += 1) {
        const disks = await attach({ disks: [{ name: 'dr0', file }], epoch: 1 });
        const jobs = (await monitor.command('query-block-jobs')) as { len: number }[];
        // QEMU itself copies nothing.
        expect(jobs.map(({ len }) => len < MIB)).toEqual([true]);
        await copyBase(disks);
        await runEpochs(disks, 25, () => {
          const convert = ['convert', '-U', '-f', 'qcow2', '-O', 'raw', image, raw];
          execFileSync('qemu-img', convert);
          expect(difference(raw, replicas[0])).toBe(-1);
        });
        await disks.detach();
        replicas.splice(0).forEach((replica) => {
          replica.close();
        });
        epoch = 0;
      }
      expect(await traces()).toEqual([]);
      expect(losses).toEqual([]);
      await expectWriting();
    },
    TEST_MS,
  );

  it(
    'are read from a qcow2 file of which QEMU has part in memory only',
    async () => {
      const image = qcow2Image(8 * MIB);
      guest = await startGuest({ bare: true, extraArgs: driveArguments(image, 'format=qcow2') });
      monitor = await QmpClient.connect(guest.qmpPath, { timeoutMs: 20_000 });
      const write = { 'command-line': 'qemu-io dr0 "write -P 0x5a 1M 3M"' };
      await monitor.command('human-monitor-command', write);
      const mapped = execFileSync('qemu-img', ['map', '-U', '-f', 'qcow2', image], {
        encoding: 'utf8',
      });
      expect(mapped).not.toContain(image);
      const file = { path: image, format: 'qcow2' } as const;
      const disks = await attach({ disks: [{ name: 'dr0', file }] });
      await copyBase(disks);
      const raw = join(directory, 'raw');
      const written = Buffer.alloc(8 * MIB).fill(0x5a, MIB, 4 * MIB);
      writeFileSync(raw, written);
      expect(difference(raw, replicas[0])).toBe(-1);
      await disks.detach();
      expect(await traces()).toEqual([]);
    },
    TEST_MS,
  );

  it.each(['raw', 'qcow2'] as const)(
    'are resumed with what was written while nobody was there: %s',
    async (format) => {
      const image = join(directory, 'disk.image');
      const raw = format === 'raw' ? image : join(directory, 'disk.raw');
      const diskBytes = 64 * MIB + 512;
      writeFileSync(raw, randomBytes(diskBytes));
      if (format === 'qcow2')
        execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, image]);
      const expectEqual = (): void => {
        if (format === 'qcow2')
          execFileSync('qemu-img', ['convert', '-U', '-f', 'qcow2', '-O', 'raw', image, raw]);
        expect(difference(raw, replicas[0])).toBe(-1);
      };
      await boot(driveArguments(image, `format=${format},cache=none`));
      const file = { path: image, format };
      const disks = await attach({ disks: [{ name: 'dr0', file }], epoch: 1 });
      await copyBase(disks);
      await runEpochs(disks, 25, expectEqual);
      const held = epoch;
      // Two epochs that the backup never got, and then nobody.
      for (let lost = 0; lost < 2; lost += 1) {
        epoch += 1;
        await monitor.command('stop');
        const through = writesReceived(counter);
        await monitor.command('cont');
        disks.take(epoch, through);
      }
      disks.rest();
      await expectWriting();
      expect(disks.canResume(0)).toBe(false);
      expect(disks.canResume(held)).toBe(true);
      const lackedBytes = await disks.resume({ since: held, epoch: epoch + 1 });
      expect(lackedBytes).toBeLessThan(9 * MIB);
      expect((await traces()).includes('romulus-x0')).toBe(format === 'qcow2');
      expect(await takeBase(disks)).toBeGreaterThanOrEqual(lackedBytes);
      await runEpochs(disks, 25, expectEqual);
      // What was read is closed with the first epoch.
      expect(await traces()).not.toContain('romulus-x0');
      await disks.detach();
      expect(losses).toEqual([]);
      expect(await traces()).toEqual([]);
      expect(existsSync(join(directory, 'export.sock'))).toBe(false);
      await expectWriting();
    },
    TEST_MS,
  );

  it(
    "are not read through a QEMU whose server is somebody else's; one that we left is ended",
    async () => {
      const image = qcow2Image(8 * MIB);
      await boot(driveArguments(image, 'format=qcow2'));
      const disks = await attach({ disks: [{ name: 'dr0', file: null }] });
      await copyBase(disks);
      await runEpochs(disks, 5, () => undefined);
      const held = epoch;
      const others = { type: 'unix', data: { path: join(directory, 'others.sock') } };
      await monitor.command('nbd-server-start', { addr: others });
      await expect(disks.resume({ since: held, epoch: held + 1 })).rejects.toMatchObject({
        code: 'ERR_DISK_READ',
      });
      expect(existsSync(join(directory, 'others.sock'))).toBe(true);
      await monitor.command('nbd-server-stop');

      // Another attempt, and then an end in the middle, as of a node that is killed.
      await disks.resume({ since: held, epoch: held + 1 });
      expect(await traces()).toContain('romulus-x0');
      const successor = await attach({ disks: [{ name: 'dr0', file: null }] });
      expect(await traces()).not.toContain('romulus-x0');
      await disks.detach().catch(() => undefined);
      await successor.detach();
      expect(await traces()).toEqual([]);
      await expectWriting();
    },
    TEST_MS,
  );

  it.each(versions)(
    'are served by a QEMU with an iothread only if it outlives who reads them: $version',
    async ({ binary }) => {
      const image = qcow2Image(8 * MIB);
      const device = 'virtio-blk-pci,drive=disk0,id=vd0,iothread=io0';
      const node = `driver=qcow2,node-name=disk0,file.driver=file,file.filename=${image}`;
      await boot(['-object', 'iothread,id=io0', '-blockdev', node, '-device', device], binary);
      const [found] = await findDisks(monitor, ['vd0']);
      if (found === undefined) throw new Error('no disk');
      const open = (): Promise<QemuExport> =>
        QemuExport.open(monitor, join(directory, 'export.sock'));
      const { qemu } = (await monitor.command('query-version')) as { qemu: { major: number } };
      if (qemu.major < 10) {
        await expect(open()).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
        expect(existsSync(join(directory, 'export.sock'))).toBe(false);
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
            .poll(() => monitor.command('query-block-exports'), { timeout: 5000 })
            .toEqual([]);
        }
      expect(await traces()).toEqual([]);
      await expectWriting();
    },
    TEST_MS,
  );

  it(
    'are let go of while the guest writes, time and again, without harm to QEMU',
    async () => {
      const image = qcow2Image(8 * MIB);
      await boot([
        '-blockdev',
        `driver=file,node-name=file0,filename=${image}`,
        '-blockdev',
        'driver=qcow2,node-name=disk0,file=file0',
        '-device',
        'virtio-blk-pci,drive=disk0,id=vd0',
      ]);
      for (let round = 0; round < 30; round += 1) {
        const disks = await attach();
        // In the middle of the first copy, and after it.
        if (round % 2 === 0) await takeBase(disks);
        await disks.detach();
        expect(await monitor.command('query-status')).toMatchObject({ status: 'running' });
      }
      expect(await traces()).toEqual([]);
      expect(losses).toEqual([]);
      await expectWriting();
    },
    TEST_MS,
  );

  it(
    'are let go by a watchdog when the server hangs, and not before',
    async () => {
      const image = join(directory, 'disk.raw');
      writeFileSync(image, Buffer.alloc(9 * MIB));
      const path = join(directory, 'second-qmp.sock');
      await boot([
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
      const disks = await attach({
        onConnection: (disk, descriptor) => connections.set(disk, descriptor),
      });
      await copyBase(disks);
      const beats = setInterval(beatNow, BEAT_MS);
      const worker = new Worker(new URL('watchdog-worker.mjs', import.meta.url), {
        workerData: { path, server },
      });
      await once(worker, 'message');
      const word = once(worker, 'message');
      // This thread does nothing, with its own part of the server: that alone holds nobody up.
      const before = writesReceived(counter);
      const fromMs = performance.now();
      do {
        beatNow();
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
      } while (writesReceived(counter) === before && performance.now() - fromMs < 10_000);
      expect(writesReceived(counter)).toBeGreaterThan(before);
      expect(losses).toEqual([]);
      clearInterval(beats);
      const [report] = (await word) as [{ code: string }];
      expect(report).toMatchObject({ code: 'ERR_TIMEOUT_DISK_STALL' });
      await expect.poll(() => losses[0]?.code, { timeout: 10_000 }).toMatch(/^ERR_DISK_/);
      await worker.terminate();
      await disks.detach();
      expect(await traces()).toEqual([]);
      await expectWriting();
    },
    TEST_MS,
  );
});
