/**
 * The description of a machine that travels in `hello` and `welcome`: what a backup must rebuild to
 * be able to run it. The guests' room uses this very type.
 */
import { z } from 'zod';
import { DISKS_MAX, RAM_BLOCKS_MAX } from './limits.ts';

const size = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);

/**
 * What becomes of a machine's disks: `replicate`: every write goes to replicas on the backup;
 * `shared`: both hosts see the same storage, nothing is copied; `none`: nothing is copied, and what
 * the copy finds on its disks is its operator's business.
 */
export const DISK_MODES = ['replicate', 'shared', 'none'] as const;
export type DiskMode = (typeof DISK_MODES)[number];

/** Checks a descriptor that came over the wire. */
export const guestDescriptorSchema = z
  .object({
    kind: z.enum(['sim', 'qemu']),
    name: z.string().min(1).max(256),
    blocks: z
      .array(
        z.object({
          // 0xffff is taken by the device state, which travels in page batches too.
          id: z.number().int().min(0).max(0xfffe),
          name: z.string().max(256),
          bytes: size,
        }),
      )
      .max(RAM_BLOCKS_MAX),
    disks: z
      .array(
        z.object({
          id: z.number().int().min(0).max(0xffff),
          name: z.string().max(256),
          bytes: size,
        }),
      )
      .max(DISKS_MAX),
    diskMode: z.enum(DISK_MODES),
    profile: z.record(z.string(), z.unknown()),
  })
  .refine(({ blocks }) => new Set(blocks.map((block) => block.id)).size === blocks.length, {
    message: 'two RAM blocks have the same id',
  })
  .refine(({ disks }) => new Set(disks.map((disk) => disk.id)).size === disks.length, {
    message: 'two disks have the same id',
  });

/** What a backup must rebuild to be able to run the machine. Travels in the handshake. */
export interface GuestDescriptor {
  readonly kind: 'sim' | 'qemu';
  readonly name: string;
  readonly blocks: readonly {
    readonly id: number;
    readonly name: string;
    readonly bytes: number;
  }[];
  /** The disks that are replicated; disk entries name them by their ids. */
  readonly disks: readonly {
    readonly id: number;
    readonly name: string;
    readonly bytes: number;
  }[];
  readonly diskMode: DiskMode;
  /** Whatever else the kind needs, opaque to the engine (for sim: workload, seed, rate). */
  readonly profile: Readonly<Record<string, unknown>>;
}
