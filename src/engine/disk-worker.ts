/**
 * The disk thread of a primary: starts and steers the mirrors of a QEMU machine's disks, and hands out
 * the writes that a native thread beside it receives. It neither sits in the pause, because what QEMU
 * asks of it must go on there, nor suffers what the main thread is busy with.
 */
import type { MessagePort } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { RomulusError, toRomulusError } from '../base/errors.ts';
import type { DiskWrite, DiskZeros } from '../disks/disk.ts';
import { WatchedConnections, type WatchedServer } from '../disks/nbd/watchdog.ts';
import { attachQemuDisks, type QemuDisks } from '../disks/qemu-disk.ts';
import type { BasePieces, QemuDiskOptions } from '../disks/qemu-disk-options.ts';
import { removeExports } from '../disks/qemu-export.ts';
import { removeMirrors } from '../disks/qemu-mirror.ts';
import type { IntakeBeats } from '../native/disk-intake.ts';
import type { GuardianAddress } from '../native/guardian-link.ts';
import { GuardedDisks } from './guarded-disks.ts';
import { RelayedMonitor } from './monitor-relay.ts';
import { serveThread, Transferred } from './thread-rpc.ts';

type ErrorJson = ReturnType<RomulusError['toJSON']>;
type Settings = Omit<
  QemuDiskOptions,
  'monitor' | 'epoch' | 'readsFiles' | 'onLost' | 'onBase' | 'onConnection' | 'beats'
>;

export interface DiskBegin {
  readonly monitor: MessagePort;
  /** Who frees QEMU of us when the whole process stands still; null: nobody. */
  readonly guardian: GuardianAddress | null;
  readonly server: WatchedServer;
  readonly settings: Settings;
}

/** Which image a view of the disks is for. */
export interface DiskTarget {
  /** It holds the disks as of the end of this epoch; null: nothing of them. */
  readonly since: number | null;
  /** The epoch that will complete it. */
  readonly epoch: number;
}

/** Which view is spoken of: a number that grows with every one opened. */
export interface DiskView {
  readonly view: number;
}

export type DiskEvent =
  | { readonly kind: 'base' }
  | { readonly kind: 'lost'; readonly error: ErrorJson };

interface Begun {
  readonly monitor: RelayedMonitor;
  readonly guarded: GuardedDisks | null;
  readonly connections: WatchedConnections;
  readonly beats: IntakeBeats;
  readonly settings: Settings;
}

let begun: Begun | null = null;
let disks: QemuDisks | null = null;
/** Why what a disk holds could not be read: the next image is not made that way again. */
let unreadable: ErrorJson | null = null;
/** The view opened last. One before it may still be asked about by who has not heard of that. */
let lastView = 0;

function attached(view: number): QemuDisks {
  if (disks !== null && view === lastView) return disks;
  throw new RomulusError('ERR_DISK_LOST', 'the disks are not followed for this image any more', {
    remedy: 'Nothing needs to be done: the next image begins with the disks.',
  });
}

/** Takes the monitor over, and removes what a predecessor left in the machine. */
async function begin(request: DiskBegin): Promise<void> {
  assert(begun === null, 'begun twice');
  const monitor = new RelayedMonitor(request.monitor);
  const guarded = request.guardian === null ? null : new GuardedDisks(request.guardian);
  begun = {
    monitor,
    guarded,
    connections: new WatchedConnections(request.server),
    beats: { shared: request.server.beat, ...(guarded !== null && { page: guarded.page }) },
    settings: request.settings,
  };
  await removeExports(monitor, request.settings.exportPath);
  await removeMirrors(monitor);
}

/** A view of the disks, as it was opened. */
interface OpenedView {
  /** Bytes that the image lacks. */
  readonly totalBytes: number;
  /** Why all of the disks is sent, where less could have been enough. */
  readonly wholeBecause: ErrorJson | null;
}

/** Opens a view of the disks for an image. */
async function open({ view, since, epoch }: DiskTarget & DiskView): Promise<OpenedView> {
  assert(begun !== null, 'disk thread used before begin');
  assert(view > lastView, 'views are opened in order');
  lastView = view;
  let wholeBecause: ErrorJson | null = null;
  // The files are among what could not be read.
  const readsFiles = unreadable === null;
  if (disks !== null && since !== null && disks.canResume(since)) {
    wholeBecause = unreadable;
    try {
      if (wholeBecause === null)
        return { totalBytes: await disks.resume({ since, epoch }), wholeBecause };
    } catch (error) {
      wholeBecause = toRomulusError(error).toJSON();
    }
  }
  unreadable = null;
  await detach();
  const { monitor, guarded, connections, beats, settings } = begun;
  const mine = await attachQemuDisks({
    ...settings,
    readsFiles,
    monitor,
    epoch,
    beats,
    onLost: (error) => {
      emit({ kind: 'lost', error: error.toJSON() });
    },
    onBase: () => {
      emit({ kind: 'base' });
    },
    onConnection: (disk, descriptor) => {
      connections.set(disk, descriptor);
      guarded?.connection(disk, descriptor);
    },
  });
  disks = mine;
  return { totalBytes: mine.diskBytes, wholeBecause };
}

async function nextBase({
  view,
  spares,
}: DiskView & { spares: readonly ArrayBuffer[] }): Promise<Transferred<BasePieces>> {
  const followed = attached(view);
  followed.giveBack(spares);
  const pieces = await followed.nextBase().catch((error: unknown) => {
    const known = toRomulusError(error);
    if (known.code === 'ERR_DISK_READ') unreadable = known.toJSON();
    throw error;
  });
  return new Transferred(pieces, buffersOf(pieces.chunks));
}

function take({
  view,
  epoch,
  through,
}: DiskView & { epoch: number; through: number }): Transferred<readonly (DiskWrite | DiskZeros)[]> {
  const writes = attached(view).take(epoch, through);
  return new Transferred(writes, buffersOf(writes));
}

/** Nobody is given the writes from now on, unless another view was opened since. */
async function rest({ view }: DiskView): Promise<void> {
  if (disks === null || view !== lastView) return;
  if (disks.isReady && disks.lost === null) disks.rest();
  // A first copy that nobody takes is not gone on with.
  else await detach();
}

/** Ends the mirrors. Idempotent. */
async function detach(): Promise<void> {
  const mine = disks;
  disks = null;
  try {
    await mine?.detach();
  } catch (error) {
    // Its server is closed, so the mirrors end at the guest's next write, and who attaches next
    // removes them. A machine that is gone needs no such thing.
    emit({ kind: 'lost', error: toRomulusError(error).toJSON() });
  }
}

function buffersOf(pieces: readonly { readonly data: Uint8Array | null }[]): ArrayBuffer[] {
  const buffers = new Set<ArrayBuffer>();
  for (const { data } of pieces)
    if (data !== null && data.buffer instanceof ArrayBuffer) buffers.add(data.buffer);
  return [...buffers];
}

const methods = { begin, open, nextBase, take, rest, detach };
export type DiskMethods = typeof methods;
const thread = serveThread(methods);

function emit(event: DiskEvent): void {
  thread.emit(event);
}
