/**
 * Captures the pages of one block that changed: finds them with a tracker and copies them into a
 * staging area, which the encoder reads. Nothing else happens inside a pause.
 *
 * Synchronous on purpose: it runs in the capture thread, which has nothing else to do, and a hop to
 * another thread would be paid by the paused guest. A helper thread shares the work when there are
 * two threads. It knows neither epochs nor suspending: the caller stops the machine (or, for a `full`
 * capture, may let it run).
 */
import { assert } from '../base/assert.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { loadNative } from './load.ts';
import type { Memory, MemoryHandle } from './memory.ts';
import { callNative } from './native-error.ts';
import type { Tracker, TrackerHandle } from './tracker.ts';

interface CaptureHandle {
  readonly captureHandle: never;
}

/** The native list of staged pages (native-sim/src/staged_pages.h), opaque to TypeScript. */
export interface StagedPages {
  readonly stagedPages: never;
}

interface CaptureNative {
  captureCreate(
    tracker: TrackerHandle,
    block: number,
    memory: MemoryHandle | undefined,
    threads: number,
  ): CaptureHandle;
  captureTake(
    handle: CaptureHandle,
    fromPage: number,
    pageCount: number,
    full: boolean,
    stats: Float64Array,
  ): void;
  captureTakeAhead(handle: CaptureHandle, stats: Float64Array): void;
  captureStaged(handle: CaptureHandle): StagedPages;
  captureStagedIndexes(handle: CaptureHandle): Uint32Array;
  captureStagedPage(handle: CaptureHandle, position: number): Buffer;
  captureTrim(handle: CaptureHandle): void;
  captureClose(handle: CaptureHandle): void;
}

export interface CaptureOptions {
  readonly tracker: Tracker;
  /** Which of the tracker's ranges. */
  readonly block: number;
  /**
   * Our own mapping of the block's memory object: pages are then copied from it. Without it they are
   * read out of the process, which suits anonymous memory only: a hole of a *shared* memory that the
   * process has not mapped yet cannot be told from a populated page that way.
   */
  readonly memory?: Memory;
  /** How many threads share the work; 2 unless there is one core only. */
  readonly threads: 1 | 2;
}

export interface CapturePart {
  /** 0 unless given. */
  readonly fromPage?: number;
  /** To the end of the block unless given. */
  readonly pageCount?: number;
  /** All populated pages instead of the dirty ones, for a base image. */
  readonly full?: boolean;
}

/** What one capture did. */
export interface CaptureStats {
  /** Copied by it; of pages that were staged before, each counts again. */
  readonly pages: number;
  /** Runs of neighbouring pages. */
  readonly runs: number;
  readonly scanNs: number;
  readonly copyNs: number;
}

/** Scan and copy for one block of one tracker. */
export class Capture {
  readonly #native: CaptureNative;
  readonly #handle: CaptureHandle;
  readonly #stats = new Float64Array(4);
  /** Pages of the block. */
  readonly pageCount: number;

  /** @throws {RomulusError} ERR_USAGE_RANGE, ERR_USAGE_MEMORY_SIZE, ERR_LIMIT_MEMORY */
  constructor(options: CaptureOptions) {
    this.#native = loadNative<CaptureNative>();
    const bytes = options.tracker.ranges[options.block]?.bytes;
    this.#handle = callNative(() =>
      this.#native.captureCreate(
        options.tracker.handle,
        options.block,
        options.memory?.handle,
        options.threads,
      ),
    );
    assert(bytes !== undefined, 'native code refuses a block that is not tracked');
    this.pageCount = bytes / PAGE_BYTES;
  }

  /**
   * Stages the dirty pages (or, with `full`, all populated ones) of the block or of a part of it;
   * what was staged before is gone, but for pages copied ahead, unless it is `full`. Tracking begins anew for that part. The first capture of a part
   * that was never `full` finds every page of it dirty, holes too.
   *
   * After an error nobody knows what was dirty: the next capture must be `full`, others are refused.
   * @throws {RomulusError} ERR_GUEST_LOST, ERR_HOST_CAPTURE_READ, ERR_HOST_TRACKER_SCAN,
   *   ERR_INTERNAL_STAGED_PAGES, ERR_USAGE_RANGE, ERR_USAGE_CLOSED
   */
  capture(part: CapturePart = {}): CaptureStats {
    const fromPage = part.fromPage ?? 0;
    const pageCount = part.pageCount ?? this.pageCount - fromPage;
    const stats = this.#stats;
    callNative(() =>
      this.#native.captureTake(this.#handle, fromPage, pageCount, part.full ?? false, stats),
    );
    return reportOf(stats);
  }

  /**
   * Stages the dirty pages of the whole block while the machine runs, and keeps them: the next
   * `capture` copies only what was written since, so that a pause pays for the last moments alone. It
   * may be called again, for what was written during a long copy; a page that is staged already is
   * copied over in place. What no `capture` followed stays. Does nothing when the tracker is not exact
   * while the machine runs.
   * @throws {RomulusError} as `capture`.
   */
  captureAhead(): CaptureStats {
    const stats = this.#stats.fill(0);
    callNative(() => this.#native.captureTakeAhead(this.#handle, stats));
    return reportOf(stats);
  }

  /**
   * All that the last `capture` staged, pages copied ahead of it too, for the encoder. Ask for it outside
   * a pause, after each capture: once anything else is captured, or after `trim` or `close`, the object
   * stands for no pages.
   */
  staged(): StagedPages {
    return callNative(() => this.#native.captureStaged(this.#handle));
  }

  /** Indexes of the staged pages, ascending. A copy, for tests and tools. */
  stagedIndexes(): Uint32Array {
    return callNative(() => this.#native.captureStagedIndexes(this.#handle));
  }

  /** Content of the staged page at a position (not a page index). A copy, for tests and tools. */
  stagedPage(position: number): Buffer {
    return callNative(() => this.#native.captureStagedPage(this.#handle, position));
  }

  /**
   * Gives back the staging memory that one large capture left behind; what is staged is gone. Does nothing
   * while pages copied ahead wait for a `capture`. Takes
   * up to milliseconds: call it outside a pause, after a base image for instance.
   */
  trim(): void {
    callNative(() => this.#native.captureTrim(this.#handle));
  }

  /** Ends the helper thread and frees the staging area; tracker and memory stay. Idempotent. */
  close(): void {
    callNative(() => this.#native.captureClose(this.#handle));
  }
}

function reportOf(stats: Float64Array): CaptureStats {
  const [pages = 0, runs = 0, scanNs = 0, copyNs = 0] = stats;
  return { pages, runs, scanNs, copyNs };
}
