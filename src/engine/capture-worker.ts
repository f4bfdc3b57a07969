/**
 * The capture thread: owns the machine's control connection, the tracker and the baseline.
 *
 * Everything native is called synchronously here on purpose. Inside the pause a hop to a thread
 * pool would be paid by the guest, and outside of it this thread has nothing else to do.
 *
 *     suspend ─► scan + copy (beside the device state) ─► resume
 *                                                     └─► delta ─► LZ4 ─► main thread
 */
import type { MessagePort } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { MIB, PAGE_BYTES } from '../base/units.ts';
import { DEVICE_STATE_BYTES_MAX, PAGE_BATCH_BYTES_MAX } from '../codec/limits.ts';
import { DEVICE_STATE_BLOCK_ID } from '../codec/page-batch.ts';
import type { Guest, GuestLoss, RamBlock } from '../guests/guest.ts';
import { attachGuest } from '../guests/index.ts';
import { removeExports } from '../disks/qemu-export.ts';
import { removeMirrors } from '../disks/qemu-mirror.ts';
import { writesReceived } from '../native/disk-intake.ts';
import { Capture } from '../native/capture.ts';
import { drainFrames, type TapEnds } from '../native/frame-tap.ts';
import { Memory } from '../native/memory.ts';
import { useNativeCrc32c } from '../native/native-crc32c.ts';
import { Baseline } from '../native/page-store.ts';
import { Tracker } from '../native/tracker.ts';
import { attachFilters, hasFilters, removeFilters } from '../nets/redirector/filters.ts';
import { AheadPolicy } from './ahead-policy.ts';
import type {
  AttachRequest,
  AttachResult,
  CaptureEvent,
  CheckpointResult,
  SliceResult,
} from './capture-types.ts';
import { nowMs } from './clock.ts';
import { serveMonitor } from './monitor-relay.ts';
import {
  type BatchTotals,
  buffersOf,
  payloadsOf,
  seal,
  type SealedBatch,
  totalsOf,
} from './sealed-batch.ts';
import { serveThread, Transferred } from './thread-rpc.ts';

/** Blocks from this size on are captured by two threads. */
const SHARED_WORK_BYTES_MIN = 16 * MIB;

interface CapturedBlock {
  readonly block: RamBlock;
  readonly capture: Capture;
  readonly baseline: Baseline;
  readonly memory: Memory | null;
}

interface Attached {
  readonly guest: Guest;
  readonly tracker: Tracker;
  readonly blocks: readonly CapturedBlock[];
  readonly deviceBaseline: Baseline;
  readonly ahead: AheadPolicy;
}

let attached: Attached | null = null;
/** Counts the writes of disks that are mirrored to another thread of ours. */
let writeCounter: SharedArrayBuffer | null = null;
/** The tap through which the machine's frames come, if they are held. */
let tapId: number | null = null;
useNativeCrc32c();

function current(): Attached {
  assert(attached !== null, 'capture thread used before attach');
  return attached;
}

function blockOf(id: number): CapturedBlock {
  const found = current().blocks.find((candidate) => candidate.block.id === id);
  assert(found !== undefined, `no RAM block ${id}`);
  return found;
}

async function attach(request: AttachRequest): Promise<AttachResult> {
  assert(attached === null, 'attached twice');
  const guest = await attachGuest(request.address, {
    diskMode: request.diskMode,
    holdsOutput: request.holdsOutput,
    // What an engine that died left in the machine would be taken for a part of it.
    beforeLooking: async (monitor) => {
      await removeExports(monitor);
      await removeMirrors(monitor);
    },
  });
  const cleanups: (() => void)[] = [];
  try {
    const tracker = new Tracker({
      pid: guest.pid,
      ranges: guest.blocks.map(({ address, bytes }) => ({ address, bytes })),
      kind: request.tracker,
      ...(guest.trackerSocketPath !== null && { mprotectSocket: guest.trackerSocketPath }),
    });
    cleanups.push(() => tracker.close());
    const blocks = guest.blocks.map((block, range) =>
      captureOf(block, { tracker, range, cleanups }),
    );
    attached = {
      guest,
      tracker,
      blocks,
      deviceBaseline: new Baseline({ pages: DEVICE_STATE_BYTES_MAX / PAGE_BYTES }),
      ahead: new AheadPolicy(),
    };
  } catch (error) {
    for (const cleanup of cleanups.toReversed()) cleanup();
    await guest.detach();
    throw error;
  }
  guest.onLost((loss) => thread.emit({ loss } satisfies CaptureEvent));
  return {
    descriptor: guest.descriptor,
    trackerKind: attached.tracker.kind,
    pid: guest.pid,
    disks: guest.disks,
    netSocketPath: guest.netSocketPath,
    heldNics: guest.heldNetdevs.length,
    guardian: guest.guardian,
  };
}

/** Puts filters into the machine whose frames come to the tap from now on. */
async function attachNet(request: {
  tapId: number;
  farEnds: readonly TapEnds[];
}): Promise<{ wasClosed: boolean }> {
  const { monitor, heldNetdevs } = current().guest;
  assert(monitor !== null, 'a machine whose output is held has a monitor');
  const nics = heldNetdevs.map((netdev, index) => {
    const ends = request.farEnds[index];
    assert(ends !== undefined, 'there is a pair of sockets for every NIC');
    return { netdev, capture: ends.capture, inject: ends.inject };
  });
  const wasClosed = await hasFilters(monitor);
  await attachFilters(monitor, nics);
  tapId = request.tapId;
  return { wasClosed };
}

/** Forgets the tap; takes the filters out if the network is to be open. */
async function detachNet(request: { opens: boolean }): Promise<void> {
  tapId = null;
  const monitor = attached?.guest.monitor ?? null;
  if (monitor !== null && request.opens) await removeFilters(monitor);
}

function captureOf(
  block: RamBlock,
  context: { tracker: Tracker; range: number; cleanups: (() => void)[] },
): CapturedBlock {
  const { tracker, range, cleanups } = context;
  const memory =
    block.sharedPath === null
      ? null
      : Memory.map({ path: block.sharedPath, bytes: block.bytes, writable: false });
  if (memory !== null) cleanups.push(() => memory.close());
  const capture = new Capture({
    tracker,
    block: range,
    // A second thread pays for itself on main memory only.
    threads: block.bytes >= SHARED_WORK_BYTES_MIN ? 2 : 1,
    ...(memory !== null && { memory }),
  });
  cleanups.push(() => capture.close());
  const baseline = new Baseline({ pages: block.bytes / PAGE_BYTES });
  cleanups.push(() => baseline.close());
  return { block, capture, baseline, memory };
}

function release({ blocks, tracker, deviceBaseline }: Attached): void {
  for (const { capture, memory, baseline } of blocks) {
    capture.close();
    memory?.close();
    baseline.close();
  }
  tracker.close();
  deviceBaseline.close();
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
    // Most of a machine's memory is not written again soon, and need not be held twice on this host.
    mode: request.full ? 'base' : 'delta',
  });
  const batches = seal('baseImage', result);
  const totals = totalsOf([result], batches, nowMs() - startMs);
  const end = request.fromPage + pageCount;
  const nextPage = end < block.bytes / PAGE_BYTES ? end : null;
  return new Transferred({ batches, totals, nextPage }, buffersOf(payloadsOf(batches)));
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
  return new Transferred(
    { batches, totals, nextPage: result.nextPage },
    buffersOf(payloadsOf(batches)),
  );
}

/** Forgets what the backup had: the next delta is against an image of zeros. */
function resetBaselines(request: { ram: boolean }): void {
  if (request.ram) for (const { baseline } of current().blocks) baseline.reset();
  current().deviceBaseline.reset();
}

/** Lets another thread use the machine's monitor; `counter` is read in every pause from now on. */
function followDisks(request: { monitor: MessagePort; counter: SharedArrayBuffer }): void {
  const { monitor } = current().guest;
  assert(monitor !== null, 'a machine whose disks are mirrored has a monitor');
  serveMonitor(request.monitor, monitor);
  writeCounter = request.counter;
}

interface EncodedEpoch {
  readonly batches: readonly SealedBatch[];
  readonly totals: BatchTotals;
}

/** Encodes what was copied since the checkpoint before. */
function encodeEpoch(epoch: number): EncodedEpoch {
  const startMs = nowMs();
  const results = current().blocks.map(({ capture, baseline, block }) =>
    baseline.encode(capture.staged(), { blockId: block.id, epoch, mode: 'delta' }),
  );
  const batches = results.flatMap((result) => seal('pages', result));
  return { batches, totals: totalsOf(results, batches, nowMs() - startMs) };
}

async function checkpoint(request: {
  epoch: number;
  spares: readonly ArrayBuffer[];
}): Promise<Transferred<CheckpointResult>> {
  const { guest, blocks, deviceBaseline, ahead } = current();
  for (const spare of request.spares) blocks[0]?.baseline.recycle(spare);
  let scanMs = 0;
  let copyMs = 0;
  let pausePages = 0;
  let mirroredWrites: number | null = null;
  let framesCaptured: number | null = null;
  let encoded: EncodedEpoch | null = null;
  const rounds = ahead.copyAhead(() =>
    blocks.reduce((pages, { capture }) => pages + capture.captureAhead().pages, 0),
  );
  const capture = (): void => {
    // The machine stands: every write of its and every frame has arrived, and no other will.
    if (writeCounter !== null) mirroredWrites = writesReceived(writeCounter);
    if (tapId !== null) framesCaptured = drainFrames(tapId);
    for (const { capture: pages } of blocks) {
      const stats = pages.capture({});
      pausePages += stats.pages;
      scanMs += stats.scanNs / 1e6;
      copyMs += stats.copyNs / 1e6;
    }
  };
  // Its output waits for this epoch, so there is no waiting for it to run on.
  const report = await guest
    .pause(capture, () => {
      encoded = encodeEpoch(request.epoch);
    })
    .catch((error: unknown) => {
      ahead.recordRefusal();
      throw error;
    });
  ahead.record({ rounds, pausePages, scanMs });
  const { batches, totals } = encoded ?? encodeEpoch(request.epoch);
  const { deviceState } = report;
  assert(deviceState.byteLength <= DEVICE_STATE_BYTES_MAX, 'device state beyond its bound');
  const encodedState = encodeDeviceState(deviceBaseline, deviceState, request.epoch);

  return new Transferred<CheckpointResult>(
    {
      epoch: request.epoch,
      framesSent: framesCaptured ?? report.framesSent,
      diskWrites: mirroredWrites ?? report.diskWrites,
      position: report.position,
      batches,
      deviceState: encodedState,
      deviceStateBytes: deviceState.byteLength,
      totals,
      pauseMs: report.pauseMs,
      stopMs: report.stopMs,
      scanMs,
      copyMs,
      stateMs: report.stateMs,
      resumeMs: report.resumeMs,
    },
    buffersOf([...payloadsOf(batches), encodedState]),
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

async function lastWords(): Promise<GuestLoss | null> {
  return (await attached?.guest.lastWords()) ?? null;
}

async function fence(): Promise<void> {
  await current().guest.fence();
}

async function detach(): Promise<void> {
  if (attached === null) return;
  const { guest } = attached;
  release(attached);
  attached = null;
  await guest.detach();
}

const methods = {
  attach,
  followDisks,
  attachNet,
  detachNet,
  slice,
  changedSlice,
  resetBaselines,
  checkpoint,
  scrub,
  lastWords,
  fence,
  detach,
};
export type CaptureMethods = typeof methods;
const thread = serveThread(methods);
