/**
 * How much memory is to be had, and in pages of which size: of the host, of one of its pools of huge
 * pages, in a directory that holds memory. It is what can be had now; only what is allocated stays.
 */
import { readFileSync, statfsSync } from 'node:fs';
import { RomulusError } from '../../../base/errors.ts';
import { PAGE_BYTES } from '../../../base/units.ts';

const MEMINFO_PATH = '/proc/meminfo';
/** Where the kernel keeps its pools of huge pages; the remedies name it too. */
export const HUGE_PAGES_PATH = '/sys/kernel/mm/hugepages';
/** HUGETLBFS_MAGIC of linux/magic.h. */
export const HUGETLBFS_MAGIC = 0x95_84_58_f6;

/** Memory that can be had somewhere. */
export interface MemoryRoom {
  readonly pageBytes: number;
  readonly freeBytes: number;
}

/** Ordinary memory of this host. */
export function hostRoom(): MemoryRoom {
  const line = /^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync(MEMINFO_PATH, 'utf8'));
  return { pageBytes: PAGE_BYTES, freeBytes: Number(line?.[1] ?? 0) * 1024 };
}

/** The host's huge pages of a size that nobody has or was promised; null when it has none of that size. */
export function hugePageRoom(pageBytes: number): MemoryRoom | null {
  const pool = `${HUGE_PAGES_PATH}/hugepages-${pageBytes / 1024}kB`;
  const count = (name: string): number => Number(readFileSync(`${pool}/${name}`, 'utf8'));
  try {
    const freePages = Math.max(0, count('free_hugepages') - count('resv_hugepages'));
    return { pageBytes, freeBytes: freePages * pageBytes };
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}

/**
 * Memory in a directory on tmpfs or hugetlbfs: what its own limit leaves, and no more than there is.
 * @throws {RomulusError} ERR_HOST_SPACE when there is no such directory.
 */
export function directoryRoom(directory: string): MemoryRoom {
  let found: ReturnType<typeof statfsSync>;
  try {
    found = statfsSync(directory);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new RomulusError('ERR_HOST_SPACE', `no memory can be had at ${directory}: ${reason}`, {
      remedy: 'Mount a hugetlbfs or tmpfs there, or leave the directory out.',
      cause,
      details: { directory },
    });
  }
  const { type, bsize, blocks, bavail } = found;
  const source = type === HUGETLBFS_MAGIC ? hugePageRoom(bsize) : hostRoom();
  // Both say that they have no blocks at all when they were mounted without a limit.
  const limitBytes = blocks === 0 ? Number.POSITIVE_INFINITY : bavail * bsize;
  return {
    pageBytes: type === HUGETLBFS_MAGIC ? bsize : PAGE_BYTES,
    freeBytes: Math.min(limitBytes, source?.freeBytes ?? 0),
  };
}

/** What blocks of these sizes take, each in whole pages. */
export function neededBytes(sizes: readonly number[], pageBytes: number): number {
  return sizes.reduce((sum, bytes) => sum + Math.ceil(bytes / pageBytes) * pageBytes, 0);
}
