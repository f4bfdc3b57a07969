/** Places for memory that are small or of huge pages, for tests that are root's. */
import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { MIB } from '../../src/base/units.ts';
import { skipAnywhere } from './require.ts';

const POOL_PATH = '/sys/kernel/mm/hugepages/hugepages-2048kB';
export const HUGE_PAGE_BYTES = 2 * MIB;

/** Mounts a file system that holds memory; returns what takes it away. */
export function mounted(type: 'tmpfs' | 'hugetlbfs', path: string, options: string): () => void {
  mkdirSync(path);
  execFileSync('mount', ['-t', type, '-o', options, 'none', path]);
  return () => execFileSync('umount', ['-l', path]);
}

/** Writes a file until its file system has no room left. */
export function filledUp(directory: string): string {
  const path = join(directory, 'fill');
  const fd = openSync(path, 'w');
  try {
    for (const bytes of [MIB, 4096]) {
      const piece = Buffer.alloc(bytes, 1);
      while (wasWritten(fd, piece));
    }
  } finally {
    closeSync(fd);
  }
  return path;
}

function wasWritten(fd: number, piece: Uint8Array): boolean {
  try {
    return writeSync(fd, piece) === piece.byteLength;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC') return false;
    throw error;
  }
}

function poolCount(name: string): number {
  return Number(readFileSync(`${POOL_PATH}/${name}`, 'utf8'));
}

/** Huge pages of 2 MiB that nobody has. */
export function freeHugePages(): number {
  return poolCount('free_hugepages');
}

/**
 * Adds huge pages of 2 MiB to the host's pool; returns what puts it back. Null, told loudly, where none can be
 * had: a container may not change the pool, and a host's memory may be in too many pieces.
 */
export function moreHugePages(count: number): (() => void) | null {
  const what = 'tests on huge pages';
  try {
    const before = poolCount('nr_hugepages');
    const putBack = (): void => writeFileSync(`${POOL_PATH}/nr_hugepages`, String(before));
    writeFileSync(`${POOL_PATH}/nr_hugepages`, String(before + count));
    if (poolCount('nr_hugepages') >= before + count) return putBack;
    putBack();
    skipAnywhere(what, `the kernel has no ${count} of them`);
  } catch (error) {
    skipAnywhere(what, (error as Error).message);
  }
  return null;
}
