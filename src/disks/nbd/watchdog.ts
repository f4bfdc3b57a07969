/**
 * Frees a guest whose disk writes wait for a server that does not read any more.
 *
 * With a write-blocking mirror the guest's write, and QEMU's `stop`, wait for our reply. The server's
 * thread beats into shared memory; this watches the beat from another thread, the one that has the
 * monitor, and when it stays out longer than `STALL_MS_MAX` tears QEMU's connection to the server
 * out of band (`yank`), which works even while `stop` hangs. The guest's write then succeeds, the
 * mirror ends, and the disk counts as lost: the backup needs a new first copy.
 *
 * It cannot help when the whole process stands still; then QEMU waits until the process goes on or
 * ends.
 */
import { RomulusError } from '../../base/errors.ts';

/** How long a guest's write may wait for us, milliseconds. */
export const STALL_MS_MAX = 1000;
/** Time between two beats of the server's thread, milliseconds. */
export const BEAT_MS = 50;

function monotonicMs(): number {
  // The same clock on all threads, unlike performance.now().
  return Number(process.hrtime.bigint() / 1_000_000n);
}

/** The server's side: beats as long as its thread handles events. */
export class ServerPulse {
  /** To be given to the watchdog. */
  readonly shared: SharedArrayBuffer = new SharedArrayBuffer(8);
  readonly #at = new BigInt64Array(this.shared);
  readonly #timer: NodeJS.Timeout;

  constructor() {
    const beat = (): void => {
      Atomics.store(this.#at, 0, BigInt(monotonicMs()));
    };
    beat();
    this.#timer = setInterval(beat, BEAT_MS);
    this.#timer.unref();
  }

  /** No more beats; whoever still watches will think that the server hangs. */
  stop(): void {
    clearInterval(this.#timer);
  }
}

export interface WatchdogOptions {
  /** `ServerPulse.shared`. */
  readonly pulse: SharedArrayBuffer;
  /** Tears the connections of these disks in QEMU, out of band. */
  readonly yank: () => Promise<unknown>;
  /** The server hung and QEMU was freed of it; or that failed, and why is in the error's cause. */
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
    this.#at = new BigInt64Array(options.pulse);
    this.#stallMsMax = options.stallMsMax ?? STALL_MS_MAX;
    this.#timer = setInterval(() => {
      this.#look();
    }, BEAT_MS);
    this.#timer.unref();
  }

  /** Watches no more. Idempotent. */
  stop(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const nowMs = monotonicMs();
    const unwatchedMs = nowMs - this.#lookedAtMs;
    this.#lookedAtMs = nowMs;
    const stillMs = nowMs - Number(Atomics.load(this.#at, 0));
    // After a standstill of this thread, too, the server gets time to beat before it is judged.
    if (unwatchedMs > this.#stallMsMax / 2 || stillMs <= this.#stallMsMax) return;
    this.stop();
    const report = (cause?: unknown): void => {
      this.#options.onStall(
        new RomulusError(
          'ERR_TIMEOUT_DISK_STALL',
          `the disk server did nothing for ${stillMs} ms; ${cause === undefined ? 'QEMU was freed of it' : 'QEMU could not be freed of it'}`,
          {
            remedy: 'Give the host more CPU; the backup needs a new first copy of the disk.',
            ...(cause === undefined ? {} : { cause }),
            details: { stillMs, stallMsMax: this.#stallMsMax },
          },
        ),
      );
    };
    this.#options
      .yank()
      .then(() => undefined)
      .then(report, report);
  }
}
