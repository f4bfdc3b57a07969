/**
 * The capture thread: owns the machine's control connection, the tracker and the baseline.
 *
 * Everything native is called synchronously here on purpose. Inside the pause a hop to a thread
 * pool would be paid by the guest, and outside of it this thread has nothing else to do.
 *
 *     suspend ─► scan + copy (beside the device state) ─► resume ─► delta ─► LZ4 ─► main thread
 *
 * Whatever fails between suspend and resume, resume is sent.
 */
import { assert } from '../base/assert.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { Compressor } from '../codec/compress.ts';
import { DEVICE_STATE_BYTES_MAX, PAGE_BATCH_BYTES_MAX } from '../codec/limits.ts';
import { pageCountOf } from '../codec/messages.ts';
import { DEVICE_STATE_BLOCK_ID } from '../codec/page-batch.ts';
import type { Guest, GuestDescriptor, MachineDisk, RamBlock } from '../guests/guest.ts';
import { attachSim } from '../guests/sim/sim-guest.ts';
import { Capture } from '../native/capture.ts';
import { Memory } from '../native/memory.ts';
import { useNativeCrc32c } from '../native/native-crc32c.ts';
import { Baseline, type EncodedPages } from '../native/page-store.ts';
import { Tracker, type TrackerKind } from '../native/tracker.ts';
import { nowMs } from './clock.ts';
import { serveThread, Transferred } from './thread-rpc.ts';

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

export interface CheckpointResult {
  readonly epoch: number;
  readonly framesSent: number;
  readonly diskWrites: number;
  /** The machine's own count of how far it ran. */
  readonly position: number;
  readonly batches: readonly SealedBatch[];
  /** One page batch against the previous state; empty when nothing changed. */
  readonly deviceState: Uint8Array;
  readonly deviceStateBytes: number;
  readonly totals: BatchTotals;
  /** From asking the guest to stop until it confirmed that it runs again. */
  readonly pauseMs: number;
  readonly stopMs: number;
  readonly scanMs: number;
  readonly copyMs: number;
  readonly resumeMs: number;
}

export interface SliceResult {
  readonly batches: readonly SealedBatch[];
  readonly totals: BatchTotals;
  /** Where the next slice of this block starts; null when the block is done. */
  readonly nextPage: number | null;
}

export interface AttachRequest {
  readonly socketPath: string;
  readonly tracker: TrackerKind | 'auto';
}

export interface AttachResult {
  readonly descriptor: GuestDescriptor;
  readonly trackerKind: TrackerKind;
  readonly pid: number;
  readonly disk: MachineDisk | null;
  readonly netSocketPath: string;
}

export interface CaptureEvent {
  readonly kind: 'lost';
  readonly why: string;
}

interface CapturedBlock {
  readonly block: RamBlock;
  readonly tracker: Tracker;
  readonly capture: Capture;
  readonly baseline: Baseline;
  readonly memory: Memory | null;
}

interface Attached {
  readonly guest: Guest;
  readonly blocks: readonly CapturedBlock[];
  readonly deviceBaseline: Baseline;
}

let attached: Attached | null = null;
useNativeCrc32c();
const compressor = new Compressor();

function current(): Attached {
  assert(attached !== null, 'capture thread used before attach');
  return attached;
}

function blockOf(id: number): CapturedBlock {
  const found = current().blocks.find((candidate) => candidate.block.id === id);
  assert(found !== undefined, `no RAM block ${id}`);
  return found;
}

function seal(kind: 'pages' | 'baseImage', result: EncodedPages): SealedBatch[] {
  return result.batches.map((batch, index) => {
    const pages = pageCountOf(batch);
    const compressed = compressor.compress(kind, [batch]);
    if (compressed !== null) return { payload: compressed, crc: null, compressed: true, pages };
    return { payload: batch, crc: result.crcs[index] ?? null, compressed: false, pages };
  });
}

function totalsOf(
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

/** The buffers that may move to the main thread instead of being copied. */
function buffersOf(batches: readonly SealedBatch[]): ArrayBuffer[] {
  const buffers = new Set<ArrayBuffer>();
  for (const { payload } of batches)
    if (payload.buffer instanceof ArrayBuffer) buffers.add(payload.buffer);
  return [...buffers];
}

async function attach(request: AttachRequest): Promise<AttachResult> {
  assert(attached === null, 'attached twice');
  const guest = await attachSim({ socketPath: request.socketPath });
  const blocks: CapturedBlock[] = [];
  try {
    for (const block of guest.blocks) {
      const tracker = new Tracker({
        pid: guest.pid,
        ranges: [{ address: block.address, bytes: block.bytes }],
        kind: request.tracker,
        mprotectSocket: `${request.socketPath}.tracker`,
      });
      const memory =
        block.sharedPath === null
          ? null
          : Memory.map({ path: block.sharedPath, bytes: block.bytes, writable: false });
      const capture = new Capture({
        tracker,
        block: 0,
        threads: 2,
        ...(memory === null ? {} : { memory }),
      });
      const baseline = new Baseline({ pages: block.bytes / PAGE_BYTES });
      blocks.push({ block, tracker, capture, baseline, memory });
    }
  } catch (error) {
    releaseBlocks(blocks);
    await guest.detach();
    throw error;
  }
  guest.onLost((why) => thread.emit({ kind: 'lost', why } satisfies CaptureEvent));
  attached = {
    guest,
    blocks,
    deviceBaseline: new Baseline({ pages: DEVICE_STATE_BYTES_MAX / PAGE_BYTES }),
  };
  const first = blocks[0];
  assert(first !== undefined, 'a machine without RAM');
  return {
    descriptor: guest.descriptor,
    trackerKind: first.tracker.kind,
    pid: guest.pid,
    disk: guest.disk,
    netSocketPath: guest.netSocketPath,
  };
}

function releaseBlocks(blocks: readonly CapturedBlock[]): void {
  for (const { tracker, capture, memory, baseline } of blocks) {
    capture.close();
    tracker.close();
    memory?.close();
    baseline.close();
  }
}

/** Captures one stretch of a block while the guest runs on: the base image, or a later round of it. */
function slice(request: {
  blockId: number;
  fromPage: number;
  pageLimit: number;
  spares: readonly ArrayBuffer[];
  full: boolean;
  epoch: number;
}): Transferred<SliceResult> {
  const { capture, baseline, block } = blockOf(request.blockId);
  for (const spare of request.spares) baseline.recycle(spare);
  const pageCount = Math.min(request.pageLimit, block.bytes / PAGE_BYTES - request.fromPage);
  capture.capture({ fromPage: request.fromPage, pageCount, full: request.full });
  const startMs = nowMs();
  const result = baseline.encode(capture.staged(), {
    blockId: block.id,
    epoch: request.epoch,
    mode: 'delta',
  });
  const batches = seal('baseImage', result);
  const totals = totalsOf([result], batches, nowMs() - startMs);
  const end = request.fromPage + pageCount;
  const nextPage = end < block.bytes / PAGE_BYTES ? end : null;
  return new Transferred({ batches, totals, nextPage }, buffersOf(batches));
}

/** Pages that changed after `since`, as the baseline holds them: for a backup that has that epoch. */
function changedSlice(request: {
  blockId: number;
  fromPage: number;
  pageLimit: number;
  spares: readonly ArrayBuffer[];
  since: number;
}): Transferred<SliceResult> {
  const { baseline, block } = blockOf(request.blockId);
  for (const spare of request.spares) baseline.recycle(spare);
  const startMs = nowMs();
  const result = baseline.encodeChangedSince(request.since, {
    blockId: block.id,
    fromPage: request.fromPage,
    pageLimit: request.pageLimit,
  });
  const batches = seal('baseImage', result);
  const totals = totalsOf([result], batches, nowMs() - startMs);
  return new Transferred({ batches, totals, nextPage: result.nextPage }, buffersOf(batches));
}

/** Forgets what the backup had: the next delta is against an image of zeros. */
function resetBaselines(request: { ram: boolean }): void {
  if (request.ram) for (const { baseline } of current().blocks) baseline.reset();
  current().deviceBaseline.reset();
}

async function checkpoint(request: { epoch: number }): Promise<Transferred<CheckpointResult>> {
  const { guest, blocks, deviceBaseline } = current();
  const askedMs = nowMs();
  const report = await guest.suspend();
  const stoppedMs = nowMs();
  let scanMs = 0;
  let copyMs = 0;
  let deviceState: Uint8Array;
  let copiedMs: number;
  try {
    const saving = guest.saveDeviceState();
    // Rejections must have a listener before the synchronous capture runs; awaited just below.
    saving.catch(() => undefined);
    for (const { capture } of blocks) {
      const stats = capture.capture({});
      scanMs += stats.scanNs / 1e6;
      copyMs += stats.copyNs / 1e6;
    }
    deviceState = await saving;
    copiedMs = nowMs();
  } finally {
    await guest.resume();
  }
  const resumedMs = nowMs();
  assert(deviceState.byteLength <= DEVICE_STATE_BYTES_MAX, 'device state beyond its bound');

  const results = blocks.map(({ capture, baseline, block }) =>
    baseline.encode(capture.staged(), { blockId: block.id, epoch: request.epoch, mode: 'delta' }),
  );
  const batches = results.flatMap((result) => seal('pages', result));
  return new Transferred<CheckpointResult>(
    {
      epoch: request.epoch,
      framesSent: report.framesSent,
      diskWrites: report.diskWrites,
      position: report.position,
      batches,
      deviceState: encodeDeviceState(deviceBaseline, deviceState, request.epoch),
      deviceStateBytes: deviceState.byteLength,
      totals: totalsOf(results, batches, nowMs() - resumedMs),
      pauseMs: resumedMs - askedMs,
      stopMs: stoppedMs - askedMs,
      scanMs,
      copyMs,
      resumeMs: resumedMs - copiedMs,
    },
    buffersOf(batches),
  );
}

/** The state is treated as pages, so that the few bytes that differ are all that travels. */
function encodeDeviceState(baseline: Baseline, state: Uint8Array, epoch: number): Uint8Array {
  const pageCount = Math.ceil(state.byteLength / PAGE_BYTES);
  const pages = new Uint8Array(pageCount * PAGE_BYTES);
  pages.set(state);
  const indexes = Uint32Array.from({ length: pageCount }, (_, index) => index);
  const { batches } = baseline.encodePages(indexes, pages, {
    blockId: DEVICE_STATE_BLOCK_ID,
    epoch,
    mode: 'delta',
    maxBatchBytes: PAGE_BATCH_BYTES_MAX,
  });
  assert(batches.length <= 1, 'the device state travels in one batch');
  return batches[0] ?? new Uint8Array(0);
}

/** The digest of the image as last captured: what the backup must have after the same epoch. */
function scrub(): { digest: bigint } {
  let digest = 0n;
  for (const { baseline } of current().blocks) digest += baseline.digest();
  return { digest: BigInt.asUintN(64, digest) };
}

async function fence(): Promise<void> {
  await current().guest.fence();
}

async function detach(): Promise<void> {
  if (attached === null) return;
  const { guest, blocks, deviceBaseline } = attached;
  attached = null;
  releaseBlocks(blocks);
  deviceBaseline.close();
  await guest.detach();
}

const methods = { attach, slice, changedSlice, resetBaselines, checkpoint, scrub, fence, detach };
export type CaptureMethods = typeof methods;
const thread = serveThread(methods);
