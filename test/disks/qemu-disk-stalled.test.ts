/**
 * Goal: storage that stands still delays a copy, and neither fails it nor holds the machine up. Method: a real
 * QEMU whose requests to a qcow2 file are held back by its own blkdebug, until the test lets them go.
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { DiskMonitor } from '../../src/disks/qemu-mirror.ts';
import type { QemuDisks } from '../../src/disks/qemu-disk.ts';
import { DiskRig } from '../support/qemu/disk-rig.ts';
import { qemuVersions, requireQemu } from '../support/qemu/require-qemu.ts';

const hasQemu = await requireQemu();
const versions = hasQemu ? await qemuVersions() : [];

const TEST_MS = 60_000;
/** Longer than who asks for the next pieces is kept waiting. */
const HOLD_MS = 1500;
const MIB = 1024 * 1024;
const COMPRESSED_AT = 5 * MIB;

describe.skipIf(!hasQemu)('the disks of a real QEMU whose storage stands still', () => {
  let rig: DiskRig;
  let image: string;
  /** What QEMU was told to do. */
  let orders: string[];
  beforeEach(() => {
    rig = new DiskRig();
    orders = [];
  });
  afterEach(async () => {
    // Whatever is still held back would keep QEMU from ending.
    await io('resume held').catch(() => undefined);
    await rig.close();
  });

  /** By the drive's own name: on a node QEMU would wait for all requests afterwards, also those held back. */
  async function io(words: string): Promise<void> {
    const line = `qemu-io dr0 "${words}"`;
    await rig.monitor.command('human-monitor-command', { 'command-line': line });
  }

  /** A machine whose disk holds something, of which part is compressed. */
  async function start(binary?: string): Promise<void> {
    image = rig.qcow2Image(8 * MIB);
    const writes = ['write -P 0x11 1M 2M', `write -c -P 0x22 ${COMPRESSED_AT} 64k`];
    execFileSync('qemu-io', [...writes.flatMap((write) => ['-c', write]), image]);
    const file = `file.driver=blkdebug,file.image.driver=file,file.image.filename=${image}`;
    await rig.start({
      ...(binary !== undefined && { qemu: binary }),
      bare: true,
      extraArgs: [
        '-drive',
        `if=none,id=dr0,driver=qcow2,${file}`,
        '-device',
        'virtio-blk-pci,drive=dr0,id=vd0',
      ],
    });
    // Firmware resets its disks, for which QEMU waits for all their requests.
    await rig.guest.serial.waitFor('c 1', (text) => text === 'c 1', { withinMs: TEST_MS });
  }

  function attach(): Promise<QemuDisks> {
    const command: DiskMonitor['command'] = (name, args, options) => {
      orders.push(name);
      return rig.monitor.command(name, args, options);
    };
    return rig.attach({
      monitor: {
        command,
        commandWithDescriptor: (name, args, descriptor) =>
          rig.monitor.commandWithDescriptor(name, args, descriptor),
        onEvent: (listener) => rig.monitor.onEvent(listener),
        onEnd: (listener) => {
          rig.monitor.onEnd(listener);
        },
      },
      disks: [{ name: 'vd0', file: { path: image, format: 'qcow2' } }],
    });
  }

  /** Attaches and begins to copy; what QEMU is then asked for is on its way to be held back. */
  async function beginCopy(): Promise<{ disks: QemuDisks; copied: Promise<void> }> {
    const disks = await attach();
    for (const replica of rig.replicas.splice(0)) replica.close();
    const copied = rig.copyBase(disks);
    copied.catch(() => undefined);
    const isReady = async (): Promise<boolean | undefined> => {
      const jobs = await rig.monitor.command('query-block-jobs');
      return (jobs as { ready: boolean }[])[0]?.ready;
    };
    await expect.poll(isReady, { timeout: 10_000 }).toBe(true);
    await delay(HOLD_MS);
    return { disks, copied };
  }

  function expectCopied(): void {
    const raw = rig.path('expected.raw');
    const expected = Buffer.alloc(8 * MIB).fill(0x11, MIB, 3 * MIB);
    writeFileSync(raw, expected.fill(0x22, COMPRESSED_AT, COMPRESSED_AT + 65_536));
    expect(rig.difference(raw)).toBe(-1);
  }

  it.each([
    ['flush', 'flush_to_os'],
    ['read', 'read_compressed'],
  ])(
    'are copied when a %s is done at last',
    async (_, event) => {
      await start();
      await io(`break ${event} held`);
      const { disks, copied } = await beginCopy();
      // Time and again: on a busy host it may not be there yet.
      const resuming = setInterval(() => {
        io('resume held').catch(() => undefined);
      }, HOLD_MS);
      try {
        await copied;
      } finally {
        clearInterval(resuming);
      }
      expectCopied();
      await disks.detach();
      expect(rig.losses).toEqual([]);
      expect(await rig.traces()).toEqual([]);
    },
    TEST_MS,
  );

  it.each(
    versions.flatMap(({ version, binary }) => [
      { version, binary, what: 'flush', event: 'flush_to_os' },
      { version, binary, what: 'read', event: 'read_compressed' },
    ]),
  )(
    'are let go while a $what is held back, without stopping the machine: $version',
    async ({ binary, event }) => {
      await start(binary);
      await io(`break ${event} held`);
      let refusal: unknown = null;
      // On a busy host nothing may be held back yet.
      while (refusal === null) {
        const { disks } = await beginCopy();
        orders = [];
        refusal = await disks.detach().then(
          () => null,
          (error: unknown) => error,
        );
      }
      expect(refusal).toMatchObject({ code: 'ERR_DISK_READ' });
      // QEMU would not answer any more.
      expect(orders).not.toContain('stop');
      expect(orders).not.toContain('nbd-server-stop');
      expect(await rig.monitor.command('query-status')).toMatchObject({ running: true });
      // Who attaches next does no harm either.
      await expect(attach()).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
      expect(orders).not.toContain('stop');

      await io('resume held');
      const successor = await beginCopy();
      await successor.copied;
      expectCopied();
      await successor.disks.detach();
      expect(await rig.traces()).toEqual([]);
    },
    TEST_MS,
  );
});
