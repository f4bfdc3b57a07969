/**
 * Dirty tracking of ranges of memory, of this process or of another: which pages were written since
 * they were last asked for. The kinds and what each can see stand in native-sim/src/tracker.h.
 *
 * Until a page was scanned for the first time it counts as dirty: what came before attaching is not
 * known. Pages that nobody ever touched are not reported again after that; the first touch is.
 * A Tracker belongs to the thread that made it. It copies nothing: that is Capture's part.
 */
import { loadNative } from './load.ts';
import { callNative } from './native-error.ts';

/** The native object behind a Tracker, opaque to TypeScript. */
export interface TrackerHandle {
  readonly trackerHandle: never;
}

/** What really tracks: see native-sim/src/tracker.h. */
export type TrackerKind = 'uffd-wp' | 'soft-dirty' | 'mprotect';

interface TrackerNative {
  trackerAttach(
    pid: number,
    flatRanges: readonly (bigint | number)[],
    kind: string,
    mprotectSocket: string,
  ): TrackerHandle;
  trackerKind(handle: TrackerHandle): TrackerKind;
  trackerExactWhileRunning(handle: TrackerHandle): boolean;
  trackerScan(
    handle: TrackerHandle,
    range: number,
    fromPage: number,
    pageCount: number,
  ): Uint32Array;
  trackerClose(handle: TrackerHandle): void;
}

export interface TrackedRange {
  /** Where the range is mapped in the tracked process. */
  readonly address: bigint;
  /** A multiple of 4096. */
  readonly bytes: number;
}

export interface TrackerOptions {
  /** The process whose memory is tracked; 0 is this one. */
  readonly pid: number;
  /** At most 64; their order gives them their numbers. */
  readonly ranges: readonly TrackedRange[];
  /** `auto` takes the first that works, in the order uffd-wp, soft-dirty, mprotect. */
  readonly kind: TrackerKind | 'auto';
  /** `<control-socket>.tracker` of a simulated machine started with `--tracker mprotect`. */
  readonly mprotectSocket?: string;
}

/** A run of neighbouring dirty pages. */
export interface PageRun {
  readonly firstPage: number;
  readonly pageCount: number;
}

/** Attached dirty tracking. `close` leaves the tracked process as it was found. */
export class Tracker {
  readonly #native: TrackerNative;
  readonly #handle: TrackerHandle;
  readonly kind: TrackerKind;
  /**
   * Whether scanning while the writers run loses no write. When false (soft-dirty), scan only while
   * the machine is suspended; a `full` capture keeps to that by itself.
   */
  readonly exactWhileRunning: boolean;
  readonly pid: number;
  readonly ranges: readonly TrackedRange[];

  /**
   * Attaches. A foreign process stands still for a fraction of a millisecond meanwhile.
   * @throws {RomulusError} ERR_HOST_TRACKER_NONE with every kind's cause when `auto` finds none;
   *   ERR_HOST_ATTACH_PERMISSION, ERR_HOST_ATTACH_SECCOMP, ERR_HOST_TRACKER_KERNEL,
   *   ERR_HOST_TRACKER_BUSY and others of those families for a kind asked for by name;
   *   ERR_GUEST_LOST when the process is gone; ERR_USAGE_* for bad arguments.
   */
  constructor(options: TrackerOptions) {
    this.#native = loadNative<TrackerNative>();
    this.#handle = callNative(() =>
      this.#native.trackerAttach(
        options.pid,
        options.ranges.flatMap((range) => [range.address, range.bytes]),
        options.kind,
        options.mprotectSocket ?? '',
      ),
    );
    this.kind = this.#native.trackerKind(this.#handle);
    this.exactWhileRunning = this.#native.trackerExactWhileRunning(this.#handle);
    this.pid = options.pid;
    this.ranges = options.ranges;
  }

  /** For Capture. */
  get handle(): TrackerHandle {
    return this.#handle;
  }

  /**
   * The dirty pages of a range (or of a part of it), ascending; tracking begins anew for them.
   * @throws {RomulusError} ERR_GUEST_LOST, ERR_USAGE_RANGE, ERR_USAGE_CLOSED
   */
  scan(range: number, part?: { readonly fromPage: number; readonly pageCount: number }): PageRun[] {
    const fromPage = part?.fromPage ?? 0;
    const pageCount = part?.pageCount ?? (this.ranges[range]?.bytes ?? 0) / 4096;
    const pairs = callNative(() =>
      this.#native.trackerScan(this.#handle, range, fromPage, pageCount),
    );
    const runs: PageRun[] = [];
    for (let i = 0; i + 1 < pairs.length; i += 2) {
      runs.push({ firstPage: pairs[i] ?? 0, pageCount: pairs[i + 1] ?? 0 });
    }
    return runs;
  }

  /** Ends tracking. Idempotent. */
  close(): void {
    callNative(() => this.#native.trackerClose(this.#handle));
  }
}
