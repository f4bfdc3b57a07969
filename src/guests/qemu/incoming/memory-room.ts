/**
 * How much memory is to be had, and in pages of which size: of the host, of one of its pools of huge
 * pages, in a directory that holds memory. It is what can be had now; only what is allocated stays.
 */
import { readFileSync, statfsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { RomulusError } from '../../../base/errors.ts';
import { PAGE_BYTES } from '../../../base/units.ts';

/** How the two versions of control groups tell of memory; a host may have both, with memory in one. */
const CGROUPS = [
  {
    line: /^0::(\/.*)$/m,
    mount: 'sys/fs/cgroup',
    limit: 'memory.max',
    used: 'memory.current',
    cache: /^(?:in)?active_file (\d+)$/gm,
  },
  {
    line: /^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(\/.*)$/m,
    mount: 'sys/fs/cgroup/memory',
    limit: 'memory.limit_in_bytes',
    used: 'memory.usage_in_bytes',
    cache: /^total_(?:in)?active_file (\d+)$/gm,
  },
] as const;
/** Deeper ones are not made by anybody. */
const CGROUP_LEVELS_MAX = 64;
/** Where the kernel keeps its pools of huge pages; the remedies name it too. */
export const HUGE_PAGES_PATH = '/sys/kernel/mm/hugepages';
/** HUGETLBFS_MAGIC of linux/magic.h. */
export const HUGETLBFS_MAGIC = 0x95_84_58_f6;

/** Memory that can be had somewhere. */
export interface MemoryRoom {
  readonly pageBytes: number;
  readonly freeBytes: number;
}

/**
 * Ordinary memory of this host, for us and the QEMU that we start: what is available, and what our control
 * groups leave of it.
 * @param root where `proc` and `sys` are.
 */
export function hostRoom(root = '/'): MemoryRoom {
  const line = /^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync(join(root, 'proc/meminfo'), 'utf8'));
  const availableBytes = Number(line?.[1] ?? 0) * 1024;
  return { pageBytes: PAGE_BYTES, freeBytes: Math.min(availableBytes, ...groupRooms(root)) };
}

/** What each control group that we are in, from the innermost out, still allows. */
function groupRooms(root: string): number[] {
  const memberships = textOf(join(root, 'proc/self/cgroup')) ?? '';
  return CGROUPS.flatMap(({ line, mount, limit, used, cache }) => {
    let group = line.exec(memberships)?.[1];
    const rooms: number[] = [];
    for (let level = 0; group !== undefined && level < CGROUP_LEVELS_MAX; level += 1) {
      const directory = join(root, mount, group);
      // `max` where there is none; and none in a container for groups that are above it.
      const limitBytes = Number(textOf(join(directory, limit)) ?? Number.NaN);
      if (!Number.isNaN(limitBytes)) {
        const usedBytes = Number(textOf(join(directory, used)) ?? 0);
        // What is only cached goes when it is needed.
        const stat = textOf(join(directory, 'memory.stat')) ?? '';
        const cachedBytes = [...stat.matchAll(cache)].reduce(
          (sum, [, bytes]) => sum + Number(bytes),
          0,
        );
        rooms.push(Math.max(0, limitBytes - usedBytes + cachedBytes));
      }
      group = group === '/' ? undefined : dirname(group);
    }
    return rooms;
  });
}

/**
 * Null where there is no such file, or it does not tell: the files of a control group may be hidden (EACCES) or go with
 * it (ENODEV). Then no limit is known, and that alone keeps nobody from being protected.
 */
function textOf(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return null;
  }
}

/** The host's huge pages of a size that nobody has or was promised; null when it has none of that size. */
export function hugePageRoom(pageBytes: number): MemoryRoom | null {
  const pool = `${HUGE_PAGES_PATH}/hugepages-${pageBytes / 1024}kB`;
  const free = textOf(`${pool}/free_hugepages`);
  const promised = textOf(`${pool}/resv_hugepages`);
  if (free === null || promised === null) return null;
  return { pageBytes, freeBytes: Math.max(0, Number(free) - Number(promised)) * pageBytes };
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
