/**
 * The apply thread of a backup: inflates and decodes acknowledged epochs into the waiting machine's
 * memory and disk, strictly in the order they come. It never runs ahead of an acknowledgement, so
 * the image is always one epoch's, or on its way to one that is held whole.
 */
import { assert, unreachable } from '../base/assert.ts';
import { RomulusError } from '../base/errors.ts';
import { PAGE_BYTES } from '../base/units.ts';
import type { Frame } from '../codec/frame.ts';
import { type DiskWrite, decodeMessage } from '../codec/messages.ts';
import { DEVICE_STATE_BLOCK_ID } from '../codec/page-batch.ts';
import type { DiskSync, DiskZeros, DiskWrite as ReplicaWrite } from '../disks/disk.ts';
import { DiskReplica } from '../disks/replica.ts';
import type { IncomingBlock } from '../guests/guest.ts';
import { Memory } from '../native/memory.ts';
import { applyPages } from '../native/page-delta.ts';
import { PageImage, releaseBuffer } from '../native/page-store.ts';
import { serveThread } from './thread-rpc.ts';

export interface PrepareRequest {
  readonly blocks: readonly IncomingBlock[];
  readonly disks: readonly { readonly id: number; readonly fd: number; readonly bytes: number }[];
  readonly diskSync: DiskSync;
}

interface Image {
  readonly blocks: ReadonlyMap<number, { readonly memory: Memory; readonly pages: PageImage }>;
  /** By disk id. */
  readonly replicas: ReadonlyMap<number, DiskReplica>;
  /** Padded to whole pages; only the first `deviceStateBytes` of it count. */
  deviceState: Uint8Array;
  deviceStateBytes: number;
  epoch: number;
  /** What could not be put in: what came after it must not be either. */
  brokenBy: unknown;
}

let image: Image | null = null;

function current(): Image {
  assert(image !== null, 'apply thread used before prepare');
  return image;
}

/**
 * Changes the image by all or, as it is seen from outside, by nothing: an image that lacks a part of an
 * epoch takes no other, and no machine is started from it.
 */
function change(work: () => void): void {
  const state = current();
  throwIfBroken(state);
  try {
    work();
  } catch (error) {
    state.brokenBy = error;
    throw error;
  }
}

function throwIfBroken({ brokenBy }: Image): void {
  if (brokenBy !== null) throw brokenBy;
}

function prepare(request: PrepareRequest): void {
  close();
  image = {
    blocks: new Map(
      request.blocks.map(({ id, fd, bytes, isReserved }) => {
        const memory = Memory.map({ fd, bytes, writable: true });
        return [
          id,
          { memory, pages: new PageImage({ memory, blockId: id, keepsPages: isReserved }) },
        ];
      }),
    ),
    replicas: new Map(
      request.disks.map(({ id, fd, bytes }) => [
        id,
        new DiskReplica({ target: { fd }, diskBytes: bytes, sync: request.diskSync }),
      ]),
    ),
    deviceState: new Uint8Array(0),
    deviceStateBytes: 0,
    epoch: 0,
    brokenBy: null,
  };
}

/** The image stays, its state is sent anew: the next device state is against nothing. */
function restate(): void {
  throwIfBroken(current());
  current().deviceState = new Uint8Array(0);
  current().deviceStateBytes = 0;
}

/** Smaller ones are not worth the call. */
const RELEASE_BYTES_MIN = 64 * 1024;

/** Every payload that came to this thread is its own; nobody looks at it once it is applied. */
function release(bytes: Uint8Array): void {
  const { buffer } = bytes;
  if (buffer instanceof ArrayBuffer && buffer.byteLength >= RELEASE_BYTES_MIN)
    releaseBuffer(buffer);
}

function applyBatch(batch: Uint8Array): void {
  const blockId = new DataView(batch.buffer, batch.byteOffset, batch.byteLength).getUint16(4, true);
  const block = current().blocks.get(blockId);
  if (block === undefined)
    throw new RomulusError(
      'ERR_PROTOCOL_PAGE_BATCH',
      `pages for RAM block ${blockId}, which the machine has not`,
      {
        remedy: 'The two sides disagree about the machine: restart the backup.',
        details: { blockId },
      },
    );
  block.pages.apply(batch);
}

/** A piece of the base image. Not promotable until the first epoch is complete. */
function base(request: { frames: readonly Frame[] }): void {
  change(() => putBase(request.frames));
}

function putBase(frames: readonly Frame[]): void {
  for (const frame of frames) {
    const message = decodeMessage(frame);
    if (message.kind === 'baseImage') {
      applyBatch(message.batch);
      release(message.batch);
    } else if (message.kind === 'baseDisk') {
      const { disk, offset, lengthBytes, data } = message.write;
      replicaOf(disk).applyBase({ offset, byteCount: lengthBytes, data });
    }
    release(frame.payload);
  }
}

function applyDeviceState(batch: Uint8Array, totalBytes: number): void {
  const state = current();
  const paddedBytes = Math.ceil(totalBytes / PAGE_BYTES) * PAGE_BYTES;
  if (state.deviceState.byteLength !== paddedBytes) {
    const resized = new Uint8Array(paddedBytes);
    resized.set(state.deviceState.subarray(0, paddedBytes));
    state.deviceState = resized;
  }
  if (batch.byteLength > 0)
    applyPages(state.deviceState, batch, { blockId: DEVICE_STATE_BLOCK_ID });
  state.deviceStateBytes = totalBytes;
}

/** Zeros stay a length: a frame can name far more of them than there is memory. */
function toReplicaWrite({ offset, lengthBytes, data }: DiskWrite): ReplicaWrite | DiskZeros {
  return data === null ? { offset, byteCount: lengthBytes, data } : { offset, data };
}

function replicaOf(disk: number): DiskReplica {
  const replica = current().replicas.get(disk);
  if (replica !== undefined) return replica;
  throw new RomulusError('ERR_PROTOCOL_DISK', `writes to disk ${disk}, which the machine has not`, {
    remedy: 'The two sides disagree about the machine: restart the backup.',
    details: { disk },
  });
}

/** Each disk's writes in their order; every replica hears of every epoch, for its durability policy. */
function applyWrites(writes: readonly DiskWrite[]): void {
  for (const { disk } of writes) replicaOf(disk);
  for (const [id, replica] of current().replicas)
    replica.apply(writes.filter(({ disk }) => disk === id).map(toReplicaWrite));
}

function epoch(request: { epoch: number; frames: readonly Frame[] }): { epoch: number } {
  change(() => putEpoch(request));
  return { epoch: request.epoch };
}

function putEpoch(request: { epoch: number; frames: readonly Frame[] }): void {
  const state = current();
  const writes: DiskWrite[] = [];
  for (const frame of request.frames) {
    const message = decodeMessage(frame);
    switch (message.kind) {
      case 'pages':
        applyBatch(message.batch);
        release(message.batch);
        break;
      case 'disk':
        writes.push(...message.writes);
        break;
      case 'deviceState':
        applyDeviceState(message.batch, message.totalBytes);
        break;
      case 'outputMark':
        break;
      default:
        unreachable(message as never, 'frame inside an epoch');
    }
  }
  applyWrites(writes);
  for (const { payload } of request.frames) release(payload);
  state.epoch = request.epoch;
}

/** The device state of the last applied epoch: what the machine starts from. */
function deviceState(): { epoch: number; state: Uint8Array } {
  throwIfBroken(current());
  const { epoch: at, deviceState: state, deviceStateBytes } = current();
  return { epoch: at, state: state.slice(0, deviceStateBytes) };
}

function scrub(): { epoch: number; digest: bigint } {
  let digest = 0n;
  for (const { pages } of current().blocks.values()) digest += pages.digest();
  return { epoch: current().epoch, digest: BigInt.asUintN(64, digest) };
}

function close(): void {
  if (image === null) return;
  for (const { memory } of image.blocks.values()) memory.close();
  for (const replica of image.replicas.values()) replica.close();
  image = null;
}

const methods = { prepare, restate, base, epoch, deviceState, scrub, close };
export type ApplyMethods = typeof methods;
serveThread(methods);
