/**
 * The files that a machine's writable disks are on a backup: checked before anything starts, made
 * where they are not there yet, and opened for whoever writes the replicas.
 *
 * A replica is exactly as long as the disk, because the guest sees its length. One that we make has no
 * room reserved: what the guest never wrote takes none. Its room is checked all the same, since a
 * replica that is full costs the image.
 */
import { closeSync, fstatSync, ftruncateSync, openSync, type Stats } from 'node:fs';
import { access, constants, readFile, stat, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { RomulusError } from '../../../base/errors.ts';
import type { DiskMode, GuestDescriptor } from '../../guest.ts';
import type { PlacedDisk } from '../profile/places.ts';
import type { ProfileDrive, QemuProfile } from '../profile/profile.ts';
import type { Refusal } from '../profile/refusals.ts';
import { replicatedDrives, writableFlash } from '../profile/replicated-drives.ts';

const FILE_MODE = 0o600;
const SECTOR_BYTES = 512;
/** Unit of `stat.blocks`. */
const BLOCK_BYTES = 512;

/** A disk's replica, opened. */
export interface Replica {
  /** The disk's id in the guest descriptor. */
  readonly id: number;
  readonly fd: number;
  readonly bytes: number;
  /** Idempotent. */
  close(): void;
}

/** A file of ours: a replica, or (null) flash, whose content QEMU writes itself. */
interface OwnFile {
  readonly path: string;
  readonly bytes: number;
  readonly diskId: number | null;
}

/** Which of the placed disks are ours to make, and which must be there. */
export function filesOfDisks(
  profile: QemuProfile,
  placed: readonly PlacedDisk[],
  diskMode: DiskMode,
): { readonly files: readonly OwnFile[]; readonly foreign: readonly string[] } {
  const files: OwnFile[] = [];
  const own = (drive: ProfileDrive, diskId: number | null): void => {
    const place = placed.find(({ names }) => namesOf(drive).some((name) => names.includes(name)));
    if (place !== undefined) files.push({ path: place.path, bytes: drive.bytes, diskId });
  };
  if (diskMode === 'replicate')
    for (const [diskId, drive] of replicatedDrives(profile).entries()) own(drive, diskId);
  if (diskMode !== 'shared') for (const drive of writableFlash(profile)) own(drive, null);
  const paths = new Set(files.map(({ path }) => path));
  const foreign = placed.map(({ path }) => path).filter((path) => !paths.has(path));
  return { files, foreign };
}

function namesOf({ id, nodeName, device }: ProfileDrive): string[] {
  const deviceId = /^\/machine\/peripheral\/([^/]+)/.exec(device)?.[1] ?? '';
  return [id, nodeName, deviceId].filter((name) => name !== '' && !name.startsWith('#'));
}

/** Why a disk's file cannot be used that somebody else has to provide; null when it can. */
export async function refusalOfForeign(path: string): Promise<Refusal | null> {
  // What is no path here is a name of storage elsewhere, which QEMU opens itself.
  if (!path.startsWith('/')) return null;
  return inaccessible(path, constants.R_OK | constants.W_OK);
}

/** Why a replica cannot be made or used; null when it can. */
export async function refusalOfReplica({ path, bytes }: OwnFile): Promise<Refusal | null> {
  let there: Stats | null = null;
  try {
    there = await stat(path);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') return refused('disk-access', path, wordsOf(error));
  }
  const directory = dirname(path);
  const access = await (there === null
    ? inaccessible(directory, constants.W_OK | constants.X_OK)
    : inaccessible(path, constants.R_OK | constants.W_OK));
  if (access !== null) return access;
  const isDevice = there?.isBlockDevice() === true;
  if (there !== null && !there.isFile() && !isDevice)
    return refused('disk-access', path, 'it is neither a file nor a block device');
  const size = there === null ? bytes : isDevice ? await deviceBytes(there) : there.size;
  if (size !== bytes)
    return {
      code: 'disk-size',
      what: `the replica ${path}`,
      why: `it has ${size} bytes, the primary's disk ${bytes}`,
      remedy: 'Name another file in the mapping, or remove this one: it is made as it must be.',
    };
  if (isDevice) return null;
  const { bavail, bsize } = await statfs(directory);
  const missingBytes = bytes - (there === null ? 0 : there.blocks * BLOCK_BYTES);
  if (missingBytes <= bavail * bsize) return null;
  return {
    code: 'disk-room',
    what: `the replica ${path}`,
    why: `it may need ${missingBytes} bytes more, and there is room for ${bavail * bsize}`,
    remedy: 'Make room there, or name a file on another file system in the mapping.',
  };
}

/**
 * Opens all replicas, and makes what is not there. What was refused before was refused then; here
 * only what changed meanwhile fails.
 * @throws {RomulusError} ERR_DISK_OPEN; nothing is left open then.
 */
export function openReplicas(
  profile: QemuProfile,
  placed: readonly PlacedDisk[],
  descriptor: GuestDescriptor,
): Replica[] {
  const { files } = filesOfDisks(profile, placed, descriptor.diskMode);
  const replicas: Replica[] = [];
  try {
    for (const { id, bytes } of descriptor.disks) {
      const file = files.find(({ diskId }) => diskId === id);
      if (file?.bytes !== bytes) throw openError(String(id), 'the descriptor contradicts itself');
    }
    for (const { path, bytes, diskId } of files) {
      const fd = openOrMake(path, bytes);
      if (diskId === null) closeSync(fd);
      else replicas.push(replicaOf(diskId, fd, bytes));
    }
  } catch (error) {
    for (const replica of replicas) replica.close();
    throw error;
  }
  return replicas;
}

function replicaOf(id: number, fd: number, bytes: number): Replica {
  let isClosed = false;
  const close = (): void => {
    if (!isClosed) closeSync(fd);
    isClosed = true;
  };
  return { id, fd, bytes, close };
}

function openOrMake(path: string, bytes: number): number {
  try {
    try {
      return openSync(path, 'r+');
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') throw error;
    }
    const fd = openSync(path, 'wx+', FILE_MODE);
    ftruncateSync(fd, bytes);
    if (fstatSync(fd).size === bytes) return fd;
    throw new Error('its size did not become what it must be');
  } catch (cause) {
    throw openError(path, wordsOf(cause), cause);
  }
}

async function deviceBytes({ rdev }: Stats): Promise<number> {
  // Node gives the number as the kernel encodes it for user space.
  const major = ((rdev >> 8) & 0xfff) | 0;
  const minor = (rdev & 0xff) | ((rdev >> 12) & 0xfff00);
  return Number(await readFile(`/sys/dev/block/${major}:${minor}/size`, 'utf8')) * SECTOR_BYTES;
}

async function inaccessible(path: string, mode: number): Promise<Refusal | null> {
  try {
    await access(path, mode);
    return null;
  } catch (error) {
    return refused('disk-access', path, wordsOf(error));
  }
}

function refused(code: 'disk-access', path: string, why: string): Refusal {
  return {
    code,
    what: `the disk's file ${path}`,
    why: `it cannot be written here (${why})`,
    remedy: 'Make it writable for this user, or name another in the mapping.',
  };
}

function openError(path: string, reason: string, cause?: unknown): RomulusError {
  return new RomulusError('ERR_DISK_OPEN', `cannot open the disk's replica ${path}: ${reason}`, {
    remedy: 'Check the file and its directory; both must be writable for this user.',
    ...(cause === undefined ? {} : { cause }),
    details: { path },
  });
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : '';
}

function wordsOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
