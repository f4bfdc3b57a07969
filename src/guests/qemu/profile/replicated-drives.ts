/**
 * Which of a machine's drives are replicated: those that the guest can write to through a device,
 * but flash memory. What a guest writes to flash is RAM of QEMU's, which is replicated like all RAM;
 * a QEMU that has loaded it writes the file anew by itself. So the backup needs a file for it, of the
 * right size, and nothing in it.
 */
import { readdirSync, statSync } from 'node:fs';
import type { DiskFile } from '../../../base/disk-file.ts';
import type { GuestDescriptor } from '../../guest.ts';
import { ask } from '../qmp/commands.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import type { ProfileDrive, QemuProfile } from './profile.ts';
import type { Refusal } from './refusals.ts';

const FLASH_DEVICE = /\.flash\d+$/;
const FLASH_ID = /^pflash\d+$/;
/** Drivers of QEMU's whose disks lie in files that we read. */
const FORMATS: ReadonlyMap<string, DiskFile['format']> = new Map([
  ['raw', 'raw'],
  ['file', 'raw'],
  ['host_device', 'raw'],
  ['qcow2', 'qcow2'],
]);

/** Whether this is flash memory that holds what firmware keeps. */
export function isFlash({ id, device }: ProfileDrive): boolean {
  return FLASH_DEVICE.test(device) || FLASH_ID.test(id);
}

/** The drives whose writes go to replicas; their order numbers the disks. */
export function replicatedDrives({ drives }: QemuProfile): ProfileDrive[] {
  return drives.filter(
    (drive) => !drive.isReadOnly && drive.bytes > 0 && drive.device !== '' && !isFlash(drive),
  );
}

/** Flash memory whose file QEMU writes. */
export function writableFlash({ drives }: QemuProfile): ProfileDrive[] {
  return drives.filter((drive) => !drive.isReadOnly && drive.bytes > 0 && isFlash(drive));
}

/** Name of a drive that QEMU's commands take. */
export function nameOfDrive({ id, nodeName, device }: ProfileDrive): string {
  return [id, nodeName, device].find((name) => name !== '') ?? '';
}

/** The disks as the descriptor tells of them. */
export function disksOf(drives: readonly ProfileDrive[]): GuestDescriptor['disks'] {
  return drives.map((drive, id) => ({ id, name: nameOfDrive(drive), bytes: drive.bytes }));
}

/** Jobs on the machine's disks, by name. */
export async function blockJobs(qmp: QmpClient): Promise<string[]> {
  return (await ask(qmp, 'query-block-jobs')).map(({ device }) => device);
}

/** Why disks cannot be mirrored. */
export function diskRefusals(drives: readonly ProfileDrive[], jobs: readonly string[]): Refusal[] {
  if (drives.length === 0) return [];
  const encrypted = drives.filter(({ format }) => format === 'luks');
  return [
    ...jobs.map(
      (job): Refusal => ({
        code: 'disk-job',
        what: `the block job '${job}'`,
        why: 'a disk that is being copied or moved cannot be mirrored as well',
        remedy: 'Wait until it has ended (`query-block-jobs`), or protect with `--disk none`.',
      }),
    ),
    ...encrypted.map(
      (drive): Refusal => ({
        code: 'disk-encrypted',
        what: `the disk '${nameOfDrive(drive)}'`,
        why: 'its replica would not be encrypted',
        remedy: 'Encrypt in the guest, or protect with `--disk shared` or `none`.',
      }),
    ),
  ];
}

/**
 * The file in which a disk's bytes lie, whatever directories and names QEMU sees; null when it is not
 * found, or holds them in a form that we do not read.
 */
export function fileOf({ file, format }: ProfileDrive, pid: number): DiskFile | null {
  const form = FORMATS.get(format);
  if (form === undefined) return null;
  const path = file.replace(/^file:/, '');
  const seen = factsOf(
    path.startsWith('/') ? `/proc/${pid}/root${path}` : `/proc/${pid}/cwd/${path}`,
  );
  if (seen === null) return null;
  const directory = `/proc/${pid}/fd`;
  for (const descriptor of readdirSync(directory)) {
    const link = `${directory}/${descriptor}`;
    const facts = factsOf(link);
    if (facts?.ino !== seen.ino || facts.dev !== seen.dev) continue;
    return {
      path: link,
      format: form,
      identity: { device: facts.dev, inode: facts.ino },
      known: { file, driver: format },
    };
  }
  return null;
}

function factsOf(path: string): { readonly dev: bigint; readonly ino: bigint } | null {
  const facts = statSync(path, { bigint: true, throwIfNoEntry: false });
  return facts === undefined || (!facts.isFile() && !facts.isBlockDevice()) ? null : facts;
}
