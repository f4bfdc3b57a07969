/**
 * Asks a QEMU that does not tell addresses of RAM blocks (before 8.0) where guest memory lies: the
 * human monitor's `gpa2hva` answers for one guest address, naming the block. A few addresses per
 * piece of memory are asked, wherever a piece may begin; the answer's name says whose it is, so a
 * question too many does no harm.
 */
import { z } from 'zod';
import type { ProfileMemory } from './profile/profile.ts';

/** Where x86 machines may end memory below 4 GiB (hw/i386: pc, q35, Xen's and old types). */
const LOW_MEMORY_ENDS = [0x8000_0000, 0xb000_0000, 0xc000_0000, 0xe000_0000];
const HIGH_MEMORY_START = 0x1_0000_0000;
/** Into a piece, past what the first megabyte shadows. */
const INSIDE_BYTES = 0x10_0000;
/** Pieces of memory asked for. */
const PIECES_MAX = 64;

/** What is used of a `QmpClient`. */
interface Monitor {
  command(name: string, args?: object): Promise<unknown>;
  humanMonitor(line: string): Promise<string>;
}

const plugged = z.array(z.object({ data: z.object({ addr: z.number() }) }));

/** A host address inside each block that was found, by the block's name. */
export async function hostAddresses(
  monitor: Monitor,
  memory: readonly ProfileMemory[],
): Promise<Map<string, bigint>> {
  const found = new Map<string, bigint>();
  for (const address of await guestAddresses(monitor, memory)) {
    if (memory.every(({ blockName }) => found.has(blockName))) break;
    const answer = await monitor.humanMonitor(`gpa2hva 0x${address.toString(16)}`);
    const match = /^Host virtual address for 0x[0-9a-f]+ \((.+)\) is 0x([0-9a-f]+)/.exec(answer);
    const [, name, host] = match ?? [];
    if (name !== undefined && !found.has(name)) found.set(name, BigInt(`0x${host}`));
  }
  return found;
}

async function guestAddresses(
  monitor: Monitor,
  memory: readonly ProfileMemory[],
): Promise<number[]> {
  const addresses: number[] = [];
  let start = 0;
  for (const { bytes } of memory.slice(0, PIECES_MAX)) {
    addresses.push(start + INSIDE_BYTES);
    for (const lowEnd of LOW_MEMORY_ENDS)
      if (start + INSIDE_BYTES >= lowEnd)
        addresses.push(start + INSIDE_BYTES - lowEnd + HIGH_MEMORY_START);
    start += bytes;
  }
  const modules = plugged.safeParse(await monitor.command('query-memory-devices'));
  for (const { data } of modules.data ?? []) addresses.push(data.addr + INSIDE_BYTES);
  return addresses;
}
