/**
 * QEMUs before 8.2, whose mirrors may miss writes of the instant in which they are put above a disk: QEMU drains
 * the disk for that, and holds back what its devices begin meanwhile. That is let go through the mirror before its
 * job is there, and before 8.2 such a write was neither mirrored nor remembered (`bdrv_mirror_top_do_write` in
 * block/mirror.c). A mirror that copies everything does so after that. A virtio device takes nothing from its queue
 * while it is drained, so nothing of it is held back; IDE, AHCI, other SCSI adapters and USB go on by themselves.
 */
import { z } from 'zod';
import type { FoundDisk } from './found-disks.ts';
import { versionOf } from './old-iothreads.ts';
import { type DiskMonitor, isRefusal } from './qemu-mirror.ts';

/** What a virtio device is named in the tree of QEMU's objects, below what plugs it into a bus. */
const VIRTIO = 'virtio-backend';

const pathSchema = z.string();

/**
 * Whether a write to a disk, or to a disk on such a device, may be missed by a mirror that copies nothing.
 * @throws {RomulusError} the monitor's own.
 */
export async function mayMissWrites(
  monitor: DiskMonitor,
  { guestDevice }: FoundDisk,
): Promise<boolean> {
  const version = await versionOf(monitor);
  if (version !== null && (version.major > 8 || (version.major === 8 && version.minor >= 2)))
    return false;
  if (guestDevice === null) return true;
  if (guestDevice.endsWith(`/${VIRTIO}`)) return false;
  const path = guestDevice.startsWith('/') ? guestDevice : `/machine/peripheral/${guestDevice}`;
  try {
    const bus = await monitor.command('qom-get', { path, property: 'parent_bus' });
    return pathSchema.safeParse(bus).data?.includes(`/${VIRTIO}/`) !== true;
  } catch (error) {
    if (isRefusal(error)) return true;
    throw error;
  }
}
