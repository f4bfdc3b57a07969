/** Encoded pages, made ready for the link: compressed where that pays, counted, free to change threads. */
import { PAGE_BYTES } from '../base/units.ts';
import { Compressor } from '../codec/compress.ts';
import { pageCountOf } from '../codec/messages.ts';
import type { EncodedPages } from '../native/page-store.ts';

/** The payload of one `pages` or `baseImage` frame, ready for the link. */
export interface SealedBatch {
  readonly payload: Uint8Array;
  /** CRC-32C of the payload when it is known already: then nobody need read it again. */
  readonly crc: number | null;
  readonly compressed: boolean;
  /** Pages in the batch. */
  readonly pages: number;
}

export interface BatchTotals {
  /** Pages copied out of the guest. */
  readonly pages: number;
  /** Of these, pages that turned out unchanged and are not sent. */
  readonly unchanged: number;
  /** Bytes before the delta: pages times 4096. */
  readonly rawBytes: number;
  /** Bytes after delta and LZ4. */
  readonly sealedBytes: number;
  readonly encodeMs: number;
}

const compressor = new Compressor();

/** The batches of a result, as payloads of frames of this kind. */
export function seal(kind: 'pages' | 'baseImage', result: EncodedPages): SealedBatch[] {
  return result.batches.map((batch, index) => {
    const pages = pageCountOf(batch);
    const compressed = compressor.compress(kind, [batch]);
    if (compressed !== null) return { payload: compressed, crc: null, compressed: true, pages };
    return { payload: batch, crc: result.crcs[index] ?? null, compressed: false, pages };
  });
}

/** What became of the pages of some results. */
export function totalsOf(
  results: readonly EncodedPages[],
  sealed: readonly SealedBatch[],
  encodeMs: number,
): BatchTotals {
  let rawBytes = 0;
  let unchanged = 0;
  for (const result of results) {
    rawBytes += result.rawBytes;
    unchanged += result.unchanged;
  }
  let sealedBytes = 0;
  for (const batch of sealed) sealedBytes += batch.payload.byteLength;
  return { pages: rawBytes / PAGE_BYTES, unchanged, rawBytes, sealedBytes, encodeMs };
}

/** What of the batches goes over the link. */
export function payloadsOf(batches: readonly SealedBatch[]): Uint8Array[] {
  return batches.map(({ payload }) => payload);
}

/** The buffers of payloads, which may move to another thread instead of being copied. */
export function buffersOf(payloads: readonly Uint8Array[]): ArrayBuffer[] {
  const buffers = new Set<ArrayBuffer>();
  for (const { buffer } of payloads) if (buffer instanceof ArrayBuffer) buffers.add(buffer);
  return [...buffers];
}
