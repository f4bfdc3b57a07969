/**
 * Where a running QEMU keeps the guest's RAM: its RAM blocks (main memory, but also firmware, ACPI
 * tables, option ROMs and video memory) and the addresses they are mapped at in its process.
 *
 * QEMU names the blocks (`info ramblock`), and from 8.0 on it gives the addresses too. Older ones
 * are found in /proc/PID/maps: QEMU maps each block by itself, aligned to 2 MiB and followed by one
 * inaccessible page (qemu_ram_mmap in util/mmap-alloc.c), which nothing else in the process looks
 * like. Memory from a file is aligned less, so guest memory is found by asking (ram-hints.ts).
 * Blocks of equal size that hold equal bytes are given addresses in the order in which the
 * kernel hands them out, from the top down; where the bytes differ, they decide (`sameSized`).
 *
 * Pure: it parses texts. Reading them is attach.ts's part.
 */
import { RomulusError } from '../../base/errors.ts';
import { PAGE_BYTES } from '../../base/units.ts';
import { RAM_BLOCKS_MAX } from '../../codec/limits.ts';

/** QEMU_VMALLOC_ALIGN on x86-64: every block begins at a multiple of it. */
const BLOCK_ALIGNMENT_BYTES = 2n * 1024n * 1024n;

/** One line of `info ramblock`. */
export interface ListedBlock {
  readonly name: string;
  /** Bytes in use; a multiple of 4096. What is replicated. */
  readonly usedBytes: number;
  /** Bytes it may grow to: the size of its mapping. */
  readonly totalBytes: number;
  /** Where it is mapped, when QEMU says so. */
  readonly address: bigint | null;
}

/** One line of /proc/PID/maps. */
export interface Mapping {
  readonly start: bigint;
  readonly end: bigint;
  /** Such as `rw-p`. */
  readonly permissions: string;
  /** Where in its file it begins. */
  readonly offset: bigint;
  readonly inode: number;
  readonly path: string;
}

/** A block and where it is. */
export interface PlacedBlock extends ListedBlock {
  readonly address: bigint;
  readonly mapping: Mapping;
}

/** Blocks of one size, and the mappings that may be theirs: which is whose, the bytes must tell. */
export interface SameSized {
  readonly blocks: readonly ListedBlock[];
  /** In the order in which blocks are mapped: from the highest address down. */
  readonly candidates: readonly Mapping[];
}

/**
 * The blocks that the human monitor's `info ramblock` lists, in its order.
 * @throws {RomulusError} ERR_PROTOCOL_GUEST_CONTROL when it is not that table.
 */
export function parseRamBlocks(text: string): ListedBlock[] {
  const blocks: ListedBlock[] = [];
  for (const line of text.split(/\r?\n/)) {
    // Names may hold anything but never two numbers of this form at their end.
    const match =
      /^\s*(\S.*?)\s+\d+ [KM]iB\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)(?:\s+0x([0-9a-f]+))?(?:\s+\S+)?\s*$/i.exec(
        line,
      );
    if (match === null) continue;
    const [, name = '', used = '', total = '', host] = match;
    const usedBytes = Number(`0x${used}`);
    const totalBytes = Number(`0x${total}`);
    if (usedBytes === 0) continue;
    if (usedBytes % PAGE_BYTES !== 0 || usedBytes > totalBytes)
      throw layoutError(`block '${name}' uses ${usedBytes} of ${totalBytes} bytes`);
    const address = host === undefined ? null : BigInt(`0x${host}`);
    blocks.push({ name, usedBytes, totalBytes, address });
  }
  if (blocks.length === 0 || blocks.length > RAM_BLOCKS_MAX)
    throw layoutError(`${blocks.length} RAM blocks in '${text.slice(0, 200)}'`);
  return blocks;
}

/** The mappings in a text of /proc/PID/maps (proc_pid_maps(5)). */
export function parseMaps(text: string): Mapping[] {
  const mappings: Mapping[] = [];
  for (const line of text.split('\n')) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) \S+ (\d+)\s*(.*)$/.exec(line);
    if (match === null) continue;
    const [, start = '', end = '', permissions = '', offset = '', inode = '', path = ''] = match;
    mappings.push({
      start: BigInt(`0x${start}`),
      end: BigInt(`0x${end}`),
      permissions,
      offset: BigInt(`0x${offset}`),
      inode: Number(inode),
      path,
    });
  }
  return mappings;
}

/**
 * Finds every block's mapping. Those that sizes alone do not settle come back as `sameSized`.
 * @param inside a host address inside some of the blocks, by name, where it is known.
 * @throws {RomulusError} ERR_GUEST_RAM_LAYOUT when a block has no mapping that could be its own.
 */
export function placeBlocks(
  blocks: readonly ListedBlock[],
  mappings: readonly Mapping[],
  inside: ReadonlyMap<string, bigint> = new Map(),
): { readonly placed: readonly PlacedBlock[]; readonly sameSized: readonly SameSized[] } {
  const placed: PlacedBlock[] = [];
  const unplaced = new Map<number, ListedBlock[]>();
  for (const block of blocks) {
    const { address } = block;
    if (address === null) {
      const hint = inside.get(block.name);
      const around = mappings.find(
        ({ start, end }) => hint !== undefined && start <= hint && hint < end,
      );
      if (around !== undefined && around.end - around.start === BigInt(block.totalBytes)) {
        placed.push({ ...block, address: around.start, mapping: around });
        continue;
      }
      unplaced.set(block.totalBytes, [...(unplaced.get(block.totalBytes) ?? []), block]);
      continue;
    }
    const mapping = mappings.find(({ start, end }) => start <= address && address < end);
    if (mapping === undefined)
      throw nowhereError(block, 'the address that QEMU gives is not mapped');
    placed.push({ ...block, address, mapping });
  }
  const sameSized: SameSized[] = [];
  for (const [totalBytes, group] of unplaced) {
    const candidates = candidatesFor(totalBytes, mappings);
    const [block] = group;
    const [mapping] = candidates;
    if (block === undefined) continue;
    if (mapping === undefined || candidates.length < group.length)
      throw nowhereError(block, `${candidates.length} mappings look like its own`);
    if (group.length === 1 && candidates.length === 1)
      placed.push({ ...block, address: mapping.start, mapping });
    else sameSized.push({ blocks: group, candidates });
  }
  return { placed, sameSized };
}

function candidatesFor(totalBytes: number, mappings: readonly Mapping[]): Mapping[] {
  const found = mappings.filter((mapping, index) => {
    const guard = mappings[index + 1];
    return (
      mapping.end - mapping.start === BigInt(totalBytes) &&
      mapping.start % BLOCK_ALIGNMENT_BYTES === 0n &&
      mapping.permissions.startsWith('rw') &&
      guard?.start === mapping.end &&
      guard.permissions.startsWith('---')
    );
  });
  return found.toReversed();
}

function layoutError(what: string): RomulusError {
  return new RomulusError(
    'ERR_PROTOCOL_GUEST_CONTROL',
    `QEMU's list of RAM makes no sense: ${what}`,
    {
      remedy: 'Report this with the output of `info ramblock` and the version of QEMU.',
    },
  );
}

function nowhereError(block: ListedBlock, why: string): RomulusError {
  return new RomulusError(
    'ERR_GUEST_RAM_LAYOUT',
    `RAM block '${block.name}' of ${block.totalBytes} bytes is not found in QEMU's memory: ${why}`,
    {
      remedy: 'Check that --pid names the QEMU behind the QMP socket; else report this.',
      details: { block: block.name, totalBytes: block.totalBytes },
    },
  );
}
