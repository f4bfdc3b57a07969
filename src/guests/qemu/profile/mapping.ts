/**
 * What the backup puts in the place of the source host's own things: files, sockets, taps. Part of
 * the backup's configuration; everything left out gets a default where there is a safe one.
 */
import { z } from 'zod';

const path = z.string().min(1).max(4096);

/** Checks a mapping from a configuration file. */
export const qemuMappingSchema = z
  .strictObject({
    /** Disks, by -drive id, block node name or device id: the path of the copy here. */
    drives: z
      .record(
        z.string(),
        z.union([path, z.strictObject({ path, format: z.enum(['raw', 'qcow2']) })]),
      )
      .default({}),
    /** Character devices, by id (`serial0` for the first -serial): as after `-chardev`, without id. */
    chardevs: z.record(z.string(), z.string().min(1)).default({}),
    /** Network backends, by id: as after `-netdev`, without id. */
    netdevs: z.record(z.string(), z.string().min(1)).default({}),
    /** Any other path: there and here. */
    files: z.record(z.string(), path).default({}),
    /** `ordinary`: RAM that has huge pages there need not have them here. */
    hugepages: z.enum(['same', 'ordinary']).default('same'),
    /** Options of the source to leave out, without dashes. */
    dropArgs: z.array(z.string()).max(256).default([]),
    /** Options to add, as on a command line. */
    extraArgs: z.array(z.string()).max(256).default([]),
  })
  .default({
    drives: {},
    chardevs: {},
    netdevs: {},
    files: {},
    hugepages: 'same',
    dropArgs: [],
    extraArgs: [],
  });

/** What the backup puts in the place of the source host's own things. */
export type QemuMapping = z.infer<typeof qemuMappingSchema>;
/** As it may be written: all keys are optional. */
export type QemuMappingInput = z.input<typeof qemuMappingSchema>;

/** An entry of a mapping; never something that all objects have, whatever the key. */
export function entryOf<T>(entries: Readonly<Record<string, T>>, key: string): T | undefined {
  return Object.hasOwn(entries, key) ? entries[key] : undefined;
}
