/**
 * The disks of a running QEMU, seen from the primary: mirrored by QEMU to a server of ours, which
 * gathers the writes.
 *
 * Until every mirror says READY, what arrives is the first copy (QEMU's background copy and the
 * guest's writes, in one order); from then on it is the writes of epochs. When `stop` has returned,
 * every write has arrived (facts: the guest's completion comes after our reply): who stops the
 * machine reads the count, `writesReceived(counter)`, then and there.
 *
 * The first copy never holds the guest's writes back: when it comes faster than it is sent on, the
 * background copy is paused. The thread that runs this must not be the one that blocks in a pause.
 * A disk that can no longer be followed is reported once by `onLost`; the machine runs on.
 */
import { RomulusError, toRomulusError } from '../base/errors.ts';
import type { DiskChunk, DiskWrite, DiskZeros, SourceDisk } from './disk.ts';
import { NbdServer } from './nbd/server.ts';
import { DiskWatchdog, ServerPulse } from './nbd/watchdog.ts';
import {
  type DiskMonitor,
  findDisks,
  type FoundDisk,
  jobName,
  mirrorProgress,
  type MirrorProgress,
  pauseCopy,
  removeMirrors,
  startMirror,
  yankMirrors,
} from './qemu-mirror.ts';
import { WriteLog } from './write-log.ts';

/** Above this much unsent first copy the background copy is paused, below the second it goes on. */
export const BASE_HIGH_BYTES: number = 64 * 1024 * 1024;
export const BASE_LOW_BYTES: number = 16 * 1024 * 1024;

export interface QemuDiskOptions {
  readonly monitor: DiskMonitor;
  /** Drive ids, node names or ids of guest devices; their order numbers the disks. */
  readonly disks: readonly string[];
  /** Where our server's socket will be; its directory should be closed to others. */
  readonly socketPath: string;
  /** Bound for the background part of the first copy, each disk. */
  readonly bytesPerSecondMax?: number;
  /** The disks can no longer be followed; at most once. */
  readonly onLost: (error: RomulusError) => void;
  readonly waitingBytesMax?: number;
  readonly baseHighBytes?: number;
  readonly baseLowBytes?: number;
  /** False when a watchdog runs on another thread (`pulse`), which is the safer place. */
  readonly watchdog?: boolean;
}

/** Follows the disks of a running QEMU. Made by `attachQemuDisks`. */
export class QemuDisks implements SourceDisk {
  readonly disks: readonly FoundDisk[];
  readonly diskBytes: number;
  readonly #options: QemuDiskOptions;
  readonly #log: WriteLog;
  readonly #pulse = new ServerPulse();
  readonly #ready = new Set<string>();
  readonly #wakers = new Set<() => void>();
  #server: NbdServer | null = null;
  #watchdog: DiskWatchdog | null = null;
  #unlisten: () => void = () => undefined;
  #lost: RomulusError | null = null;
  #closing: Promise<void> | null = null;
  /** Whose background copy is held back. */
  #pausedDisks: readonly number[] = [];
  /** True while an order to pause or go on is on its way, and until all mirrors were started. */
  #isSteering = true;

  constructor(options: QemuDiskOptions, disks: readonly FoundDisk[]) {
    this.#options = options;
    this.disks = disks;
    this.diskBytes = disks.reduce((sum, { diskBytes }) => sum + diskBytes, 0);
    this.#log = new WriteLog(
      options.waitingBytesMax === undefined ? {} : { waitingBytesMax: options.waitingBytesMax },
    );
  }

  get writesReceived(): number {
    return this.#log.received;
  }

  /** The count of writes received, readable by `writesReceived` on any thread. */
  get counter(): SharedArrayBuffer {
    return this.#log.counter;
  }

  /** Beat of the thread that serves QEMU, for a `DiskWatchdog` elsewhere. */
  get pulse(): SharedArrayBuffer {
    return this.#pulse.shared;
  }

  /** Bytes of writes that wait for the first copy's reader or their epoch. */
  get waitingBytes(): number {
    return this.#log.waitingBytes;
  }

  /** Why the disks are not followed any more; null while they are. */
  get lost(): RomulusError | null {
    return this.#lost;
  }

  /** Whether the first copy has arrived here; its last pieces may still wait to be read. */
  get isReady(): boolean {
    return this.#log.baseEnded;
  }

  /** How far the first copy is, as QEMU counts it. */
  async progress(): Promise<MirrorProgress> {
    return mirrorProgress(this.#options.monitor, this.disks.length);
  }

  /** Starts everything; on failure nothing is left. Called once, by `attachQemuDisks`. */
  async start(): Promise<void> {
    const { monitor, socketPath, bytesPerSecondMax } = this.#options;
    this.#unlisten = monitor.onEvent(({ event, data }) => {
      this.#onEvent(event, data);
    });
    monitor.onEnd((error) => {
      this.#lose(error);
    });
    try {
      this.#server = await NbdServer.listen({
        path: socketPath,
        exports: this.disks.map(({ diskBytes }, disk) => ({ name: `disk${disk}`, diskBytes })),
        sink: {
          write: (disk, offset, data) => {
            this.#receive(disk, offset, data.byteLength, data);
          },
          zeros: (disk, offset, byteCount) => {
            this.#receive(disk, offset, byteCount, null);
          },
        },
        onGone: (_disk, error) => {
          this.#lose(error);
        },
      });
      for (const [disk, { device }] of this.disks.entries())
        await startMirror(monitor, {
          disk,
          device,
          socketPath,
          exportName: `disk${disk}`,
          bytesPerSecondMax,
        });
      if (this.#lost !== null) throw this.#lost;
      this.#isSteering = false;
      this.#steerCopy();
    } catch (error) {
      await this.detach();
      throw error;
    }
    if (this.#options.watchdog === false) return;
    this.#watchdog = new DiskWatchdog({
      pulse: this.pulse,
      yank: () => yankMirrors(monitor, this.disks.length),
      onStall: (error) => {
        this.#lose(error);
      },
    });
  }

  mark(epoch: number, diskWrites: number): void {
    this.#log.mark(epoch, diskWrites);
  }

  async take(epoch: number): Promise<readonly (DiskWrite | DiskZeros)[]> {
    if (this.#lost !== null) throw this.#lost;
    return this.#log.take(epoch);
  }

  /**
   * The first copy as it arrives; ends when all mirrors are ready and all of it was given.
   * @throws {RomulusError} ERR_DISK_LOST, ERR_DISK_MIRROR, ERR_LIMIT_DISK_BACKLOG.
   */
  async *readBase(): AsyncGenerator<DiskChunk> {
    for (;;) {
      if (this.#lost !== null) throw this.#lost;
      const chunks = this.#log.nextBase();
      if (chunks.length > 0) {
        this.#steerCopy();
        yield* chunks;
        continue;
      }
      if (this.#log.baseEnded) return;
      await new Promise<void>((resolve) => {
        this.#wakers.add(resolve);
      });
    }
  }

  /** As `detach`, without waiting. Trouble on the way is QEMU's mirror ending by itself. */
  close(): void {
    this.detach().catch((error: unknown) => {
      // The server is closed whatever happens, so the mirrors end at the guest's next write, and
      // who attaches next removes them.
      this.#lost ??= toRomulusError(error);
    });
  }

  /**
   * Ends the mirrors and removes all traces from QEMU. Idempotent.
   * @throws {RomulusError} when QEMU does not let go; our server is closed even so.
   */
  async detach(): Promise<void> {
    this.#closing ??= this.#detach();
    return this.#closing;
  }

  async #detach(): Promise<void> {
    const wasLost = this.#lost;
    this.#lost ??= new RomulusError('ERR_DISK_LOST', 'the disks were let go', {
      remedy: 'Attach to the disks again before taking checkpoints.',
    });
    this.#wake();
    this.#watchdog?.stop();
    try {
      // A mirror whose connection is broken ends at once; one that works needs our replies to end.
      if (wasLost !== null) this.#server?.close();
      await removeMirrors(this.#options.monitor);
    } finally {
      this.#unlisten();
      this.#pulse.stop();
      this.#server?.close();
      this.#log.clear();
    }
  }

  #receive(disk: number, offset: number, byteCount: number, data: Buffer | null): void {
    try {
      this.#log.push({ disk, offset, byteCount, data });
    } catch (error) {
      this.#lose(toRomulusError(error));
      throw error;
    }
    if (this.#log.baseEnded) return;
    this.#steerCopy();
    this.#wake();
  }

  #steerCopy(): void {
    if (this.#isSteering || this.#lost !== null) return;
    const { baseEnded, waitingBytes } = this.#log;
    const high = this.#options.baseHighBytes ?? BASE_HIGH_BYTES;
    const low = this.#options.baseLowBytes ?? BASE_LOW_BYTES;
    const isPaused = this.#pausedDisks.length > 0;
    const isWanted = !baseEnded && waitingBytes > (isPaused ? low : high);
    if (isWanted === isPaused) return;
    this.#isSteering = true;
    this.#pauseCopies(isWanted).catch((error: unknown) => {
      this.#lose(toRomulusError(error));
    });
  }

  async #pauseCopies(isWanted: boolean): Promise<void> {
    const { monitor } = this.#options;
    const all = [...this.disks.keys()];
    const chosen = isWanted
      ? all.filter((disk) => !this.#ready.has(jobName(disk)))
      : this.#pausedDisks;
    await Promise.all(chosen.map((disk) => pauseCopy(monitor, disk, isWanted)));
    this.#pausedDisks = isWanted ? chosen : [];
    this.#isSteering = false;
    this.#steerCopy();
  }

  #onEvent(event: string, data: Readonly<Record<string, unknown>>): void {
    const job = data['device'];
    if (typeof job !== 'string' || !this.disks.some((_, disk) => jobName(disk) === job)) return;
    if (event === 'BLOCK_JOB_READY') {
      this.#ready.add(job);
      if (this.#ready.size < this.disks.length) return;
      this.#log.endBase();
      this.#steerCopy();
      this.#wake();
    } else if (event === 'BLOCK_JOB_COMPLETED' || event === 'BLOCK_JOB_CANCELLED') {
      const words = typeof data['error'] === 'string' ? data['error'] : 'somebody ended it';
      this.#lose(
        new RomulusError('ERR_DISK_MIRROR', `QEMU's mirror '${job}' ended: ${words}`, {
          remedy: 'Mend what QEMU names; the backup needs a new first copy of the disk.',
          details: { job, qemuText: words },
        }),
      );
    }
  }

  #lose(error: RomulusError): void {
    if (this.#lost !== null) return;
    this.#lost = error;
    this.#watchdog?.stop();
    this.#log.clear();
    // Before anything else: whatever waits for a reply of ours must not wait any longer.
    this.#server?.close();
    this.#wake();
    this.#options.onLost(error);
  }

  #wake(): void {
    for (const wake of this.#wakers) wake();
    this.#wakers.clear();
  }
}

/** Who follows the disks behind a monitor: a late farewell must not end its successor's mirrors. */
const followers = new WeakMap<DiskMonitor, QemuDisks>();

/**
 * Starts to follow the disks of a running QEMU, after removing what a predecessor left, dead or not.
 * @throws {RomulusError} ERR_DISK_MIRROR, ERR_DISK_SOCKET, and the monitor's own; nothing is left then.
 */
export async function attachQemuDisks(options: QemuDiskOptions): Promise<QemuDisks> {
  const { monitor } = options;
  const before = followers.get(monitor);
  followers.delete(monitor);
  await before?.detach();
  await removeMirrors(monitor);
  const disks = new QemuDisks(options, await findDisks(monitor, options.disks));
  followers.set(monitor, disks);
  await disks.start();
  return disks;
}
