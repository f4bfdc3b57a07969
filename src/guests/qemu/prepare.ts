/**
 * From a primary's description to a QEMU that waits to become the machine: checks that this host can
 * run it, builds its command line, starts it. What is refused is refused before anything starts.
 */
import { RomulusError } from '../../base/errors.ts';
import type { DiskMode, GuestDescriptor } from '../guest.ts';
import { prepareIncomingQemu } from './incoming.ts';
import type { IncomingQemu } from './incoming/incoming-qemu.ts';
import { openReplicas } from './incoming/replica-files.ts';
import { refusalsOnBackup } from './profile/backup-check.ts';
import { incomingCommandLine } from './profile/command-line.ts';
import type { QemuMapping } from './profile/mapping.ts';
import { heldNetRefusals } from './profile/net-hold.ts';
import { type QemuProfile, qemuProfileSchema } from './profile/profile.ts';
import { refuseIfAny } from './profile/refusals.ts';

export interface PrepareQemuOptions {
  readonly descriptor: GuestDescriptor;
  /** Where the machine's sockets and files go. */
  readonly directory: string;
  readonly binary?: string;
  readonly mapping?: QemuMapping;
  /** On tmpfs or hugetlbfs; memory without a file when left out. */
  readonly ramDirectory?: string;
  /** What the operator of this host says becomes of the disks. */
  readonly diskMode: DiskMode;
  /** Whether what the machine's NICs say is to be held once it runs here. */
  readonly holdsOutput: boolean;
}

/**
 * Prepares the machine.
 * @throws {RomulusError} ERR_GUEST_REFUSED with everything that stands against it on this host;
 *   ERR_GUEST_DESCRIPTOR, and those of `incomingCommandLine` and `prepareIncomingQemu`.
 */
export async function prepareQemu(options: PrepareQemuOptions): Promise<IncomingQemu> {
  const { descriptor, directory, binary, mapping, ramDirectory } = options;
  const { diskMode } = descriptor;
  const profile = readProfile(descriptor);
  const ours = {
    directory,
    diskMode,
    ...(binary !== undefined && { binary }),
    ...(mapping !== undefined && { mapping }),
  };
  const ram = ramDirectory === undefined ? {} : { ramDirectory };
  refuseIfAny(
    descriptor.name,
    await refusalsOnBackup(profile, { ...ours, ...ram, diskModeHere: options.diskMode }),
  );
  const noRam = Object.fromEntries(profile.memory.map(({ backendId }) => [backendId, '/dev/null']));
  const { disks, args } = incomingCommandLine(profile, { ...ours, qmpPath: '', ram: noRam });
  // A netdev of this host's may be such that its output could not be held after a promotion.
  if (options.holdsOutput)
    refuseIfAny(descriptor.name, heldNetRefusals({ ...profile, argv: [...args] }, false));
  const replicas = openReplicas(profile, disks, descriptor);
  try {
    return await prepareIncomingQemu({
      descriptor,
      directory,
      replicas,
      ...ram,
      hugePageBytes: hugePageBytesOf(profile, mapping),
      commandLine: ({ qmpPath, ramPaths }) =>
        incomingCommandLine(profile, { ...ours, qmpPath, ram: byBackend(profile, ramPaths) }),
    });
  } catch (error) {
    for (const replica of replicas) replica.close();
    throw error;
  }
}

/**
 * Main memory as `-m` gives it: without plugged modules, firmware, ACPI tables and video memory.
 * @throws {RomulusError} ERR_GUEST_DESCRIPTOR.
 */
export function qemuMemoryBytes(descriptor: GuestDescriptor): number {
  return readProfile(descriptor).memoryBytes;
}

function readProfile(descriptor: GuestDescriptor): QemuProfile {
  const { data, error } = qemuProfileSchema.safeParse(descriptor.profile);
  if (data !== undefined) return data;
  const [issue] = error.issues;
  throw new RomulusError(
    'ERR_GUEST_DESCRIPTOR',
    `the primary's description of its QEMU cannot be used: ${issue?.path.join('.')}: ${issue?.message}`,
    { remedy: 'Run the same version of Romulus on both hosts.' },
  );
}

/** Of which huge pages each main block is to be here: the source's, unless the operator does without. */
function hugePageBytesOf(
  { memory }: QemuProfile,
  mapping: QemuMapping | undefined,
): ReadonlyMap<string, number> {
  if (mapping?.hugepages === 'ordinary') return new Map();
  return new Map(
    memory.flatMap(({ blockName, hugepageBytes }) =>
      hugepageBytes === null ? [] : [[blockName, hugepageBytes] as const],
    ),
  );
}

/** The profile names memory by backend, the list of blocks by block. */
function byBackend(
  profile: QemuProfile,
  ramPaths: ReadonlyMap<string, string>,
): Record<string, string> {
  return Object.fromEntries(
    profile.memory.flatMap(({ backendId, blockName }) => {
      const path = ramPaths.get(blockName);
      return path === undefined ? [] : [[backendId, path]];
    }),
  );
}
