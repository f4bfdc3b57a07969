/**
 * Tells RAM blocks of equal size apart by their bytes: QEMU's own stream says what each block holds,
 * /proc/PID/mem what is at each address.
 *
 * Blocks that hold equal bytes (the same option ROM for two network cards) need no telling apart:
 * they are given addresses in the order in which QEMU made them.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import type { Mapping, PlacedBlock, SameSized } from './ram-layout.ts';

/** The outcome for one group. */
export interface ContentMatch {
  readonly names: readonly string[];
  /** Null when the bytes are needed and not given, or match nothing. */
  readonly placed: readonly PlacedBlock[] | null;
}

/** Matches one group; `contents` null: only what needs no contents. */
export function matchByContent(
  pid: number,
  group: SameSized,
  contents: ReadonlyMap<string, Uint8Array> | null,
): ContentMatch {
  const names = group.blocks.map(({ name }) => name);
  const found = group.candidates.map((mapping) => ({ mapping, bytes: readMemory(pid, mapping) }));
  const [first] = found;
  const alike = found.every(({ bytes }) => first !== undefined && first.bytes.equals(bytes));
  if (alike && found.length === group.blocks.length)
    return { names, placed: group.blocks.flatMap((block, at) => placedAt(block, found[at])) };
  if (contents === null) return { names, placed: null };
  const free = [...found];
  const placed: PlacedBlock[] = [];
  for (const block of group.blocks) {
    const wanted = contents.get(block.name);
    const at = free.findIndex(
      ({ bytes }) =>
        wanted !== undefined && bytes.subarray(0, block.usedBytes).equals(Buffer.from(wanted)),
    );
    if (at < 0) return { names, placed: null };
    placed.push(...placedAt(block, free[at]));
    free.splice(at, 1);
  }
  return { names, placed };
}

function placedAt(
  block: SameSized['blocks'][number],
  found: { readonly mapping: Mapping } | undefined,
): PlacedBlock[] {
  if (found === undefined) return [];
  return [{ ...block, address: found.mapping.start, mapping: found.mapping }];
}

function readMemory(pid: number, { start, end }: Mapping): Buffer {
  const bytes = Buffer.alloc(Number(end - start));
  const fd = openSync(`/proc/${pid}/mem`, 'r');
  try {
    for (let at = 0; at < bytes.length; ) {
      const got = readSync(fd, bytes, at, bytes.length - at, start + BigInt(at));
      if (got === 0) break;
      at += got;
    }
  } finally {
    closeSync(fd);
  }
  return bytes;
}
