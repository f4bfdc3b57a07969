/**
 * Goal: the RAM that a guest has above 4 GiB is found, followed and put in its place. A q35 gives a guest of
 * 3 GiB the first 2 GiB at 0 and the rest at 4 GiB: one block, in one piece for the host.
 * Method: a guest that touches next to nothing, a debugger that writes at the edges of both parts, and a copy
 * that is asked what stands at those addresses. No page is taken that was not written.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { MIB, PAGE_BYTES } from '../../../src/base/units.ts';
import { attachQemu } from '../../../src/guests/qemu/attach.ts';
import { prepareQemu } from '../../../src/guests/qemu/prepare.ts';
import { QmpClient } from '../../../src/guests/qemu/qmp/qmp-client.ts';
import { Capture } from '../../../src/native/capture.ts';
import { Memory } from '../../../src/native/memory.ts';
import { Tracker } from '../../../src/native/tracker.ts';
import { debuggable, writePhysical } from '../../support/qemu/physical-memory.ts';
import { qemuVersions, requireQemu } from '../../support/qemu/require-qemu.ts';
import { startGuest } from '../../support/qemu/start-guest.ts';
import { requireRoot } from '../../support/require.ts';
import { type Cleanups, eventually } from './user-machine.ts';

// Who is not root may not see which pages there are, and would stage all 3 GiB.
const canRun = (await requireQemu()) && requireRoot('tests on memory above 4 GiB');
const versions = canRun ? await qemuVersions() : [];
const TIMEOUT_MS = 60_000;
const MEMORY_MIB = 3072;
const GIB = 1024 * MIB;
/** Guest-physical addresses and the page of the block that is there. */
const PLACES = [
  { address: 2 * GIB - PAGE_BYTES, page: (2 * GIB) / PAGE_BYTES - 1 },
  { address: 4 * GIB, page: (2 * GIB) / PAGE_BYTES },
  { address: 4 * GIB + 0x1234_5000, page: (2 * GIB + 0x1234_5000) / PAGE_BYTES },
  { address: 5 * GIB - PAGE_BYTES, page: (3 * GIB) / PAGE_BYTES - 1 },
] as const;
const MARKS = PLACES.map(({ address }, at) => Buffer.from(`mark${at} of ${address.toString(16)}`));

const cleanups: Cleanups = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

describe.runIf(canRun)('memory above 4 GiB', { timeout: TIMEOUT_MS }, () => {
  it.each(versions)('is followed and put in its place, in QEMU $version', async ({ binary }) => {
    const directory = mkdtempSync(join(tmpdir(), 'romulus-high-'));
    cleanups.push(() => rmSync(directory, { recursive: true, force: true }));
    const debuggerPath = join(directory, 'debugger');
    const machine = await startGuest({
      bare: true,
      memoryMib: MEMORY_MIB,
      qemu: binary,
      extraArgs: debuggable(debuggerPath),
    });
    cleanups.push(() => machine.stop());
    const guest = await attachQemu({
      qmpPath: machine.qmpPath,
      diskMode: 'none',
      holdsOutput: false,
    });
    cleanups.push(() => guest.detach());
    const main = guest.blocks.findIndex(({ bytes }) => bytes === MEMORY_MIB * MIB);
    expect(main).toBeGreaterThanOrEqual(0);
    const tracker = new Tracker({
      pid: guest.pid,
      ranges: guest.blocks.map(({ address, bytes }) => ({ address, bytes })),
      kind: 'auto',
    });
    cleanups.push(() => tracker.close());
    const captures = guest.blocks.map((_, block) => new Capture({ tracker, block, threads: 1 }));
    cleanups.push(() => captures.forEach((capture) => capture.close()));
    const incoming = await prepareQemu({
      descriptor: guest.descriptor,
      directory,
      binary,
      mapping: {
        drives: {},
        chardevs: { console: 'null', control: 'null', debugger: 'null' },
        netdevs: {},
        files: {},
        hugepages: 'same',
        dropArgs: [],
        extraArgs: [],
      },
      diskMode: 'none',
      holdsOutput: false,
    });
    cleanups.push(() => incoming.discard());
    const images = incoming.blocks.map(({ fd, bytes }) =>
      Memory.map({ fd, bytes, writable: true }),
    );
    cleanups.push(() => images.forEach((image) => image.close()));
    /** What was staged, to where replication would write it. */
    const apply = (): void => {
      captures.forEach((capture, block) => {
        for (const [at, index] of capture.stagedIndexes().entries())
          images[block]?.write(index * PAGE_BYTES, capture.stagedPage(at));
      });
    };

    for (const capture of captures) capture.capture({ full: true });
    apply();
    await writePhysical(
      debuggerPath,
      PLACES.map(({ address }, at) => ({ address, bytes: MARKS[at] ?? new Uint8Array(0) })),
    );
    // It is told a moment later that the debugger let it run.
    const { deviceState } = await eventually(() =>
      guest.pause(() => {
        for (const capture of captures) capture.capture();
      }),
    );
    apply();
    const dirty = [...(captures[main]?.stagedIndexes() ?? [])];
    expect(dirty).toEqual(expect.arrayContaining(PLACES.map(({ page }) => page)));
    expect(dirty.length).toBeLessThan(1000);
    PLACES.forEach(({ page }, at) => {
      const mark = MARKS[at];
      expect(images[main]?.read(page * PAGE_BYTES, mark?.byteLength ?? 0)).toEqual(mark);
    });
    // A machine of 3 GiB, of which next to nothing was ever there.
    expect(images[main]?.populatedBytes()).toBeLessThan(256 * MIB);

    const copy = await incoming.start(deviceState);
    cleanups.push(() => copy.fence());
    const monitor = await QmpClient.connect(incoming.controlPath);
    cleanups.push(() => monitor.close());
    for (const [at, { address }] of PLACES.entries()) {
      const mark = MARKS[at] ?? Buffer.alloc(0);
      const said = await monitor.humanMonitor(`xp /${mark.byteLength}xb 0x${address.toString(16)}`);
      const bytes = [...said.matchAll(/0x([0-9a-f]{2})\b/g)].map(([, byte]) => Number(`0x${byte}`));
      expect(Buffer.from(bytes)).toEqual(mark);
    }
  });
});
