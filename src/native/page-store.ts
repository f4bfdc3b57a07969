/**
 * The two ends of page replication over native memory: the primary's `Baseline`, against which new
 * content is encoded, and the backup's `PageImage`, to which batches are applied.
 *
 * Invariants: a Baseline holds what the backup has once everything encoded so far has arrived, so
 * every batch must be sent, in order, or the baseline be reset (or the backup brought up to date
 * by `encodeChangedSince`); a PageImage applies a batch only after all of it was found valid.
 * Both belong to the thread that made them; calls are synchronous. Neither knows of roles.
 */
import { MIB } from '../base/units.ts';
import type { StagedPages } from './capture.ts';
import { loadNative } from './load.ts';
import type { Memory, MemoryHandle } from './memory.ts';
import { callNative } from './native-error.ts';
import type { Applied, SimdLevel } from './page-delta.ts';

interface BaselineHandle {
  readonly baselineHandle: never;
}

/** What one call encoded. */
export interface EncodedPages {
  /**
   * Complete page batches. Each is the only view of its ArrayBuffer, but may begin anywhere in it:
   * transfer `batch.buffer` and keep `byteOffset` and `length`.
   */
  readonly batches: readonly Uint8Array<ArrayBuffer>[];
  /** CRC-32C of each batch, computed while its bytes were in cache. */
  readonly crcs: readonly number[];
  /** Pages in the batches: zero + runs + mask + raw. */
  readonly pages: number;
  readonly zero: number;
  /** Pages given that equal the baseline, hence not in the batches. */
  readonly unchanged: number;
  readonly runs: number;
  readonly mask: number;
  readonly raw: number;
  /** 4096 for every page given, unchanged ones too. */
  readonly rawBytes: number;
  /** Bytes of all batches. */
  readonly encodedBytes: number;
}

/**
 * - `delta`: against what the backup has.
 * - `full`: every page as zero or raw, whatever was there.
 * - `base`: as `delta`, but the content of pages that are new is not kept, so that a base image costs
 *   no memory here. The next time such a page is encoded it is zero or raw, and kept from then on.
 */
export type EncodeMode = 'delta' | 'full' | 'base';

export interface EncodeOptions {
  readonly blockId: number;
  /** Largest size of a batch: 4120 bytes to 8 MiB; 1 MiB when left out. */
  readonly maxBatchBytes?: number;
  /** A slower form of the kernels, for tests. */
  readonly level?: SimdLevel;
}

export interface EncodeNewOptions extends EncodeOptions {
  /** The epoch that these pages belong to: remembered for `encodeChangedSince`. */
  readonly epoch: number;
  /** `delta` when left out. */
  readonly mode?: EncodeMode;
}

export interface EncodeChangedOptions extends EncodeOptions {
  /** Where to begin; 0 when left out. */
  readonly fromPage?: number;
  /** At most so many pages in this call; all when left out. */
  readonly pageLimit?: number;
}

/** A slice of a resynchronisation. */
export interface EncodedSlice extends EncodedPages {
  /** The `fromPage` of the next call, null when all is encoded. */
  readonly nextPage: number | null;
}

/** Which pages a digest covers; all when left out. */
export interface DigestRange {
  readonly fromPage?: number;
  readonly pageCount?: number;
  readonly level?: SimdLevel;
}

type CommonArguments = [
  blockId: number,
  epoch: number,
  maxBatchBytes: number,
  mode: EncodeMode,
  level: SimdLevel | undefined,
];

interface PageStoreNative {
  baselineCreate(pages: number): BaselineHandle;
  baselineEncode(
    handle: BaselineHandle,
    staged: StagedPages,
    ...options: CommonArguments
  ): EncodedPages;
  baselineEncodePages(
    handle: BaselineHandle,
    indexes: Uint32Array,
    pages: Uint8Array,
    ...options: CommonArguments
  ): EncodedPages;
  baselineEncodeChangedSince(
    handle: BaselineHandle,
    since: number,
    fromPage: number,
    pageLimit: number,
    ...options: CommonArguments
  ): EncodedSlice;
  baselineCountChangedSince(handle: BaselineHandle, since: number): number;
  baselineDigest(
    handle: BaselineHandle,
    fromPage: number,
    pageCount: number,
    level?: SimdLevel,
  ): bigint;
  baselineRecycle(handle: BaselineHandle, buffer: ArrayBuffer): void;
  baselineReset(handle: BaselineHandle): void;
  baselineClose(handle: BaselineHandle): void;
  bufferRelease(buffer: ArrayBuffer): void;
  imageApply(
    memory: MemoryHandle,
    batch: Uint8Array,
    blockId: number | undefined,
    level: SimdLevel | undefined,
    keepsPages: boolean,
  ): number;
  imageDigest(memory: MemoryHandle, fromPage: number, pageCount: number, level?: SimdLevel): bigint;
}

const DEFAULT_BATCH_BYTES = MIB;
const ALL_PAGES = 2 ** 32;

/** The primary's shadow of one block, or of the device state. */
export class Baseline {
  readonly pages: number;
  readonly #native: PageStoreNative;
  readonly #handle: BaselineHandle;

  /**
   * A baseline of zeros. Takes memory only for pages that are encoded, and not as `base`.
   * @throws {RomulusError} ERR_USAGE_MEMORY_SIZE, ERR_HOST_MEMORY_MAP
   */
  constructor(options: { pages: number }) {
    this.pages = options.pages;
    this.#native = loadNative<PageStoreNative>();
    this.#handle = callNative(() => this.#native.baselineCreate(options.pages));
  }

  /**
   * Encodes captured pages and takes them over into the baseline.
   * @throws {RomulusError} ERR_USAGE_BATCH_BYTES, ERR_HOST_SIMD_LEVEL, ERR_USAGE_CLOSED or
   *   ERR_INTERNAL_STAGED_PAGES (indexes not ascending or outside), in each case with nothing changed.
   */
  encode(staged: StagedPages, options: EncodeNewOptions): EncodedPages {
    return callNative(() =>
      this.#native.baselineEncode(this.#handle, staged, ...newArguments(options)),
    );
  }

  /**
   * `encode` for pages in plain arrays: 4096 bytes for each of the ascending indexes.
   * @throws {RomulusError} as `encode`, and ERR_USAGE_PAGE_BYTES when the sizes do not fit.
   */
  encodePages(indexes: Uint32Array, pages: Uint8Array, options: EncodeNewOptions): EncodedPages {
    return callNative(() =>
      this.#native.baselineEncodePages(this.#handle, indexes, pages, ...newArguments(options)),
    );
  }

  /** How many pages changed after the epoch: what `encodeChangedSince` would send. */
  pagesChangedSince(epoch: number): number {
    return callNative(() => this.#native.baselineCountChangedSince(this.#handle, epoch));
  }

  /**
   * Encodes, in full, the baseline's own content of the pages that changed after the epoch: what a
   * backup that holds that epoch lacks. Call it again with `nextPage` until that is null.
   * @throws {RomulusError} ERR_USAGE_BATCH_BYTES, ERR_HOST_SIMD_LEVEL, ERR_USAGE_CLOSED,
   *   ERR_INTERNAL_BASELINE for an epoch before that of a base image
   */
  encodeChangedSince(epoch: number, options: EncodeChangedOptions): EncodedSlice {
    return callNative(() =>
      this.#native.baselineEncodeChangedSince(
        this.#handle,
        epoch,
        options.fromPage ?? 0,
        options.pageLimit ?? ALL_PAGES,
        options.blockId,
        0,
        options.maxBatchBytes ?? DEFAULT_BATCH_BYTES,
        'full',
        options.level,
      ),
    );
  }

  /**
   * Sum modulo 2^64 of the pages' digests, computed anew from their content where that is kept, and
   * else from the CRC under which it was sent.
   */
  digest(range: DigestRange = {}): bigint {
    return callNative(() =>
      this.#native.baselineDigest(
        this.#handle,
        range.fromPage ?? 0,
        range.pageCount ?? ALL_PAGES,
        range.level,
      ),
    );
  }

  /**
   * Gives the buffer of a batch back once nobody reads it any more, for later batches to be written
   * into; it may have been through other threads. Optional, but a fresh buffer costs more in page
   * faults than encoding into it. Few are kept; small or surplus ones are left to the collector.
   */
  recycle(buffer: ArrayBuffer): void {
    callNative(() => this.#native.baselineRecycle(this.#handle, buffer));
  }

  /** Forgets everything: zeros that take no memory, as after construction. */
  reset(): void {
    callNative(() => this.#native.baselineReset(this.#handle));
  }

  /** Gives the memory back. Idempotent. */
  close(): void {
    callNative(() => this.#native.baselineClose(this.#handle));
  }
}

/**
 * Frees a buffer's memory at once; what views it is empty from then on. Left to the collector, the
 * megabytes that pass through a thread are counted against its heap, and every 64 of them make V8
 * mark all of it, on threads that the machine and the link need.
 */
export function releaseBuffer(buffer: ArrayBuffer): void {
  callNative(() => loadNative<PageStoreNative>().bufferRelease(buffer));
}

/** The backup's copy of one block, in a memory that the machine will run on. */
export class PageImage {
  readonly #native: PageStoreNative;
  readonly #memory: Memory;
  readonly #blockId: number | undefined;
  readonly #level: SimdLevel | undefined;
  readonly #keepsPages: boolean;

  /**
   * @param options.memory Mapped writable; stays the caller's to close.
   * @param options.blockId The block that batches must be of; any when left out.
   * @param options.keepsPages Zeros are written, and never give memory back: for a memory that was
   *   allocated beforehand where others could take it.
   */
  constructor(options: {
    memory: Memory;
    blockId?: number;
    level?: SimdLevel;
    keepsPages?: boolean;
  }) {
    this.#native = loadNative<PageStoreNative>();
    this.#memory = options.memory;
    this.#blockId = options.blockId;
    this.#level = options.level;
    this.#keepsPages = options.keepsPages === true;
  }

  /**
   * Checks a batch as a whole, applies it and compares the digest of the resulting pages.
   * @throws {RomulusError} ERR_PROTOCOL_PAGE_BATCH with the image untouched,
   *   ERR_INTEGRITY_PAGE_DIGEST with the image damaged (to be given up), ERR_USAGE_READ_ONLY.
   */
  apply(batch: Uint8Array): Applied {
    const pages = callNative(() =>
      this.#native.imageApply(
        this.#memory.handle,
        batch,
        this.#blockId,
        this.#level,
        this.#keepsPages,
      ),
    );
    return { pages, bytes: batch.length };
  }

  /** Sum modulo 2^64 of the pages' digests. Holes are skipped and stay holes. */
  digest(range: DigestRange = {}): bigint {
    return callNative(() =>
      this.#native.imageDigest(
        this.#memory.handle,
        range.fromPage ?? 0,
        range.pageCount ?? ALL_PAGES,
        range.level ?? this.#level,
      ),
    );
  }

  /** The digest of one page. */
  pageDigest(pageIndex: number): bigint {
    return this.digest({ fromPage: pageIndex, pageCount: 1 });
  }
}

function newArguments(options: EncodeNewOptions): CommonArguments {
  return [
    options.blockId,
    options.epoch,
    options.maxBatchBytes ?? DEFAULT_BATCH_BYTES,
    options.mode ?? 'delta',
    options.level,
  ];
}
