/** Goal: of a QEMU whose mirrors may miss writes at their beginning, only disks of which they do not are trusted. */
import { describe, expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { findDisks, type FoundDisk } from '../../src/disks/found-disks.ts';
import type { DiskMonitor } from '../../src/disks/qemu-mirror.ts';
import { mayMissWrites } from '../../src/disks/queued-writes.ts';
import { DiskRig } from '../support/qemu/disk-rig.ts';
import { requireQemu } from '../support/qemu/require-qemu.ts';

const hasQemu = await requireQemu();

const TEST_MS = 60_000;

function monitorOf(version: unknown, bus: unknown): DiskMonitor {
  return {
    command: (name) => {
      if (name === 'query-version') return Promise.resolve(version);
      if (bus !== null) return Promise.resolve(bus);
      return Promise.reject(
        new RomulusError('ERR_GUEST_QMP_GENERIC', 'no such device', { remedy: 'None.' }),
      );
    },
    onEvent: () => () => undefined,
    onEnd: () => undefined,
  };
}

function disk(guestDevice: string | null): FoundDisk {
  return { device: 'd', node: 'n', diskBytes: 1, image: null, isWhole: true, guestDevice };
}

describe('a mirror that copies nothing', () => {
  it.each([
    [7, 2, '/machine/unattached/ide/ide.0', true],
    [8, 1, '/machine/unattached/ide/ide.0', true],
    [8, 2, '/machine/unattached/ide/ide.0', false],
    [10, 0, null, false],
    [7, 2, '/machine/peripheral/vs0/virtio-backend/vs0.0', false],
    [7, 2, null, true],
    [7, 2, 5, true],
  ])('of QEMU %i.%i, whose disk is at the bus %s, may miss writes: %s', async (...known) => {
    const [major, minor, bus, isMissing] = known;
    const monitor = monitorOf({ qemu: { major, minor } }, bus);
    expect(await mayMissWrites(monitor, disk('sd0'))).toBe(isMissing);
  });

  it('may miss them when it is not known of what QEMU, or of what device', async () => {
    expect(await mayMissWrites(monitorOf({}, null), disk('sd0'))).toBe(true);
    const old = monitorOf({ qemu: { major: 7, minor: 2 } }, null);
    expect(await mayMissWrites(old, disk(null))).toBe(true);
  });

  it.skipIf(!hasQemu)(
    'is trusted with the virtio disks of a real QEMU of any version',
    async () => {
      const rig = new DiskRig();
      try {
        const names = ['virtio', 'scsi', 'lsi', 'ide'];
        const drives = names.flatMap((name) => [
          '-blockdev',
          `driver=null-co,node-name=${name},size=1048576,read-zeroes=on`,
        ]);
        const devices = [
          'virtio-blk-pci,drive=virtio',
          'virtio-scsi-pci,id=vs0',
          'scsi-hd,bus=vs0.0,drive=scsi,id=sd0',
          'lsi53c895a,id=ls0',
          'scsi-hd,bus=ls0.0,drive=lsi',
          'ide-hd,drive=ide,id=hd0',
        ].flatMap((device) => ['-device', device]);
        await rig.start({ bare: true, extraArgs: [...drives, ...devices] });
        const old: DiskMonitor = {
          command: (name, args) =>
            name === 'query-version'
              ? Promise.resolve({ qemu: { major: 7, minor: 2 } })
              : rig.monitor.command(name, args),
          onEvent: () => () => undefined,
          onEnd: () => undefined,
        };
        const found = await findDisks(rig.monitor, names);
        const misses = await Promise.all(found.map((each) => mayMissWrites(old, each)));
        expect(misses).toEqual([false, false, true, true]);
      } finally {
        await rig.close();
      }
    },
    TEST_MS,
  );
});
