/** Disks of a real QEMU followed into replicas, for tests: attached to, copied, taken epoch by epoch. */
import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'vitest';
import type { RomulusError } from '../../../src/base/errors.ts';
import { attachQemuDisks, type QemuDisks } from '../../../src/disks/qemu-disk.ts';
import type { QemuDiskOptions } from '../../../src/disks/qemu-disk-options.ts';
import { compareDisks, DiskReplica } from '../../../src/disks/replica.ts';
import { VIRTIO_MODULES } from '../../../src/drill/qemu/guest-image.ts';
import { QmpClient } from '../../../src/guests/qemu/qmp/qmp-client.ts';
import { makeCounter, writesReceived } from '../../../src/native/disk-intake.ts';
import { type GuestOptions, type RunningGuest, startGuest } from './start-guest.ts';

const QMP_TIMEOUT_MS = 20_000;
const modules = VIRTIO_MODULES.filter((name) => !name.includes('net') && name !== 'failover');

/** A disk as `-drive` makes it, `dr0`, for QEMU's command line. */
export function driveArguments(image: string, options: string): string[] {
  const device = 'virtio-blk-pci,drive=dr0,id=vd0';
  return ['-drive', `if=none,id=dr0,file=${image},${options}`, '-device', device];
}

/** A machine, and the replicas of its disks. */
export class DiskRig {
  readonly directory: string = mkdtempSync(join(tmpdir(), 'romulus-disk-'));
  readonly counter: SharedArrayBuffer = makeCounter();
  readonly replicas: DiskReplica[] = [];
  losses: RomulusError[] = [];
  epoch = 0;
  #guest: RunningGuest | null = null;
  #monitor: QmpClient | null = null;
  #wake: () => void = () => undefined;

  get monitor(): QmpClient {
    if (this.#monitor === null) throw new Error('no machine was booted');
    return this.#monitor;
  }

  get guest(): RunningGuest {
    if (this.#guest === null) throw new Error('no machine was booted');
    return this.#guest;
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** An empty image. */
  qcow2Image(bytes: number): string {
    const image = this.path('disk.qcow2');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', image, String(bytes)]);
    return image;
  }

  /** Boots a guest that writes to its first disk all the time. */
  async boot(extraArgs: string[], qemu?: string): Promise<void> {
    await this.start({
      ...(qemu !== undefined && { qemu }),
      run: ['disk'],
      kernelArgs: [`romulus.modules=${modules.join(',')}`, 'romulus.disk=400/8'],
      extraArgs,
    });
    await this.expectWriting();
  }

  async start(options: GuestOptions): Promise<void> {
    this.#guest = await startGuest(options);
    this.#monitor = await QmpClient.connect(this.#guest.qmpPath, { timeoutMs: QMP_TIMEOUT_MS });
  }

  /** Starts to follow the disk `vd0`, through QEMU, unless told otherwise. */
  async attach(more: Partial<QemuDiskOptions> = {}): Promise<QemuDisks> {
    const onLost = (error: RomulusError): void => {
      this.losses.push(error);
    };
    const socketPath = this.path('nbd.sock');
    return attachQemuDisks({
      monitor: this.monitor,
      disks: [{ name: 'vd0', file: null }],
      socketPath,
      exportPath: this.path('export.sock'),
      epoch: 1,
      counter: this.counter,
      onLost,
      onBase: () => this.#wake(),
      ...more,
    });
  }

  /** Takes the first copy into new replicas. */
  async copyBase(disks: QemuDisks): Promise<void> {
    for (const [disk, { diskBytes }] of disks.disks.entries()) {
      const path = this.path(`replica${this.replicas.length}`);
      // Garbage, so that a stretch nobody writes is noticed.
      writeFileSync(path, randomBytes(diskBytes));
      this.replicas[disk] = new DiskReplica({
        target: { path },
        diskBytes,
        sync: { everyEpochs: 8 },
      });
    }
    await this.takeBase(disks);
  }

  /** Takes what the replicas lack. Gives the bytes. */
  async takeBase(disks: QemuDisks): Promise<number> {
    let bytes = 0;
    for (;;) {
      const untilBase = new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      const { chunks, next } = await disks.nextBase();
      for (const chunk of chunks) {
        this.replicas[chunk.disk ?? 0]?.applyBase(chunk);
        bytes += chunk.byteCount;
      }
      if (next === 'complete') return bytes;
      if (next === 'waiting') await untilBase;
    }
  }

  /** Runs epochs; `atBoundary` is called while the machine stands, with all epochs applied. */
  async runEpochs(disks: QemuDisks, count: number, atBoundary: () => void): Promise<number> {
    let writes = 0;
    for (let done = 1; done <= count; done += 1) {
      this.epoch += 1;
      await this.monitor.command('stop');
      const through = writesReceived(this.counter);
      const isCompared = done % 25 === 0;
      if (!isCompared) await this.monitor.command('cont');
      const taken = disks.take(this.epoch, through);
      writes += taken.length;
      for (const [disk, replica] of this.replicas.entries())
        replica.apply(taken.filter((write) => (write.disk ?? 0) === disk));
      if (isCompared) {
        atBoundary();
        await this.monitor.command('cont');
      }
      await delay(10);
    }
    return writes;
  }

  /** Where a file and the replica of a disk first differ; -1: nowhere. */
  difference(path: string, disk = 0): number {
    const replica = this.replicas[disk];
    const fd = openSync(path, 'r');
    try {
      return replica === undefined ? -2 : compareDisks(fd, replica.fd, replica.diskBytes);
    } finally {
      closeSync(fd);
    }
  }

  /** What of ours is in QEMU. */
  async traces(): Promise<string[]> {
    const nodes = (await this.monitor.command('query-named-block-nodes')) as {
      'node-name': string;
    }[];
    const jobs = (await this.monitor.command('query-block-jobs')) as { device: string }[];
    const exported = (await this.monitor.command('query-block-exports')) as { id: string }[];
    const names = [
      ...nodes.map((node) => node['node-name']),
      ...jobs.map(({ device }) => device),
      ...exported.map(({ id }) => id),
    ];
    return names.filter((name) => name.startsWith('romulus-'));
  }

  /** The guest writes on, and found no block that is not what it wrote. */
  async expectWriting(): Promise<void> {
    const from = this.guest.serial.lines.length;
    await expect
      .poll(() => this.guest.serial.lines.slice(from).some(({ text }) => text.startsWith('k ')), {
        timeout: 10_000,
      })
      .toBe(true);
    expect(this.guest.serial.lines.filter(({ text }) => /^(k BAD|!)/.test(text))).toEqual([]);
  }

  /** Ends the machine and removes all files. */
  async close(): Promise<void> {
    for (const replica of this.replicas.splice(0)) replica.close();
    this.#monitor?.close();
    await this.#guest?.stop();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
