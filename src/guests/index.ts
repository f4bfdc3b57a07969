/**
 * The kinds of machine, chosen by name here and nowhere else. Adding one takes its folder and its
 * lines in this file.
 */
import type { DiskMode, Guest, GuestDescriptor, IncomingGuest, MachineMonitor } from './guest.ts';
import type { GuestKind } from './kinds.ts';
import { attachQemu } from './qemu/attach.ts';
import { endQemu } from './qemu/end.ts';
import { prepareQemu, qemuMemoryBytes } from './qemu/prepare.ts';
import type { QemuMapping } from './qemu/profile/mapping.ts';
import { prepareIncomingSim } from './sim/incoming.ts';
import { attachSim } from './sim/sim-guest.ts';

/** Where a running machine is found. */
export interface MachineAddress {
  readonly kind: GuestKind;
  /** The socket that controls it: romulus-sim's own, or QEMU's QMP. */
  readonly controlPath: string;
  /** Its process, when the socket does not tell (a socket that another process opened for QEMU). */
  readonly pid?: number;
}

export interface AttachGuestOptions {
  /** What is to become of its disks. */
  readonly diskMode: DiskMode;
  /** Called with the machine's monitor, if it has one, before anything of the machine is looked at. */
  readonly beforeLooking?: (monitor: MachineMonitor) => Promise<void>;
  /** Whether what its NICs say is to be held. */
  readonly holdsOutput: boolean;
}

/**
 * Attaches to a machine that runs, and leaves it running.
 * @throws {RomulusError} as `attachSim` and `attachQemu`.
 */
export async function attachGuest(
  address: MachineAddress,
  options: AttachGuestOptions,
): Promise<Guest> {
  const { kind, controlPath, pid } = address;
  return kind === 'sim'
    ? await attachSim({ socketPath: controlPath })
    : await attachQemu({ qmpPath: controlPath, ...(pid !== undefined && { pid }), ...options });
}

/**
 * Ends a machine that must not run any more, however it is.
 * @throws {RomulusError} when there is none, or it does not end.
 */
export async function endGuest(address: MachineAddress): Promise<void> {
  const { kind, controlPath, pid } = address;
  if (kind === 'sim') await (await attachSim({ socketPath: controlPath })).fence();
  else await endQemu({ qmpPath: controlPath, ...(pid !== undefined && { pid }) });
}

/**
 * The machine's main memory, as whoever started it said it.
 * @throws {RomulusError} as `qemuMemoryBytes`.
 */
export function memoryBytesOf(descriptor: GuestDescriptor): number {
  return descriptor.kind === 'sim'
    ? descriptor.blocks.reduce((sum, block) => sum + block.bytes, 0)
    : qemuMemoryBytes(descriptor);
}

export interface PrepareIncomingOptions {
  /** What the primary said of its machine. */
  readonly descriptor: GuestDescriptor;
  /** Where the machine's sockets and files go. */
  readonly directory: string;
  /** For sim: whether the machine is to track its dirty pages itself once it runs. */
  readonly simTracker?: 'mprotect';
  /** For qemu: what to start, and how this host differs from the primary's. */
  readonly qemu: {
    /** What the operator of this host says becomes of the disks. */
    readonly diskMode: DiskMode;
    /** Whether what the machine's NICs say is to be held once it runs here. */
    readonly holdsOutput: boolean;
    readonly binary?: string;
    readonly mapping?: QemuMapping;
    /** Where the RAM's file goes, on tmpfs or hugetlbfs; without it, memory without a file. */
    readonly ramDirectory?: string;
  };
}

/**
 * Prepares a machine of this description that waits for its state.
 * @throws {RomulusError} as `prepareIncomingSim` and `prepareQemu`.
 */
export async function prepareIncoming(options: PrepareIncomingOptions): Promise<IncomingGuest> {
  const { descriptor, directory, simTracker, qemu } = options;
  return descriptor.kind === 'sim'
    ? await prepareIncomingSim({
        descriptor,
        directory,
        ...(simTracker !== undefined && { tracker: simTracker }),
      })
    : await prepareQemu({ descriptor, directory, ...qemu });
}
