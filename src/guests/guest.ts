/**
 * What the engine needs of a machine, whatever kind it is. `sim` is the reference
 * implementation; `qemu` stands behind the same interface. All of it is used from the capture
 * thread, so an implementation may block that thread for as long as a pause may last, no longer.
 */
import type { GuestDescriptor } from '../codec/guest-descriptor.ts';

export type { GuestDescriptor } from '../codec/guest-descriptor.ts';

/** One contiguous range of guest RAM, in the machine's process. */
export interface RamBlock {
  /** Position in the machine's list of blocks; page batches name blocks by it. */
  readonly id: number;
  readonly name: string;
  readonly bytes: number;
  /** Where the block is mapped in the machine's process. */
  readonly address: bigint;
  /** A path through which we can map the same memory (`/proc/PID/fd/N`, a tmpfs file), if any. */
  readonly sharedPath: string | null;
}

/** The machine's own counters at the instant it stopped: they mark the epoch's boundary. */
export interface SuspendReport {
  /** Frames the machine has put into its net socket since that socket was connected. */
  readonly framesSent: number;
  /** Writes the machine has put into its disk socket since that socket was connected. */
  readonly diskWrites: number;
  /**
   * How far the machine has run, in a count of its own that only grows (for sim: steps). Goes into
   * the audit file, where it ties output to epochs without trusting the gate's counts; 0 when the
   * machine keeps none.
   */
  readonly position: number;
}

/** Where the engine follows a machine's disk. */
export interface MachineDisk {
  readonly bytes: number;
  /** Unix socket on which the machine tells of every write. */
  readonly socketPath: string;
  /** Path through which the disk's bytes can be read while it runs, such as `/proc/PID/fd/N`. */
  readonly imagePath: string;
}

/** A machine that runs and can be checkpointed. */
export interface Guest {
  readonly descriptor: GuestDescriptor;
  readonly pid: number;
  readonly blocks: readonly RamBlock[];
  readonly disk: MachineDisk | null;
  /** Unix socket of the machine's net. */
  readonly netSocketPath: string;
  /**
   * Stops the vCPUs at an instruction boundary.
   * @throws {RomulusError} ERR_GUEST_CANNOT_SUSPEND when it cannot now (the epoch is skipped),
   *   ERR_GUEST_LOST when the machine is gone.
   */
  suspend(): Promise<SuspendReport>;
  /** Device and CPU state; only while suspended. May run beside the page copy. */
  saveDeviceState(): Promise<Uint8Array>;
  resume(): Promise<void>;
  /** Ends the machine for good: it must neither run nor be heard again. Idempotent. */
  fence(): Promise<void>;
  /** Lets go of the machine and leaves it running as it was found. Idempotent. */
  detach(): Promise<void>;
  /** Called at most once, when the machine is gone without our doing. */
  onLost(listener: (why: string) => void): void;
}

/** A machine prepared on the backup: memory in place, vCPUs not yet started. */
export interface IncomingGuest {
  /** Descriptors of the blocks' memory, by block id: the backup applies pages into these. */
  readonly blocks: readonly { readonly id: number; readonly fd: number; readonly bytes: number }[];
  /** Descriptor of the disk's replica; null when the machine has no disk. */
  readonly disk: { readonly fd: number; readonly bytes: number } | null;
  /** Where the machine will be controlled once it runs. */
  readonly controlPath: string;
  /** Unix socket of the machine's net, open already while it waits. */
  readonly netSocketPath: string;
  /** Loads the device state and starts the vCPUs. Resolves when they run. */
  start(deviceState: Uint8Array): Promise<Guest>;
  /** Gives the prepared machine up. Idempotent. */
  discard(): Promise<void>;
}
