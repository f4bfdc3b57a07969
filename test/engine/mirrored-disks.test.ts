/**
 * Goal: an image that is given up and begun anew, however quickly, gets the disks. Method: views of a
 * real QEMU's disk asked for while others are still being opened, and the thread lost under them.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { toRomulusError, type RomulusError } from '../../src/base/errors.ts';
import type { SourceDisk } from '../../src/disks/disk.ts';
import { MirroredDisks, type MirroredDisksOptions } from '../../src/engine/mirrored-disks.ts';
import { serveMonitor } from '../../src/engine/monitor-relay.ts';
import { QmpClient } from '../../src/guests/qemu/qmp/qmp-client.ts';
import { requireQemu } from '../support/qemu/require-qemu.ts';
import { type RunningGuest, startGuest } from '../support/qemu/start-guest.ts';

const hasQemu = await requireQemu();

const TEST_MS = 60_000;
const DISK_BYTES = 8 * 1024 * 1024;
const FULL = { since: null, epoch: 1 };

let directory = '';
let content: Buffer;
let guest: RunningGuest;
let monitor: QmpClient;
let mirrored: MirroredDisks;
let losses: RomulusError[] = [];
let opened: Parameters<MirroredDisksOptions['onOpened']>[1][] = [];

/** Follows the disk; it is read through QEMU where it has no path. */
function follow(
  path: string | null,
  options: Pick<MirroredDisksOptions, 'bytesPerSecondMax'> = {},
): MirroredDisks {
  return new MirroredDisks({
    ...options,
    disks: [{ name: 'vd0', file: path === null ? null : { path, format: 'raw' } }],
    socketPath: join(directory, 'disks.sock'),
    exportPath: join(directory, 'export.sock'),
    guardian: null,
    serveMonitor: (port) => {
      serveMonitor(port, monitor);
      return Promise.resolve();
    },
    onOpened: (_, view) => opened.push(view),
    onLost: (error) => {
      losses.push(error);
    },
  });
}

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'romulus-mirrored-'));
  content = randomBytes(DISK_BYTES);
  const path = join(directory, 'disk.raw');
  writeFileSync(path, content);
  guest = await startGuest({
    bare: true,
    extraArgs: [
      '-drive',
      `if=none,id=d0,format=raw,file=${path}`,
      '-device',
      'virtio-blk-pci,drive=d0,id=vd0',
    ],
  });
  monitor = await QmpClient.connect(guest.qmpPath, { timeoutMs: 20_000 });
  losses = [];
  opened = [];
  mirrored = follow(path);
}, TEST_MS);

afterEach(async () => {
  await mirrored.close();
  monitor.close();
  await guest.stop();
  rmSync(directory, { recursive: true, force: true });
});

/** What a view gives, put together. */
async function copyOf(view: SourceDisk | null): Promise<Buffer> {
  const copy = randomBytes(DISK_BYTES);
  if (view !== null)
    for await (const { offset, byteCount, data } of view.readBase())
      if (data === null) copy.fill(0, offset, offset + byteCount);
      else copy.set(data, offset);
  return copy;
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return await work.then(
    () => 'nothing',
    (error: unknown) => toRomulusError(error).code,
  );
}

describe.skipIf(!hasQemu)('views of mirrored disks', () => {
  it(
    'a view closed late does not end the one opened after it',
    async () => {
      const opening = [mirrored.open(FULL), mirrored.open(FULL)] as const;
      // As whoever asked for the first does, when it hears only now that nobody wants it.
      const closing = opening[0].then((view) => view.close());
      const [first, second] = await Promise.all(opening);
      await closing;
      expect((await copyOf(second)).equals(content)).toBe(true);
      expect(await codeOf(copyOf(first))).toBe('ERR_DISK_LOST');
      // Before the one that counts now was read to its end, too.
      const third = await mirrored.open(FULL);
      second.close();
      first.close();
      expect((await copyOf(third)).equals(content)).toBe(true);
      expect(losses).toEqual([]);
    },
    TEST_MS,
  );

  it(
    'views asked for in a burst are opened in order, and the last one holds',
    async () => {
      const views = await Promise.all(Array.from({ length: 5 }, () => mirrored.open(FULL)));
      expect((await copyOf(views.at(-1) ?? null)).equals(content)).toBe(true);
      for (const view of views.slice(0, -1))
        expect(await codeOf(copyOf(view))).toBe('ERR_DISK_LOST');
      expect(losses).toEqual([]);
    },
    TEST_MS,
  );

  it(
    'who waits for more of a view hears that it was closed',
    async () => {
      // QEMU copies a first piece, and no other for long.
      mirrored = follow(null, { bytesPerSecondMax: 1 });
      const view = await mirrored.open(FULL);
      const first = await view.readBase().next();
      expect(first.done).toBe(false);
      const reading = codeOf(copyOf(view));
      view.close();
      expect(await reading).toBe('ERR_DISK_LOST');
    },
    TEST_MS,
  );

  it(
    'all is sent where less cannot be read, with the reason, and less again when it can',
    async () => {
      mirrored = follow(null);
      await copyOf(await mirrored.open(FULL));
      const others = { type: 'unix', data: { path: join(directory, 'others.sock') } };
      await monitor.command('nbd-server-start', { addr: others });
      const whole = await mirrored.open({ since: 1, epoch: 2 });
      expect((await copyOf(whole)).equals(content)).toBe(true);
      await monitor.command('nbd-server-stop');
      await mirrored.open({ since: 2, epoch: 3 });
      expect(opened).toMatchObject([
        { totalBytes: DISK_BYTES, wholeBecause: null },
        { totalBytes: DISK_BYTES, wholeBecause: { code: 'ERR_DISK_READ' } },
        { totalBytes: 0, wholeBecause: null },
      ]);
      expect(losses).toEqual([]);
    },
    TEST_MS,
  );

  it(
    'a file that is not the disk, or stops being it, is not read: QEMU is',
    async () => {
      const path = join(directory, 'other.raw');
      writeFileSync(path, content.subarray(512));
      mirrored = follow(path);
      expect((await copyOf(await mirrored.open(FULL))).equals(content)).toBe(true);
      await mirrored.close();
      writeFileSync(path, content);
      mirrored = follow(path);
      const view = await mirrored.open(FULL);
      truncateSync(path, DISK_BYTES / 2);
      expect(await codeOf(copyOf(view))).toBe('ERR_DISK_READ');
      expect((await copyOf(await mirrored.open(FULL))).equals(content)).toBe(true);
      expect(losses).toEqual([]);
    },
    TEST_MS,
  );

  it(
    'a lost mirror ends its view with the reason, and the next view begins anew',
    async () => {
      const view = await mirrored.open(FULL);
      await copyOf(view);
      await monitor.command('job-cancel', { id: 'romulus-m0' });
      await expect.poll(() => losses.length, { timeout: 10_000 }).toBe(1);
      expect(await codeOf(copyOf(view))).toBe('ERR_DISK_MIRROR');
      // At once, while the thread before is still taking leave, and by two at a time.
      const [, last] = await Promise.all([mirrored.open(FULL), mirrored.open(FULL)]);
      expect((await copyOf(last)).equals(content)).toBe(true);
      expect(losses).toHaveLength(1);
    },
    TEST_MS,
  );

  it(
    'a view asked for right before the end is refused, and leaves nothing in the machine',
    async () => {
      const opening = codeOf(mirrored.open(FULL));
      await mirrored.close();
      expect(await opening).toMatch(/^ERR_(DISK_LOST|INTERNAL_THREAD_CLOSED)$/);
      expect(await codeOf(mirrored.open(FULL))).toBe('ERR_DISK_LOST');
      expect(await monitor.command('query-block-jobs')).toEqual([]);
    },
    TEST_MS,
  );
});
