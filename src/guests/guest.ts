/**
 * What the engine needs of a machine, whatever kind it is. `sim` is the reference
 * implementation; `qemu` stands behind the same interface. All of it is used from the capture
 * thread, so an implementation may block that thread for as long as a pause may last, no longer.
 */
import type { DiskFile } from '../base/disk-file.ts';
import type { RomulusError } from '../base/errors.ts';
import type { GuestDescriptor } from '../codec/guest-descriptor.ts';
import type { GuardianAddress } from '../native/guardian-link.ts';

export type { DiskMode, GuestDescriptor } from '../codec/guest-descriptor.ts';

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

/** A disk that the machine itself can mirror to a server. */
export interface MirrorableDisk {
  /** Name by which its monitor knows it. */
  readonly name: string;
  readonly bytes: number;
  /** Where its bytes lie while it runs; null: in no file that is known. */
  readonly file: DiskFile | null;
}

/** How the engine follows a machine's disks. */
export type MachineDisks =
  /** It has none, or none is to be followed. */
  | { readonly kind: 'none' }
  /** The machine tells of every write on a socket. */
  | {
      readonly kind: 'socket';
      readonly bytes: number;
      readonly socketPath: string;
      /** Path through which the disk's bytes can be read while it runs, such as `/proc/PID/fd/N`. */
      readonly imagePath: string;
    }
  /** The machine writes to a server of ours as well; their order is that of the descriptor. */
  | { readonly kind: 'mirror'; readonly disks: readonly MirrorableDisk[] };

/** A machine's monitor, for the rooms that follow its disks and networks. */
export interface MachineMonitor {
  command(name: string, args?: object, options?: { timeoutMs?: number }): Promise<unknown>;
  /** Calls the listener for every event from now on; gives how to stop that. */
  onEvent(
    listener: (event: {
      readonly event: string;
      readonly data: Readonly<Record<string, unknown>>;
    }) => void,
  ): () => void;
  /** Calls the listener once, when the connection ends without our doing. */
  onEnd(listener: (error: RomulusError) => void): void;
}

/** A monitor in the thread that owns its connection. */
export interface OwnMonitor extends MachineMonitor {
  /** As `command`, handing the machine a descriptor of ours with it. */
  commandWithDescriptor(
    name: string,
    args: object,
    descriptor: number,
    options?: { timeoutMs?: number },
  ): Promise<unknown>;
}

/** One pause, as the machine went through it. Times are milliseconds. */
export interface PauseReport extends SuspendReport {
  /** Device and CPU state at the instant it stopped. */
  readonly deviceState: Uint8Array;
  /** For how long it stood; where the machine does not tell, from asking it to stop until it ran on. */
  readonly pauseMs: number;
  /** Of that, until its disks and cards were at rest too. */
  readonly stopMs: number;
  /** How long the device state was still waited for when the capture was done. */
  readonly stateMs: number;
  readonly resumeMs: number;
}

/** A running machine, as far as ending it or letting go of it goes. */
export interface RunningGuest {
  readonly pid: number;
  /** Ends the machine for good: it must neither run nor be heard again. Idempotent. */
  fence(): Promise<void>;
  /** Lets go of the machine and leaves it running as it was found. Idempotent. */
  detach(): Promise<void>;
}

/** Why a machine can no longer be protected as it was. */
export interface GuestLoss {
  readonly why: string;
  /**
   * `died`: it is gone without anybody's wish, its copy must take over. `ended`: its user or its own
   * system switched it off, and nothing must start it again. `changed`: it lives, but is not the
   * machine that was attached to any more (a device came or went): attach again.
   */
  readonly kind: 'died' | 'ended' | 'changed';
}

/** A machine that runs and can be checkpointed. */
export interface Guest extends RunningGuest {
  readonly descriptor: GuestDescriptor;
  readonly blocks: readonly RamBlock[];
  readonly disks: MachineDisks;
  /** Null when the machine has none that others may use. */
  readonly monitor: OwnMonitor | null;
  /** Unix socket of the machine's net, where the machine hands its output over by itself. */
  readonly netSocketPath: string | null;
  /** Netdevs behind its NICs, by id, whose output is held with filters that its monitor puts in. */
  readonly heldNetdevs: readonly string[];
  /** Where the machine reports its dirty pages itself, for the tracker `mprotect`. */
  readonly trackerSocketPath: string | null;
  /** Who keeps the machine going when this process cannot; null when nobody needs to. */
  readonly guardian: GuardianAddress | null;
  /**
   * Stops the vCPUs at an instruction boundary, calls `whileStopped` once they stand, saves the
   * device state beside it, and lets the machine run on, whatever fails in between. `meanwhile` is
   * called when nothing more is needed for that, and does not hold the machine up.
   * @throws {RomulusError} ERR_GUEST_CANNOT_SUSPEND when it cannot stop now, `whileStopped` was not
   *   called and nothing is captured (the epoch is skipped); ERR_GUEST_LOST when the machine is
   *   gone; and what the two functions throw.
   */
  pause(whileStopped: () => void, meanwhile?: () => void): Promise<PauseReport>;
  /**
   * What is known of its end, once all that it said is heard. Asked when its process has ended, which
   * others may see before.
   */
  lastWords(): Promise<GuestLoss | null>;
  /** Called at most once, when the machine can no longer be checkpointed, without our doing. */
  onLost(listener: (loss: GuestLoss) => void): void;
}

/** Memory of a machine that waits on the backup. */
export interface IncomingBlock {
  /** As the primary's. */
  readonly id: number;
  readonly fd: number;
  readonly bytes: number;
  /** All of it was taken beforehand where others could take it: none is to be given back. */
  readonly isReserved: boolean;
}

/** A machine prepared on the backup: memory in place, vCPUs not yet started. */
export interface IncomingGuest {
  readonly pid: number;
  /** The blocks' memory: the backup applies pages into these. */
  readonly blocks: readonly IncomingBlock[];
  /** Descriptors of the disks' replicas, by disk id: the backup applies committed writes to these. */
  readonly disks: readonly { readonly id: number; readonly fd: number; readonly bytes: number }[];
  /** Where the machine will be controlled once it runs. */
  readonly controlPath: string;
  /** Unix socket of the machine's net, open already while it waits; null when it has none of ours. */
  readonly netSocketPath: string | null;
  /**
   * Does beforehand, while it waits, what loading this state will need; may be called again with a
   * later one. A `load` of the same object then takes for granted that memory is what it was.
   * @throws {RomulusError} ERR_GUEST_STATE_CORRUPT; it waits on.
   */
  beforeLoad(deviceState: Uint8Array): void;
  /**
   * Loads the device state, without waiting for that. The machine may write to its memory while it does,
   * and nobody else may any more: it can only be started, with this state, or discarded. Again with the
   * same object: nothing.
   * @throws {RomulusError} ERR_GUEST_STATE_CORRUPT; it waits on.
   */
  load(deviceState: Uint8Array): void;
  /**
   * Starts the vCPUs, and loads the device state if that was not done. Resolves when they run, or, with `staysPaused`,
   * when they could: the machine's user paused it, and resumes it.
   */
  start(
    deviceState: Uint8Array,
    options?: { readonly staysPaused: boolean },
  ): Promise<RunningGuest>;
  /** Gives the prepared machine up. Idempotent. */
  discard(): Promise<void>;
  /** Called at most once, when the waiting machine is gone without our doing. */
  onLost(listener: (why: string) => void): void;
}
