/**
 * A QEMU that waits on the backup to become the machine, in the middle of an incoming migration.
 *
 * Its stream is ours. The constant part (configuration, list of small blocks) goes out as soon as it
 * lives, so a machine that differs from the primary's is refused then and not at the failover. The
 * contents of the small blocks follow in the background. At promotion what is left is the pages of
 * small blocks that changed meanwhile, the device sections, and the tail. At its first byte the machine is
 * QEMU's, which opens the disks and starts the vCPUs, whatever becomes of us; before it, QEMU ends with us:
 *
 *   prepared            while it waits                    load                         start
 *   head, all pages ... part: changed pages, now and then ... end: changed pages, devices ... tail
 *
 * Who expects to load it soon says so before (`beforeLoad`): then the state is checked and the changed
 * pages are sent by that time. Loading takes QEMU a few milliseconds; who is almost certain to start it has
 * it loaded beside the last questions. A loaded machine has no way back: some devices write to memory
 * when they are loaded, and some would keep two requests in flight if they were loaded twice.
 *
 * Main RAM is never mentioned in the stream: QEMU has the memory mapped that replication writes.
 *
 * It does not know the primary's pages or epochs; when `start` is called, all memory is as it should
 * be, and nobody writes it any more.
 */
import { constants, getPriority, setPriority } from 'node:os';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { RomulusError, toRomulusError } from '../../../base/errors.ts';
import type { IncomingBlock } from '../../guest.ts';
import { ask } from '../qmp/commands.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import { deviceSectionsOf } from '../stream/device-state.ts';
import { ramSection, streamHead, streamTail } from '../stream/writer.ts';
import type { BackupBlock } from './backup-memory.ts';
import type { BackupProcess } from './backup-process.ts';
import type { Replica } from './replica-files.ts';
import { SmallBlockFeed } from './small-block-feed.ts';

/** How long loading the device state may take, milliseconds. */
export const START_RUNNING_TIMEOUT_MS = 10_000;
/** How often small blocks are looked at while it waits, milliseconds. */
export const FEED_INTERVAL_MS = 250;
const LOADED_POLL_MS = 2;
/** Bytes that may wait in our stream before feeding pauses. */
const FEED_WAITING_BYTES_MAX = 4 * 1024 * 1024;

/** What a start consisted of, milliseconds. */
export interface StartTimes {
  /** What was left to do of the load: checking the state, finding what changed in small blocks. */
  readonly loadMs: number;
  /** From the call until the vCPUs ran. */
  readonly runningMs: number;
  /** Pages of small blocks that were still to be sent. */
  readonly pageCount: number;
}

/** A small block: how much of which memory travels in the stream. */
export interface StreamedBlock {
  readonly name: string;
  readonly usedBytes: number;
  readonly fd: number;
}

export interface IncomingParts {
  readonly process: BackupProcess;
  readonly monitor: QmpClient;
  readonly blocks: readonly BackupBlock[];
  readonly smallBlocks: readonly StreamedBlock[];
  /** The configuration section that the primary sent. */
  readonly configuration: Uint8Array;
  readonly controlPath: string;
  readonly replicas: readonly Replica[];
  /** Removes what stands in the file system. */
  readonly cleanUp: () => Promise<void>;
}

/**
 * Niceness of QEMU's main thread until it runs the machine: it has next to nothing to do while it
 * waits, and on a saturated host its turn at promotion would come late.
 */
const WAITING_NICENESS = constants.priority.PRIORITY_HIGH;

type State = 'waiting' | 'loaded' | 'starting' | 'running' | 'failed' | 'discarded';

/** The machine as it runs after the start, before anybody attached to it. */
export class StartedQemu {
  readonly pid: number;
  readonly times: StartTimes;
  readonly #process: BackupProcess;

  constructor(process: BackupProcess, times: StartTimes) {
    this.pid = process.pid;
    this.#process = process;
    this.times = times;
  }

  /** Kills it; it is gone when this resolves. Idempotent. */
  async fence(): Promise<void> {
    await this.#process.kill();
  }

  /** Lets go; there is nothing to let go of any more. */
  async detach(): Promise<void> {
    await Promise.resolve();
  }
}

/** A prepared QEMU. Made by `prepareIncomingQemu`. */
export class IncomingQemu {
  readonly pid: number;
  readonly blocks: readonly IncomingBlock[];
  readonly controlPath: string;
  readonly disks: readonly { readonly id: number; readonly fd: number; readonly bytes: number }[];
  /** The net of QEMU is not replicated yet. */
  readonly netSocketPath: null = null;
  readonly #parts: IncomingParts;
  readonly #feed: SmallBlockFeed;
  #state: State = 'waiting';
  #feedTimer: NodeJS.Timeout | null = null;
  #onLost: ((why: string) => void) | null = null;
  #lost: string | null = null;
  /** The state that was made ready or loaded, and what of it goes into the stream. */
  #ready: { readonly state: Uint8Array; readonly sections: Uint8Array } | null = null;
  /** Pages of small blocks that went out with the load. */
  #loadedPageCount = 0;
  /** Its niceness before we changed it; null where we may not. */
  #nicenessBefore: number | null = null;

  /** Takes over all parts. `begin` comes next. */
  constructor(parts: IncomingParts) {
    this.#parts = parts;
    this.pid = parts.process.pid;
    this.controlPath = parts.controlPath;
    this.blocks = parts.blocks.map(({ id, bytes, memory, isReserved }) => ({
      id,
      bytes,
      fd: memory.fd,
      isReserved,
    }));
    this.disks = parts.replicas.map(({ id, fd, bytes }) => ({ id, fd, bytes }));
    this.#feed = new SmallBlockFeed(parts.smallBlocks);
    parts.process.onEnd((how) => {
      if (this.#state !== 'waiting' && this.#state !== 'loaded') return;
      this.#stopFeeding();
      this.#lost = `the waiting QEMU ended (${how}): ${parts.process.lastWords}`;
      this.#onLost?.(this.#lost);
    });
  }

  /**
   * Sends the constant part of the stream; resolves when QEMU has accepted it.
   * @throws {RomulusError} ERR_GUEST_START with QEMU's own words when its machine is another.
   */
  async begin(): Promise<void> {
    const { smallBlocks, configuration, monitor, process } = this.#parts;
    const sizes = smallBlocks.map(({ name, usedBytes }) => ({ name, bytes: usedBytes }));
    await written(this.#parts.process.stream, [
      streamHead(configuration, sizes),
      ramSection('part', this.#feed.allPages()),
    ]);
    try {
      // Answers come from the same loop that reads the stream: by the second, it has read it.
      for (let round = 0; round < 2; round += 1) await monitor.command('query-status');
    } catch (error) {
      const cause = toRomulusError(error);
      await process.kill();
      throw startError(`it did not accept the primary's machine: ${process.lastWords}`, cause);
    }
    this.#nicenessBefore = tryNiceness(this.pid, WAITING_NICENESS);
    this.#feedTimer = setInterval(() => {
      this.#feedSome();
    }, FEED_INTERVAL_MS);
    this.#feedTimer.unref();
  }

  /** Called at most once, when the waiting QEMU ends without our doing. */
  onLost(listener: (why: string) => void): void {
    this.#onLost = listener;
    const why = this.#lost;
    if (why !== null) queueMicrotask(() => listener(why));
  }

  /** As in IncomingGuest. */
  beforeLoad(deviceState: Uint8Array): void {
    if (this.#state !== 'waiting' || this.#lost !== null) return;
    this.#ready = null;
    const sections = deviceSectionsOf(deviceState);
    const pages = this.#feed.changedPages();
    if (pages.length > 0) this.#parts.process.stream.write(ramSection('part', pages));
    this.#ready = { state: deviceState, sections };
  }

  /** As in IncomingGuest. @throws {RomulusError} ERR_GUEST_STATE when it does not wait any more. */
  load(deviceState: Uint8Array): void {
    const isLost = this.#lost !== null;
    if (!isLost && this.#state === 'loaded' && this.#ready?.state === deviceState) return;
    if (isLost || this.#state !== 'waiting') {
      const what = isLost ? 'lost' : this.#state;
      throw new RomulusError('ERR_GUEST_STATE', `the prepared machine was ${what} before`, {
        remedy: 'Prepare another one.',
      });
    }
    const ready = this.#ready?.state === deviceState ? this.#ready : null;
    const sections = ready?.sections ?? deviceSectionsOf(deviceState);
    this.#ready = { state: deviceState, sections };
    this.#state = 'loaded';
    this.#stopFeeding();
    const pages = ready !== null ? [] : this.#feed.changedPages();
    this.#loadedPageCount = pages.length;
    this.#parts.process.stream.write(Buffer.concat([ramSection('end', pages), sections]));
  }

  /**
   * Feeds the rest of the stream; resolves when the vCPUs run, or with `staysPaused` when they could.
   * @throws {RomulusError} ERR_GUEST_STATE_CORRUPT, and then it still waits and may be started with
   *   another state; ERR_GUEST_START when QEMU refuses: then it is dead.
   */
  async start(
    deviceState: Uint8Array,
    options: { readonly staysPaused: boolean } = { staysPaused: false },
  ): Promise<StartedQemu> {
    const calledMs = performance.now();
    this.load(deviceState);
    const loadMs = performance.now() - calledMs;
    this.#state = 'starting';
    const { process, monitor } = this.#parts;
    try {
      // While its machine still comes in, QEMU takes a `stop` as "do not start it then".
      if (options.staysPaused) await monitor.command('stop');
      const loaded = options.staysPaused
        ? untilLoaded(process, monitor)
        : untilRunning(process, monitor);
      await Promise.all([written(process.stream, [streamTail()]), loaded.promise]).finally(
        loaded.stop,
      );
    } catch (error) {
      this.#state = 'failed';
      const cause = toRomulusError(error);
      await process.kill();
      throw startError(`it did not come up: ${cause.message}: ${process.lastWords}`, cause);
    }
    const runningMs = performance.now() - calledMs;
    this.#state = 'running';
    if (this.#nicenessBefore !== null) tryNiceness(this.pid, this.#nicenessBefore);
    // QEMU serves one client on a socket: whoever attaches next needs it.
    monitor.close();
    // From now on the disks are the machine's alone.
    for (const replica of this.#parts.replicas) replica.close();
    return new StartedQemu(process, {
      loadMs,
      runningMs,
      pageCount: this.#loadedPageCount,
    });
  }

  /** As in IncomingGuest; after a start it only lets go of the memory's mappings. */
  async discard(): Promise<void> {
    if (this.#state === 'discarded') return;
    const isRunning = this.#state === 'running';
    this.#state = 'discarded';
    this.#stopFeeding();
    const { process, monitor, blocks, cleanUp } = this.#parts;
    if (!isRunning) {
      monitor.close();
      await process.kill();
      await cleanUp();
    }
    for (const { memory } of blocks) memory.close();
    for (const replica of this.#parts.replicas) replica.close();
  }

  #feedSome(): void {
    const { stream } = this.#parts.process;
    if (stream.destroyed || stream.writableLength > FEED_WAITING_BYTES_MAX) return;
    const pages = this.#feed.nextChangedPages();
    if (pages.length > 0) stream.write(ramSection('part', pages));
  }

  #stopFeeding(): void {
    if (this.#feedTimer !== null) clearInterval(this.#feedTimer);
    this.#feedTimer = null;
  }
}

/** Sets the niceness of a process's main thread; what it was before, null where we may not. */
function tryNiceness(pid: number, niceness: number): number | null {
  try {
    const before = getPriority(pid);
    setPriority(pid, niceness);
    return before;
  } catch (error) {
    const code =
      error instanceof Error && 'info' in error ? (error.info as { code?: string }).code : '';
    // Not allowed, or gone: its end is told of elsewhere.
    if (code === 'EACCES' || code === 'EPERM' || code === 'ESRCH') return null;
    throw error;
  }
}

/** Writes the pieces in one go; resolves when they were handed to the kernel. */
async function written(stream: Duplex, pieces: readonly Uint8Array[]): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    stream.write(Buffer.concat(pieces), (error) => {
      if (error instanceof Error) reject(error);
      else resolve();
    });
  });
}

/** Waits until the machine stands ready, the end of QEMU, or the end of patience. */
function untilLoaded(
  process: BackupProcess,
  monitor: QmpClient,
): { promise: Promise<void>; stop: () => void } {
  const stopped = new AbortController();
  const { signal } = stopped;
  const deadlineMs = performance.now() + START_RUNNING_TIMEOUT_MS;
  const wait = async (): Promise<void> => {
    for (;;) {
      const { status } = await ask(monitor, 'query-status');
      if (status === 'paused') return;
      if (status !== 'inmigrate') throw new Error(`its status is ${status}`);
      if (performance.now() > deadlineMs)
        throw new Error(`it was not loaded within ${START_RUNNING_TIMEOUT_MS} ms`);
      await sleep(LOADED_POLL_MS, null, { signal });
    }
  };
  const gone = new Promise<never>((_, reject) => {
    const forget = process.onEnd((how) => reject(new Error(`it ended (${how})`)));
    signal.addEventListener('abort', forget, { once: true });
  });
  return { promise: Promise.race([wait(), gone]), stop: () => stopped.abort() };
}

/** Waits for the event that the vCPUs run, the end of QEMU, or the end of patience. */
function untilRunning(
  process: BackupProcess,
  monitor: QmpClient,
): { promise: Promise<void>; stop: () => void } {
  const stops: (() => void)[] = [];
  const promise = new Promise<void>((resolve, reject) => {
    stops.push(
      monitor.onEvent(({ event }) => {
        if (event === 'RESUME') resolve();
      }),
      process.onEnd((how) => {
        reject(new Error(`it ended (${how})`));
      }),
    );
    const timer = setTimeout(() => {
      reject(new Error(`it did not run within ${START_RUNNING_TIMEOUT_MS} ms`));
    }, START_RUNNING_TIMEOUT_MS);
    stops.push(() => {
      clearTimeout(timer);
    });
  });
  return {
    promise,
    stop: () => {
      for (const stop of stops) stop();
    },
  };
}

/** The error of a QEMU that cannot become the machine. */
export function startError(why: string, cause?: unknown): RomulusError {
  return new RomulusError('ERR_GUEST_START', `the backup's QEMU cannot be used: ${why}`, {
    remedy: remedyFor(why),
    ...(cause === undefined ? {} : { cause }),
  });
}

function remedyFor(why: string): string {
  if (/machine type/i.test(why)) {
    return 'Install a QEMU on this host that has the machine type (`-machine help`).';
  }
  if (/Unknown ramblock|Size mismatch|Unknown savevm|Missing section/i.test(why)) {
    return "Make the backup's QEMU the same machine: same devices, same firmware files.";
  }
  return "Look at QEMU's own words in the message; correct the mapping or this host.";
}
