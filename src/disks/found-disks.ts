/**
 * The disks of a running QEMU, as it tells of them: found when they are attached to, and looked at again once
 * their mirrors are there.
 */
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import type { KnownImage } from '../base/disk-file.ts';
import {
  type DiskMonitor,
  filterName,
  mirrorError,
  mirrorExportName,
  query,
  startMirror,
} from './qemu-mirror.ts';

const blocksSchema = z.array(
  z.object({
    device: z.string(),
    qdev: z.string().optional(),
    inserted: z
      .object({
        'node-name': z.string().optional(),
        ro: z.boolean(),
        file: z.string().optional(),
        drv: z.string().optional(),
        backing_file_depth: z.number().optional(),
        image: z.object({ 'virtual-size': z.number().int().nonnegative() }),
      })
      .optional(),
  }),
);
const nodesSchema = z.array(
  z.object({
    'node-name': z.string().optional(),
    file: z.string().optional(),
    drv: z.string().optional(),
    backing_file_depth: z.number().optional(),
  }),
);

/** A disk that can be mirrored. */
export interface FoundDisk {
  /** Name by which QEMU's mirror takes it: a drive's id or a node's name. */
  readonly device: string;
  /** The node that holds what the guest sees. */
  readonly node: string;
  readonly diskBytes: number;
  /** Where its bytes are; null when QEMU does not tell. */
  readonly image: KnownImage | null;
  /**
   * Whether all of them are in that image: nothing is below it. What is may have been said to QEMU alone, when it
   * was started or later, and stands in no file then.
   */
  readonly isWhole: boolean;
  /** Id or path of the device that shows it to the guest; null when there is none. */
  readonly guestDevice: string | null;
}

/**
 * Finds disks by drive id, node name or the guest device's id or path.
 * @throws {RomulusError} ERR_DISK_MIRROR when one is not there or cannot be written.
 */
export async function findDisks(
  monitor: DiskMonitor,
  names: readonly string[],
): Promise<FoundDisk[]> {
  const blocks = await query(monitor, 'query-block', blocksSchema);
  return names.map((name) => {
    const found = blocks.find(
      ({ device, qdev, inserted }) =>
        inserted !== undefined &&
        (device === name || inserted['node-name'] === name || isDevice(qdev, name)),
    );
    const inserted = found?.inserted;
    const device = found?.device === '' ? inserted?.['node-name'] : found?.device;
    const node = inserted?.['node-name'];
    if (inserted === undefined || device === undefined || node === undefined || inserted.ro)
      throw mirrorError(
        `the machine has no writable disk '${name}'`,
        'Name a disk as `info block` in QEMU shows it.',
        { name },
      );
    const image = imageOf(inserted);
    const isWhole = isWholeImage(inserted);
    const guestDevice = found?.qdev ?? null;
    const diskBytes = inserted.image['virtual-size'];
    return { device, node, diskBytes, image, isWhole, guestDevice };
  });
}

function isDevice(qdev: string | undefined, name: string): boolean {
  return qdev === name || (qdev?.startsWith(`/machine/peripheral/${name}/`) ?? false);
}

interface NodeFacts {
  readonly file?: string | undefined;
  readonly drv?: string | undefined;
  readonly backing_file_depth?: number | undefined;
}

function imageOf({ file, drv: driver }: NodeFacts): KnownImage | null {
  return file === undefined || driver === undefined ? null : { file, driver };
}

function isWholeImage({ backing_file_depth: depth }: NodeFacts): boolean {
  return depth === 0;
}

/**
 * Expects that a disk's mirror, which was started, is above the image that was looked at, and that what the
 * guest sees is that mirror. Somebody may have given the disk another image in between; once there is a mirror,
 * QEMU refuses it.
 * @throws {RomulusError} ERR_DISK_MIRROR when it is not so; the monitor's own.
 */
export async function expectAsFound(
  monitor: DiskMonitor,
  disk: number,
  { device, node, image, isWhole }: FoundDisk,
): Promise<void> {
  const blocks = await query(monitor, 'query-block', blocksSchema);
  const top = blocks.find(({ inserted }) => inserted?.['node-name'] === filterName(disk));
  const nodes = await query(monitor, 'query-named-block-nodes', nodesSchema, { flat: true });
  const below = nodes.find(({ 'node-name': name }) => name === node);
  // A mirror's filter goes by the name of what is below it.
  const isAbove = image !== null && top?.inserted?.file === image.file;
  const isSame = below !== undefined && isDeepStrictEqual(imageOf(below), image);
  if (isAbove && isSame && isWholeImage(below) === isWhole) return;
  throw mirrorError(
    `the disk '${device}' was given another image while its mirror was being started`,
    'Nothing needs to be done: the disk is looked at again with the next attempt.',
    { device },
  );
}

/**
 * Starts the mirrors of disks. Those that are `read` from their files meanwhile are mirrored from now on only, and
 * expected to be as they were found; the others are copied as a whole.
 * @throws {RomulusError} ERR_DISK_MIRROR; the monitor's own.
 */
export async function startMirrors(
  monitor: DiskMonitor,
  disks: readonly FoundDisk[],
  options: {
    readonly read: readonly number[];
    readonly socketPath: string;
    readonly bytesPerSecondMax?: number | undefined;
  },
): Promise<void> {
  const { read, socketPath, bytesPerSecondMax } = options;
  for (const [disk, { device, node }] of disks.entries()) {
    const isRead = read.includes(disk);
    await startMirror(monitor, {
      disk,
      // Above the very image that is read: QEMU refuses a node that is not what the guest sees any more.
      device: isRead ? node : device,
      socketPath,
      exportName: mirrorExportName(disk),
      copiesAll: !isRead,
      bytesPerSecondMax,
    });
  }
  for (const [disk, found] of disks.entries())
    if (read.includes(disk)) await expectAsFound(monitor, disk, found);
}
