/**
 * Page batches, the payload of `pages` and `baseImage` frames: the readable reference of the byte
 * table in docs/ARCHITECTURE.md. Production uses native code (src/native/page-store.ts); this is
 * what native code is compared with, and what a second implementation can be written from.
 *
 * Invariant: a batch is checked as a whole before a byte of it is applied.
 */
import { assert } from '../base/assert.ts';
import { RomulusError } from '../base/errors.ts';
import { MIB, PAGE_BYTES } from '../base/units.ts';
import { PAGE_BATCH_BYTES_MAX, PAGE_BATCH_PAGES_MAX } from './limits.ts';
import {
  applyPage,
  type EncodedPage,
  encodePage,
  encodePageFull,
  type PageEncoding,
  pageDigest,
  whyInvalidPage,
} from './page-delta.ts';

/** Block id of the device state, which is sent as pages too. */
export const DEVICE_STATE_BLOCK_ID = 0xffff;
/** How large encoders let a batch become unless told otherwise. */
export const DEFAULT_BATCH_BYTES = MIB;

const HEADER_BYTES = 16;
const ENTRY_BYTES = 8;
/** An encoder starts a new batch at the latest when the table would be an eighth of the bound. */
const BYTES_PER_ENTRY_LEAST = 64;

/** A page to encode, with what the other side holds for it. */
export interface PageChange {
  readonly pageIndex: number;
  readonly now: Uint8Array;
  readonly old: Uint8Array;
}

/** A batch that was found valid. */
export interface PageBatch {
  readonly blockId: number;
  /** Sum modulo 2^64 of `pageDigest` over the pages as they are after applying. */
  readonly digest: bigint;
  readonly pages: readonly (EncodedPage & { readonly pageIndex: number })[];
}

/** Encodes pages, whose indexes must ascend, into as many batches as needed. */
export function encodePageBatches(
  changes: readonly PageChange[],
  options: { blockId: number; mode: 'delta' | 'full'; maxBatchBytes?: number },
): Uint8Array[] {
  const bytesMax = options.maxBatchBytes ?? DEFAULT_BATCH_BYTES;
  const entriesByBytes = Math.max(Math.floor(bytesMax / BYTES_PER_ENTRY_LEAST), 1);
  const entriesMax = Math.min(entriesByBytes, PAGE_BATCH_PAGES_MAX);
  const batches: Uint8Array[] = [];
  let pages: { change: PageChange; encoded: EncodedPage }[] = [];
  let dataBytes = 0;
  const finish = (): void => {
    if (pages.length > 0) batches.push(assemble(options.blockId, pages, dataBytes));
    pages = [];
    dataBytes = 0;
  };
  for (const change of changes) {
    // Asked before it is known what the page takes, so that an encoder never has to step back.
    const bytes = HEADER_BYTES + ENTRY_BYTES * (pages.length + 1) + dataBytes + PAGE_BYTES;
    if (pages.length === entriesMax || bytes > bytesMax) finish();
    const encoded =
      options.mode === 'full' ? encodePageFull(change.now) : encodePage(change.now, change.old);
    if (encoded === null) continue;
    pages.push({ change, encoded });
    dataBytes += encoded.data.length;
  }
  finish();
  return batches;
}

/**
 * Checks a batch for a block of `pageCount` pages and takes it apart.
 * @throws {RomulusError} ERR_PROTOCOL_PAGE_BATCH
 */
export function decodePageBatch(batch: Uint8Array, pageCount: number): PageBatch {
  if (batch.length < HEADER_BYTES) refuse('too short for its header');
  if (batch.length > PAGE_BATCH_BYTES_MAX) refuse('too long');
  const view = new DataView(batch.buffer, batch.byteOffset, batch.byteLength);
  const count = view.getUint32(0, true);
  if (count === 0 || count > PAGE_BATCH_PAGES_MAX) refuse(`it claims ${count} pages`);
  if (view.getUint16(6, true) !== 0) refuse('its reserved field is not 0');
  let dataStart = HEADER_BYTES + ENTRY_BYTES * count;
  if (batch.length < dataStart) refuse('too short for its table');
  const pages: (EncodedPage & { pageIndex: number })[] = [];
  for (let position = 0; position < count; position += 1) {
    const entry = HEADER_BYTES + ENTRY_BYTES * position;
    const pageIndex = view.getUint32(entry, true);
    const dataEnd = dataStart + view.getUint16(entry + 4, true);
    const last = pages.at(-1);
    if (last !== undefined && pageIndex <= last.pageIndex) refuse('its pages do not ascend');
    if (pageIndex >= pageCount) refuse(`page ${pageIndex} lies outside the block`);
    if (dataEnd > batch.length) refuse('its pages exceed it');
    const page = {
      pageIndex,
      encoding: view.getUint8(entry + 6) as PageEncoding,
      runCount: view.getUint8(entry + 7),
      data: batch.subarray(dataStart, dataEnd),
    };
    const why = whyInvalidPage(page);
    if (why !== null) refuse(`page ${pageIndex} has ${why}`);
    pages.push(page);
    dataStart = dataEnd;
  }
  if (dataStart !== batch.length) refuse('bytes follow its last page');
  return { blockId: view.getUint16(4, true), digest: view.getBigUint64(8, true), pages };
}

/**
 * Applies a batch to the pages of `target` and compares the outcome with the batch's digest.
 * @returns the number of pages.
 * @throws {RomulusError} ERR_PROTOCOL_PAGE_BATCH with `target` untouched,
 *   ERR_INTEGRITY_PAGE_DIGEST when the resulting pages are not those that were encoded.
 */
export function applyPageBatch(batch: Uint8Array, target: Uint8Array): number {
  const { pages, digest } = decodePageBatch(batch, Math.floor(target.length / PAGE_BYTES));
  let sum = 0n;
  for (const page of pages) {
    const start = page.pageIndex * PAGE_BYTES;
    const bytes = target.subarray(start, start + PAGE_BYTES);
    applyPage(bytes, page);
    sum += pageDigest(page.pageIndex, bytes);
  }
  if (BigInt.asUintN(64, sum) !== digest) {
    throw new RomulusError(
      'ERR_INTEGRITY_PAGE_DIGEST',
      'the pages of an applied batch differ from those that the primary has',
      { remedy: 'Discard this image and synchronise anew; check the hosts’ memory.' },
    );
  }
  return pages.length;
}

function assemble(
  blockId: number,
  pages: readonly { change: PageChange; encoded: EncodedPage }[],
  dataBytes: number,
): Uint8Array {
  const batch = new Uint8Array(HEADER_BYTES + ENTRY_BYTES * pages.length + dataBytes);
  const view = new DataView(batch.buffer);
  let digest = 0n;
  let at = HEADER_BYTES + ENTRY_BYTES * pages.length;
  pages.forEach(({ change, encoded }, position) => {
    const entry = HEADER_BYTES + ENTRY_BYTES * position;
    view.setUint32(entry, change.pageIndex, true);
    view.setUint16(entry + 4, encoded.data.length, true);
    view.setUint8(entry + 6, encoded.encoding);
    view.setUint8(entry + 7, encoded.runCount);
    batch.set(encoded.data, at);
    at += encoded.data.length;
    digest += pageDigest(change.pageIndex, change.now);
  });
  assert(at === batch.length, 'a batch is as long as its parts');
  view.setUint32(0, pages.length, true);
  view.setUint16(4, blockId, true);
  view.setBigUint64(8, BigInt.asUintN(64, digest), true);
  return batch;
}

function refuse(why: string): never {
  throw new RomulusError('ERR_PROTOCOL_PAGE_BATCH', `a page batch is malformed: ${why}`, {
    remedy:
      'Drop the session and synchronise anew; if it happens again, compare the versions of both nodes.',
  });
}
