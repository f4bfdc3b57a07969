/**
 * The memory behind the backup's copy of a machine: one object for each RAM block, without a name in
 * any file system, so that nothing can be left behind. QEMU gets the descriptors of the main blocks
 * by inheritance and opens them as `/proc/self/fd/N`; the small blocks stay with us and travel in
 * the stream.
 *
 * By default an object is a memfd of ordinary pages, bounded by the host's memory alone. Its pages are
 * taken when they are first written, and what the guest never wrote takes none: to allocate them all
 * would cost a host the memory that its guests do not use. Main RAM that had huge pages gets a memfd of
 * huge pages; with a directory, main RAM is an unlinked file there. Both places are small, others use them
 * too, and who touches a page that cannot be had any more dies of SIGBUS: this node, or the promoted
 * machine. So all of such memory is allocated before QEMU is told anything (`reserveBackupMemory`), and
 * none of it is given back before the end (`isReserved`). It costs the first image nothing: 90 ms for
 * a GiB of ordinary pages, which writing to them then takes less.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { RomulusError, toRomulusError } from '../../../base/errors.ts';
import { Memory } from '../../../native/memory.ts';
import {
  directoryRoom,
  HUGE_PAGES_PATH,
  hostRoom,
  hugePageRoom,
  type MemoryRoom,
  neededBytes,
} from './memory-room.ts';

/** A block to make memory for. */
export interface BlockSize {
  readonly id: number;
  readonly name: string;
  readonly bytes: number;
}

/** A block and its memory, mapped in this thread. */
export interface BackupBlock extends BlockSize {
  readonly memory: Memory;
  /** Whether all of its pages are taken beforehand, and kept. */
  readonly isReserved: boolean;
}

/** Where main RAM is kept. */
export interface MainMemory {
  /** Whether a block is main RAM; the others are ordinary memory in any case. */
  readonly isMain: (block: BlockSize) => boolean;
  /** A mounted hugetlbfs or tmpfs. */
  readonly directory?: string;
  /** Without a directory: the size of the huge pages of a block, by its name; others have ordinary ones. */
  readonly hugePageBytes?: ReadonlyMap<string, number>;
}

type Place =
  | { readonly kind: 'ordinary' }
  | { readonly kind: 'huge'; readonly pageBytes: number }
  | { readonly kind: 'directory'; readonly directory: string };

/**
 * Makes memory for every block; all or none. What is reserved is not allocated yet.
 * @throws {RomulusError} ERR_HOST_SPACE with the numbers, ERR_HOST_MEMORY_*.
 */
export function makeBackupMemory(blocks: readonly BlockSize[], main: MainMemory): BackupBlock[] {
  const placed = blocks.map((block) => ({ block, place: placeOf(block, main) }));
  checkSpace(placed);
  const made: BackupBlock[] = [];
  try {
    for (const { block, place } of placed)
      made.push({
        ...block,
        memory: memoryAt(place, block),
        isReserved: place.kind !== 'ordinary',
      });
  } catch (error) {
    for (const { memory } of made) memory.close();
    throw error;
  }
  return made;
}

/**
 * Allocates what is to be reserved, off this thread.
 * @throws {RomulusError} ERR_HOST_SPACE when somebody else took the room meanwhile: what was allocated
 *   goes when the blocks are closed. ERR_HOST_MEMORY_CREATE where it cannot be done.
 */
export async function reserveBackupMemory(
  blocks: readonly BackupBlock[],
  { directory }: Pick<MainMemory, 'directory'>,
): Promise<void> {
  const where = directory ?? 'this host';
  for (const { name, bytes, memory, isReserved } of blocks) {
    if (!isReserved) continue;
    try {
      // One after the other: they would only wait for each other in the kernel.
      await memory.allocate();
    } catch (error) {
      const { code, message, remedy } = toRomulusError(error);
      throw new RomulusError(code, `${where} cannot hold RAM block ${name}: ${message}`, {
        remedy,
        cause: error,
        details: { block: name, neededBytes: bytes, where },
      });
    }
  }
}

function placeOf(block: BlockSize, { isMain, directory, hugePageBytes }: MainMemory): Place {
  if (!isMain(block)) return { kind: 'ordinary' };
  if (directory !== undefined) return { kind: 'directory', directory };
  const pageBytes = hugePageBytes?.get(block.name);
  return pageBytes === undefined ? { kind: 'ordinary' } : { kind: 'huge', pageBytes };
}

function memoryAt(place: Place, { id, bytes }: BlockSize): Memory {
  const name = `romulus-${id}`;
  if (place.kind === 'directory') return unlinkedFile(place.directory, bytes);
  return Memory.create({
    name,
    bytes,
    ...(place.kind === 'huge' && { hugePageBytes: place.pageBytes }),
  });
}

function checkSpace(placed: readonly { block: BlockSize; place: Place }[]): void {
  const bytesByPlace = new Map<string, { place: Place; sizes: number[] }>();
  for (const { block, place } of placed) {
    const key = JSON.stringify(place);
    const entry = bytesByPlace.get(key) ?? { place, sizes: [] };
    entry.sizes.push(block.bytes);
    bytesByPlace.set(key, entry);
  }
  for (const { place, sizes } of bytesByPlace.values()) {
    const { where, room, remedy } = roomOf(place);
    const bytes = neededBytes(sizes, room.pageBytes);
    if (bytes <= room.freeBytes) continue;
    throw new RomulusError(
      'ERR_HOST_SPACE',
      `the machine needs ${mib(bytes)} of memory, ${where} has ${mib(room.freeBytes)} free`,
      { remedy, details: { neededBytes: bytes, availableBytes: room.freeBytes, where } },
    );
  }
}

function roomOf(place: Place): { where: string; room: MemoryRoom; remedy: string } {
  const remedy = 'Free memory on this host, or let another one be the backup.';
  if (place.kind === 'ordinary') return { where: 'this host', room: hostRoom(), remedy };
  if (place.kind === 'directory')
    return { where: place.directory, room: directoryRoom(place.directory), remedy };
  const { pageBytes } = place;
  const kib = pageBytes / 1024;
  return {
    where: `this host's pool of ${kib} KiB pages`,
    room: hugePageRoom(pageBytes) ?? { pageBytes, freeBytes: 0 },
    remedy: `Reserve huge pages (${HUGE_PAGES_PATH}/hugepages-${kib}kB/nr_hugepages).`,
  };
}

function mib(bytes: number): string {
  return `${Math.floor(bytes / 1024 / 1024)} MiB`;
}

function unlinkedFile(directory: string, bytes: number): Memory {
  const path = join(directory, `romulus-${process.pid}-${randomBytes(6).toString('hex')}`);
  const { pageBytes } = directoryRoom(directory);
  const fd = openSync(path, 'wx+', 0o600);
  try {
    unlinkSync(path);
    ftruncateSync(fd, neededBytes([bytes], pageBytes));
    return Memory.map({ fd, bytes, writable: true });
  } finally {
    closeSync(fd);
  }
}
