/**
 * Frees a guest whose disk writes wait for a server that does not read any more.
 *
 * With a write-blocking mirror the guest's write, and QEMU's `stop`, wait for our reply. The native
 * thread that gives it beats into shared memory, and duplicates of its connections' descriptors are
 * left there; this watches the beat from another thread, and when it stays out longer than
 * `STALL_MS_MAX` shuts the connections down, which needs neither QEMU's monitor nor the server's
 * threads. The guest's write then succeeds, the mirror ends, and the disk counts as lost: the backup
 * needs a new first copy.
 *
 * The thread that watches must not be the one that waits for `stop`. It cannot help when the whole
 * process stands still: that is the guardian's part (src/native/guardian-link.ts).
 */
import { assert } from '../../base/assert.ts';
import { RomulusError } from '../../base/errors.ts';
import { closeDuplicate, duplicate, shutDown } from '../../native/descriptors.ts';
import { BEAT_MS, STALL_MS_MAX } from '../../native/guardian-link.ts';

export { BEAT_MS, STALL_MS_MAX };
/** Connections that can be shut down (native-sim/src/disk_intake.h). */
export const CONNECTIONS_WATCHED_MAX = 64;
const NONE = -1;

/** What server and watchdog share. */
export interface WatchedServer {
  /** When it beat last: one signed 64-bit number, milliseconds of the monotonic clock; 0: never. */
  readonly beat: SharedArrayBuffer;
  /** Descriptors of connections, by disk; whoever takes one out has to close it. */
  readonly descriptors: SharedArrayBuffer;
}

/** The memory for one server, made by whoever starts both sides. */
export function makeWatchedServer(): WatchedServer {
  const descriptors = new SharedArrayBuffer(CONNECTIONS_WATCHED_MAX * Int32Array.BYTES_PER_ELEMENT);
  new Int32Array(descriptors).fill(NONE);
  return { beat: new SharedArrayBuffer(BigInt64Array.BYTES_PER_ELEMENT), descriptors };
}

function monotonicMs(): number {
  // The same clock on all threads, unlike performance.now().
  return Number(process.hrtime.bigint() / 1_000_000n);
}

/** The server's side: tells of its connections. Its native thread beats by itself. */
export class WatchedConnections {
  readonly #descriptors: Int32Array;

  constructor({ descriptors }: WatchedServer) {
    this.#descriptors = new Int32Array(descriptors);
  }

  /**
   * The connection of a disk is this one now, or none.
   * @throws {RomulusError} ERR_HOST_DESCRIPTOR when no more descriptors can be had.
   */
  set(disk: number, descriptor: number | null): void {
    assert(disk < CONNECTIONS_WATCHED_MAX, 'a disk that can be watched');
    // A duplicate: the number of one that the server closed may soon be another's.
    const mine = descriptor === null ? NONE : duplicate(descriptor);
    closeIfAny(Atomics.exchange(this.#descriptors, disk, mine));
  }
}

export interface WatchdogOptions {
  readonly server: WatchedServer;
  /** The server hung, and QEMU was freed of it. */
  readonly onStall: (error: RomulusError) => void;
  readonly stallMsMax?: number;
}

/** Watches one server; acts at most once. */
export class DiskWatchdog {
  readonly #options: WatchdogOptions;
  readonly #at: BigInt64Array;
  readonly #stallMsMax: number;
  readonly #timer: NodeJS.Timeout;
  #lookedAtMs = monotonicMs();

  constructor(options: WatchdogOptions) {
    this.#options = options;
    this.#at = new BigInt64Array(options.server.beat);
    this.#stallMsMax = options.stallMsMax ?? STALL_MS_MAX;
    this.#timer = setInterval(() => {
      this.#look();
    }, BEAT_MS);
    this.#timer.unref();
  }

  /** Watches no more, and lets go of all connections. Idempotent. */
  stop(): void {
    clearInterval(this.#timer);
    const descriptors = new Int32Array(this.#options.server.descriptors);
    for (const disk of descriptors.keys()) closeIfAny(Atomics.exchange(descriptors, disk, NONE));
  }

  #look(): void {
    const beatAtMs = Number(Atomics.load(this.#at, 0));
    const nowMs = monotonicMs();
    const unwatchedMs = nowMs - this.#lookedAtMs;
    this.#lookedAtMs = nowMs;
    const stillMs = nowMs - beatAtMs;
    // Before its first beat, and once it is closed, it serves nobody.
    // After a standstill of this thread, too, the server gets
    // time to beat before it is judged.
    const isUnjudged = beatAtMs === 0 || unwatchedMs > this.#stallMsMax / 2;
    if (isUnjudged || stillMs <= this.#stallMsMax) return;
    const descriptors = new Int32Array(this.#options.server.descriptors);
    for (const disk of descriptors.keys()) {
      const descriptor = Atomics.exchange(descriptors, disk, NONE);
      if (descriptor === NONE) continue;
      shutDown(descriptor);
      closeDuplicate(descriptor);
    }
    this.stop();
    this.#options.onStall(
      new RomulusError(
        'ERR_TIMEOUT_DISK_STALL',
        `the disk server did nothing for ${stillMs} ms; QEMU was freed of it`,
        {
          remedy: 'Give the host more CPU; the backup needs a new first copy of the disk.',
          details: { stillMs, stallMsMax: this.#stallMsMax },
        },
      ),
    );
  }
}

function closeIfAny(descriptor: number): void {
  if (descriptor !== NONE) closeDuplicate(descriptor);
}
