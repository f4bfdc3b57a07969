/**
 * What a simulated machine says of itself (`info` of the control socket), checked, and what of it
 * a backup must know to build the same machine (the descriptor's profile).
 */
import { z } from 'zod';
import { RomulusError } from '../../base/errors.ts';
import type { GuestDescriptor } from '../guest.ts';

/** Names of the workloads that romulus-sim knows. */
export const SIM_WORKLOADS = ['idle', 'counter', 'random', 'hotspot', 'stream', 'kv'] as const;
export type SimWorkload = (typeof SIM_WORKLOADS)[number];

const count = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
const unsigned64 = z
  .string()
  .regex(/^\d{1,20}$/)
  .transform((text) => BigInt(text))
  .refine((value) => value < 1n << 64n);

const infoSchema = z.object({
  protocolVersion: z.literal(1),
  pid: z.number().int().positive(),
  memoryBytes: count,
  ramAddress: z
    .string()
    .regex(/^0x[0-9a-f]{1,16}$/)
    .transform((text) => BigInt(text)),
  ramFd: count,
  diskBytes: count,
  diskFd: count,
  workload: z.enum(SIM_WORKLOADS),
  seed: unsigned64,
  rate: count,
  beacons: count,
  tracker: z.enum(['mprotect', 'none']),
  deviceStateBytes: count,
  running: z.boolean(),
  busy: z.boolean(),
  step: count,
  emitSeq: count,
  inputSeq: count,
  diskWrites: count,
  hash: unsigned64,
  netConnected: z.boolean(),
  diskConnected: z.boolean(),
  framesSent: count,
  diskFramesSent: count,
  ringFrames: count,
  ringBytes: count,
  inputsQueued: count,
  emitsDropped: count,
  inputsDropped: count,
  lineStalls: count,
  ringStalls: count,
  protocolErrors: count,
});

/** The machine's answer to `info`. */
export type SimInfo = z.output<typeof infoSchema>;

/**
 * Reads the JSON that follows `ok` in the answer to `info`.
 * @throws {RomulusError} ERR_PROTOCOL_GUEST_CONTROL when it is not what a machine says.
 */
export function parseSimInfo(text: string): SimInfo {
  let cause: unknown;
  try {
    const parsed = infoSchema.safeParse(JSON.parse(text));
    if (parsed.success) return parsed.data;
    cause = parsed.error;
  } catch (error) {
    cause = error;
  }
  throw new RomulusError('ERR_PROTOCOL_GUEST_CONTROL', 'the machine described itself wrongly', {
    remedy: 'Check that the socket belongs to a romulus-sim of the same version.',
    cause,
    details: { answer: text.slice(0, 200) },
  });
}

const profileSchema = z.object({
  workload: z.enum(SIM_WORKLOADS),
  /** Decimal text: JSON numbers lose bits above 2^53. */
  seed: z.string().regex(/^\d{1,20}$/),
  rate: count,
  beacons: count,
});

/** What a descriptor's profile holds for a simulated machine. */
export type SimProfile = z.output<typeof profileSchema>;

/** The descriptor of the machine that gave this `info`. */
export function describeSim(info: SimInfo, name: string): GuestDescriptor {
  const profile: SimProfile = {
    workload: info.workload,
    seed: info.seed.toString(),
    rate: info.rate,
    beacons: info.beacons,
  };
  return {
    kind: 'sim',
    name,
    blocks: [{ id: 0, name: 'ram', bytes: info.memoryBytes }],
    disks: [{ id: 0, name: 'disk', bytes: info.diskBytes }],
    diskMode: 'replicate',
    profile: { ...profile },
  };
}

/**
 * The settings in a descriptor that came from the other node.
 * @throws {RomulusError} ERR_GUEST_DESCRIPTOR when it describes no simulated machine.
 */
export function readSimDescriptor(descriptor: GuestDescriptor): {
  readonly memoryBytes: number;
  readonly diskBytes: number;
  readonly profile: SimProfile;
} {
  const profile = profileSchema.safeParse(descriptor.profile);
  const [ram, ...others] = descriptor.blocks;
  const [disk, ...otherDisks] = descriptor.disks;
  if (
    descriptor.kind !== 'sim' ||
    ram === undefined ||
    ram.id !== 0 ||
    others.length > 0 ||
    disk?.id !== 0 ||
    otherDisks.length > 0 ||
    descriptor.diskMode !== 'replicate' ||
    !profile.success
  ) {
    throw new RomulusError(
      'ERR_GUEST_DESCRIPTOR',
      `the machine '${descriptor.name}' is not described as a simulated machine`,
      {
        remedy: 'Check that both nodes are of the same version and protect the same machine.',
        cause: profile.error,
        details: { kind: descriptor.kind, blocks: descriptor.blocks.length },
      },
    );
  }
  return { memoryBytes: ram.bytes, diskBytes: disk.bytes, profile: profile.data };
}
