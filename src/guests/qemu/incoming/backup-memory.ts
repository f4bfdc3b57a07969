/**
 * The memory behind the backup's copy of a machine: one object for each RAM block, without a name in
 * any file system, so that nothing can be left behind. QEMU gets the descriptors of the main blocks
 * by inheritance and opens them as `/proc/self/fd/N`; the small blocks stay with us and travel in
 * the stream.
 *
 * By default an object is a memfd: ordinary pages, bounded by the host's memory alone. With a
 * directory it is an unlinked file there, for hugetlbfs or a tmpfs with a limit of its own.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, readFileSync, statfsSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { RomulusError } from '../../../base/errors.ts';
import { Memory } from '../../../native/memory.ts';

/** A block to make memory for. */
export interface BlockSize {
  readonly id: number;
  readonly name: string;
  readonly bytes: number;
}

/** A block and its memory, mapped in this thread. */
export interface BackupBlock extends BlockSize {
  readonly memory: Memory;
}

/** Where the size of free memory is read; /proc/meminfo unless a test says otherwise. */
const MEMINFO_PATH = '/proc/meminfo';

/**
 * Makes memory for every block; all or none.
 * @param directory for `isMain` blocks: a mounted hugetlbfs or tmpfs; without it, memfds.
 * @throws {RomulusError} ERR_HOST_SPACE with the numbers, ERR_HOST_MEMORY_*.
 */
export function makeBackupMemory(
  blocks: readonly BlockSize[],
  isMain: (block: BlockSize) => boolean,
  directory?: string,
): BackupBlock[] {
  checkSpace(blocks, isMain, directory);
  const made: BackupBlock[] = [];
  try {
    for (const block of blocks) {
      const memory =
        directory !== undefined && isMain(block)
          ? unlinkedFile(directory, block.bytes)
          : Memory.create({ name: `romulus-${block.id}`, bytes: block.bytes });
      made.push({ ...block, memory });
    }
  } catch (error) {
    for (const { memory } of made) memory.close();
    throw error;
  }
  return made;
}

function checkSpace(
  blocks: readonly BlockSize[],
  isMain: (block: BlockSize) => boolean,
  directory: string | undefined,
): void {
  const sumOf = (some: readonly BlockSize[]): number =>
    some.reduce((sum, block) => sum + block.bytes, 0);
  if (directory === undefined) {
    requireSpace('this host', sumOf(blocks), availableMemoryBytes());
    return;
  }
  let availableBytes: number;
  try {
    const { bavail, bsize } = statfsSync(directory);
    availableBytes = bavail * bsize;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new RomulusError('ERR_HOST_SPACE', `no memory can be had at ${directory}: ${reason}`, {
      remedy: 'Mount a hugetlbfs or tmpfs there, or leave the directory out.',
      cause,
      details: { directory },
    });
  }
  requireSpace(directory, sumOf(blocks.filter(isMain)), availableBytes);
}

function requireSpace(where: string, neededBytes: number, availableBytes: number): void {
  if (neededBytes <= availableBytes) return;
  throw new RomulusError(
    'ERR_HOST_SPACE',
    `the machine needs ${mib(neededBytes)} of memory, ${where} has ${mib(availableBytes)} free`,
    {
      remedy: 'Free memory on this host, or let another one be the backup.',
      details: { neededBytes, availableBytes, where },
    },
  );
}

function mib(bytes: number): string {
  return `${Math.floor(bytes / 1024 / 1024)} MiB`;
}

function availableMemoryBytes(): number {
  const line = /^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync(MEMINFO_PATH, 'utf8'));
  return Number(line?.[1] ?? 0) * 1024;
}

function unlinkedFile(directory: string, bytes: number): Memory {
  const path = join(directory, `romulus-${process.pid}-${randomBytes(6).toString('hex')}`);
  const fd = openSync(path, 'wx+', 0o600);
  try {
    unlinkSync(path);
    ftruncateSync(fd, bytes);
    return Memory.map({ fd, bytes, writable: true });
  } finally {
    closeSync(fd);
  }
}
