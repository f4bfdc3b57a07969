/**
 * The disk of a drill's machine: a raw file with two partitions, the first for the guest's `disk`
 * program, the second a file system. It is not a multiple of 64 KiB, as many a real disk.
 *
 * And what is proven with it at the end, once the guest wrote its last: the file is, bit by bit, what
 * the guest reads, and its file system is without fault.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { RomulusError } from '../../base/errors.ts';
import { MIB } from '../../base/units.ts';
import { runHelper } from './command.ts';

/** The name of the drive, for a mapping. */
export const DISK_ID = 'disk0';
/** Partitions, as the guest names them. */
export const BLOCKS_PARTITION = 'vda1';
export const FILES_PARTITION = 'vda2';
/** Size of the first, for the `disk` program. */
export const BLOCKS_MIB = 4;

const SECTOR_BYTES = 512;
const BLOCKS_START_BYTES = MIB;
const FILES_START_BYTES = BLOCKS_START_BYTES + BLOCKS_MIB * MIB;
const FILES_BYTES = 16 * MIB;
/** Beyond the last whole 64 KiB. */
const ODD_BYTES = 3 * 4096;
const DISK_BYTES = FILES_START_BYTES + FILES_BYTES + ODD_BYTES;

const TABLE_OFFSET = 446;
const ENTRY_BYTES = 16;
const TYPE_LINUX = 0x83;
const BOOT_SIGNATURE = 0xaa55;

/** A master boot record with partitions, given in bytes. */
function partitionTable(
  partitions: readonly { readonly start: number; readonly size: number }[],
): Buffer {
  const record = Buffer.alloc(SECTOR_BYTES);
  for (const [index, { start, size }] of partitions.entries()) {
    const entry = TABLE_OFFSET + index * ENTRY_BYTES;
    record.writeUInt8(TYPE_LINUX, entry + 4);
    record.writeUInt32LE(start / SECTOR_BYTES, entry + 8);
    record.writeUInt32LE(size / SECTOR_BYTES, entry + 12);
  }
  record.writeUInt16LE(BOOT_SIGNATURE, SECTOR_BYTES - 2);
  return record;
}

/**
 * Makes an empty disk.
 * @throws {RomulusError} ERR_HOST_HELPER
 */
export async function makeDisk(path: string): Promise<void> {
  const file = await open(path, 'wx', 0o640);
  try {
    await file.truncate(DISK_BYTES);
    await file.write(
      partitionTable([
        { start: BLOCKS_START_BYTES, size: BLOCKS_MIB * MIB },
        { start: FILES_START_BYTES, size: FILES_BYTES },
      ]),
    );
  } finally {
    await file.close();
  }
  const where = `offset=${FILES_START_BYTES}`;
  await runHelper('mke2fs', [
    '-q',
    '-F',
    '-t',
    'ext4',
    '-E',
    where,
    path,
    `${FILES_BYTES / 1024}k`,
  ]);
}

/** MD5 of the file, as the guest's `digest` tells it of its disk. */
export async function digestOf(path: string): Promise<string> {
  const hash = createHash('md5');
  for await (const piece of createReadStream(path, { highWaterMark: MIB }))
    hash.update(piece as Buffer);
  return hash.digest('hex');
}

/** What e2fsck found wrong in the disk's file system, null when nothing. Nothing is repaired. */
export async function faultsOf(path: string): Promise<string | null> {
  try {
    await runHelper('e2fsck', ['-f', '-n', fileSystemIn(path)]);
    return null;
  } catch (error) {
    return error instanceof RomulusError ? error.message : String(error);
  }
}

/** Copies a folder of the disk's file system out of it. */
export async function copyOut(path: string, folder: string, target: string): Promise<void> {
  await runHelper('debugfs', ['-R', `rdump ${folder} ${target}`, fileSystemIn(path)]);
}

/** How the tools of e2fsprogs name a file system that begins within a file. */
function fileSystemIn(path: string): string {
  return `${path}?offset=${FILES_START_BYTES}`;
}
