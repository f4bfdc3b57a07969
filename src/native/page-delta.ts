/**
 * The native page functions for plain buffers: digests, CRC, and batches applied to an array (the
 * device state, tests). Baselines and images of memories are in page-store.ts, the format in
 * src/codec/page-batch.ts. All calls are synchronous and keep nothing.
 */
import { loadNative } from './load.ts';
import { callNative } from './native-error.ts';

/** A form of the page functions; every form gives the same bytes. */
export type SimdLevel = 'scalar' | 'avx2' | 'avx512';

interface PageDeltaNative {
  pageSimdLevels(): SimdLevel[];
  pageDigest(pageIndex: number, page: Uint8Array, level?: SimdLevel): bigint;
  pageCrc32c(data: Uint8Array, initial: number, level?: SimdLevel): number;
  pageApplyToBuffer(
    target: Uint8Array,
    batch: Uint8Array,
    blockId?: number,
    level?: SimdLevel,
  ): number;
  pageClassicRunsBytes(now: Uint8Array, old: Uint8Array): number;
  pageCopy(source: Uint8Array, target: Uint8Array): void;
}

/** What applying a batch did. */
export interface Applied {
  readonly pages: number;
  /** Bytes of the batch. */
  readonly bytes: number;
}

/** The forms that this processor can run, the fastest last: that one is used unless told otherwise. */
export function simdLevels(): readonly SimdLevel[] {
  return callNative(() => loadNative<PageDeltaNative>().pageSimdLevels());
}

/**
 * The digest of one page of 4096 bytes: 0 for zeros, else its CRC-32C and index mixed to 64 bits.
 * @throws {RomulusError} ERR_USAGE_PAGE_BYTES, ERR_HOST_SIMD_LEVEL
 */
export function pageDigest(pageIndex: number, page: Uint8Array, level?: SimdLevel): bigint {
  return callNative(() => loadNative<PageDeltaNative>().pageDigest(pageIndex, page, level));
}

/** CRC-32C continuing from `initial`: what src/codec/checksum.ts computes, several times as fast. */
export function crc32c(data: Uint8Array, initial = 0, level?: SimdLevel): number {
  return callNative(() => loadNative<PageDeltaNative>().pageCrc32c(data, initial, level));
}

/**
 * Checks a batch as a whole, applies it to an array of pages and compares the digest of the outcome.
 * @param options.blockId The block that the batch must be of; any when left out.
 * @throws {RomulusError} ERR_PROTOCOL_PAGE_BATCH with `target` untouched,
 *   ERR_INTEGRITY_PAGE_DIGEST with `target` damaged.
 */
export function applyPages(
  target: Uint8Array,
  batch: Uint8Array,
  options: { blockId?: number; level?: SimdLevel } = {},
): Applied {
  const pages = callNative(() =>
    loadNative<PageDeltaNative>().pageApplyToBuffer(target, batch, options.blockId, options.level),
  );
  return { pages, bytes: batch.length };
}

/**
 * Size of the classic (skip, length, bytes) encoding of equally many pages, 4096 for a page that it
 * does not shrink: the bench's yardstick.
 */
export function classicRunsBytes(now: Uint8Array, old: Uint8Array): number {
  return callNative(() => loadNative<PageDeltaNative>().pageClassicRunsBytes(now, old));
}

/** A plain copy of equally many pages, one by one: the bench's other yardstick. */
export function copyPages(source: Uint8Array, target: Uint8Array): void {
  callNative(() => loadNative<PageDeltaNative>().pageCopy(source, target));
}
