/**
 * The disks of a running QEMU, seen from the primary: mirrored by QEMU to a server of ours, which
 * gathers the writes.
 *
 *     copying ──► following ◄──► resting
 *
 * A native thread receives them (src/native/disk-intake.ts); here is decided what becomes of them.
 * *Copying*: what arrives is part of the first copy (QEMU's background copy and the guest's writes, in
 * one order). A disk whose own file holds it as the guest sees it is not copied by QEMU: its mirror
 * brings the writes alone, and the disk is read from the file (`DiskReading`); so is one in a qcow2 file,
 * as far as that holds still. *Following*, from the
 * moment at which every mirror said READY and the files are read: it is the guest's writes, which
 * belong to epochs. *Resting*: nobody is there to be given them; the mirrors stay, the data is
 * dropped, and only which blocks were written is kept (`BlockEpochs`), so that a backup that comes
 * back with an image of an epoch is sent what it lacks (`resume`), read from the disks' own files where
 * these hold it as the guest sees it, and else through QEMU.
 *
 * When `stop` has returned, every write has arrived (the guest's completion comes after our reply):
 * who stops the machine reads the count, `writesReceived(counter)`, then and there.
 *
 * The first copy never holds the guest's writes back: when it comes faster than it is sent on, the
 * background copy is paused. The thread that runs this must not be the one that blocks in a pause: it
 * gives that order, and takes what was received before too much of it waits. A disk that can no longer be followed
 * is reported once by `onLost`; the machine runs on.
 */
import { rmSync } from 'node:fs';
import { assert } from '../base/assert.ts';
import { RomulusError, toRomulusError } from '../base/errors.ts';
import { closeDuplicate } from '../native/descriptors.ts';
import { DiskIntake, type OpenedConnection, type WrittenPiece } from '../native/disk-intake.ts';
import { BLOCK_BYTES, BlockEpochs } from './block-epochs.ts';
import { CopyBrake } from './copy-brake.ts';
import { DiskReaders, type DiskReadersOptions, fileOfFound } from './disk-readers.ts';
import { DiskReading } from './disk-reading.ts';
import { type DiskChunk, type DiskWrite, type DiskZeros, HEADER_ROOM_BYTES } from './disk.ts';
import { findDisks, type FoundDisk, startMirrors } from './found-disks.ts';
import { NbdServer } from './nbd/server.ts';
import type { BasePieces, QemuDiskOptions } from './qemu-disk-options.ts';
import { removeExports } from './qemu-export.ts';
import { jobName, mirrorExportName, removeMirrors } from './qemu-mirror.ts';
import { pieceBuffers, READ_BYTES_MAX } from './readable-disk.ts';

/** About as much of what was received is handed over at once. */
const HANDFUL_BYTES = 4 * 1024 * 1024;
/** So much, received while a piece is read, goes first: less than what makes the intake give up. */
const OVERTAKE_BYTES = 32 * 1024 * 1024;
/** Buffers of pieces that wait to be filled. */
const SPARES_MAX = 64;

/** Follows the disks of a running QEMU. Made by `attachQemuDisks`. */
export class QemuDisks {
  readonly disks: readonly FoundDisk[];
  readonly diskBytes: number;
  readonly #options: QemuDiskOptions;
  readonly #intake: DiskIntake;
  readonly #epochs: BlockEpochs;
  readonly #brake: CopyBrake;
  readonly #overtakeBytes: number;
  readonly #ready = new Set<string>();
  #server: NbdServer | null = null;
  #unlisten: () => void = () => undefined;
  #lost: RomulusError | null = null;
  #closing: Promise<void> | null = null;
  #isResting = false;
  #isBaseAwaited = false;
  /** What the first copy takes from the disks' own files was read once. */
  #areFilesRead = false;
  readonly #buffers = pieceBuffers(SPARES_MAX);
  /** What the image still lacks and the mirrors do not bring. */
  #reading: DiskReading | null = null;
  /** The end of the readers before: QEMU has one server only. */
  #readersEnding: Promise<void> = Promise.resolve();

  constructor(options: QemuDiskOptions, disks: readonly FoundDisk[]) {
    this.#options = options;
    this.disks = disks;
    this.diskBytes = disks.reduce((sum, { diskBytes }) => sum + diskBytes, 0);
    const { monitor, counter, waitingBytesMax, baseHighBytes, baseLowBytes, beats } = options;
    this.#overtakeBytes = Math.min(OVERTAKE_BYTES, (waitingBytesMax ?? Infinity) / 4);
    const disksBytes = disks.map(({ diskBytes }) => diskBytes);
    this.#epochs = new BlockEpochs(disksBytes);
    this.#intake = new DiskIntake({
      disksBytes,
      blockBytes: BLOCK_BYTES,
      roomBytes: HEADER_ROOM_BYTES,
      buffers: this.#buffers,
      ...(counter !== undefined && { counter }),
      ...(waitingBytesMax !== undefined && { waitingBytesMax }),
      ...(beats !== undefined && { beats }),
      onWaiting: () => {
        this.#onWaiting();
      },
      onGone: (disk, error) => {
        this.#onGone(disk, error);
      },
    });
    this.#brake = new CopyBrake({
      monitor,
      highBytes: baseHighBytes,
      lowBytes: baseLowBytes,
      copying: () => [...disks.keys()].filter((disk) => !this.#ready.has(jobName(disk))),
      waitingBytes: () => this.#intake.waitingBytes,
      onSettled: () => {
        this.#listen();
      },
      onFailure: (error) => {
        this.#lose(error);
      },
    });
  }

  /** Why the disks are not followed any more; null while they are. */
  get lost(): RomulusError | null {
    return this.#lost;
  }

  /** Whether the first copy has arrived here; its last pieces may still wait to be read. */
  get isReady(): boolean {
    return this.#areFilesRead && this.#ready.size === this.disks.length;
  }

  #areReady(disks: readonly number[]): boolean {
    return disks.every((disk) => this.#ready.has(jobName(disk)));
  }

  #toRead(): DiskReadersOptions {
    const { disks, readsFiles = true, exportPath } = this.#options;
    return {
      disks: this.disks.map((found, disk) => ({
        ...found,
        file: readsFiles ? fileOfFound(found, disks[disk]?.file ?? null) : null,
      })),
      buffers: this.#buffers,
      exportPath,
    };
  }

  /** Starts everything; on failure nothing is left. Called once, by `attachQemuDisks`. */
  async start(): Promise<void> {
    const { monitor, socketPath, bytesPerSecondMax, owner } = this.#options;
    this.#unlisten = monitor.onEvent(({ event, data }) => {
      this.#onEvent(event, data);
    });
    monitor.onEnd((error) => {
      this.#lose(error);
    });
    try {
      // Left there by one that was killed.
      rmSync(socketPath, { force: true });
      this.#server = await NbdServer.listen({
        path: socketPath,
        ...(owner !== undefined && { owner }),
        exports: this.disks.map(({ diskBytes }, disk) => ({
          name: mirrorExportName(disk),
          diskBytes,
        })),
        onOpened: (disk, connection) => {
          this.#onOpened(disk, connection);
        },
      });
      const readers = await DiskReaders.ofFiles(monitor, {
        ...this.#toRead(),
        isUnwritten: (disk, offset, byteCount) =>
          this.#epochs.isUnwritten({ disk, offset, byteCount }),
      });
      const stretches = this.#epochs.allOf(readers.disks, READ_BYTES_MAX);
      this.#reading = new DiskReading({ readers, stretches, epoch: this.#options.epoch });
      this.#areFilesRead = readers.disks.length === 0;
      const read = readers.disks;
      await startMirrors(monitor, this.disks, { read, socketPath, bytesPerSecondMax });
      if (this.#lost !== null) throw this.#lost;
      this.#brake.release();
    } catch (error) {
      // A mirror that has ended is not found either.
      const why = this.#lost ?? error;
      await this.detach();
      throw why;
    }
  }

  /** Whether an image that holds the disks as of the end of that epoch can be carried on. */
  canResume(since: number): boolean {
    return this.#lost === null && this.isReady && since >= this.#options.epoch;
  }

  /**
   * Carries on an image that holds the disks as of the end of epoch `since`; `epoch` will complete
   * the new one. Gives the bytes that it lacks.
   * @throws {RomulusError} ERR_DISK_READ when a disk cannot be read, ERR_DISK_LOST; resting then.
   */
  async resume({ since, epoch }: { since: number; epoch: number }): Promise<number> {
    assert(this.canResume(since) && epoch > since, 'an image that can be carried on');
    this.rest();
    await this.#readersEnding;
    const readers = await DiskReaders.open(this.#options.monitor, this.#toRead());
    if (this.#lost !== null) {
      await readers.close();
      throw this.#lost;
    }
    // All that was received before this can be read there; what comes after it waits here.
    for (const [disk, blocks] of this.#intake.resume().entries())
      this.#epochs.noteLater(disk, blocks);
    this.#epochs.settle(epoch);
    const stretches = this.#epochs.changedSince(since, READ_BYTES_MAX);
    this.#reading = new DiskReading({ readers, stretches, epoch });
    this.#isResting = false;
    return this.#epochs.bytesSince(since);
  }

  /** Nobody is given the writes: only where they went is kept. */
  rest(): void {
    this.#endReading();
    this.#isResting = true;
    this.#intake.rest();
  }

  /**
   * The next pieces of the first copy, in order.
   * @throws {RomulusError} ERR_DISK_LOST, ERR_DISK_MIRROR, ERR_DISK_READ, ERR_LIMIT_DISK_BACKLOG.
   */
  async nextBase(): Promise<BasePieces> {
    if (this.#lost !== null) throw this.#lost;
    const reading = this.#reading;
    if (reading?.isUnderWay !== true) {
      const chunks = this.#waiting();
      if (chunks.length > 0) return { chunks, next: 'more' };
    }
    // Read only when all that was received before is on its way, and when no write passes by the mirror.
    if (reading !== null && this.#areReady(reading.disks) && reading.isBegun(this.#wakeReader)) {
      const pieces = await reading.next();
      if (pieces === null) return this.#waitForPieces(reading);
      if (pieces.length > 0) return { chunks: pieces, next: 'more' };
      this.#areFilesRead = true;
    }
    if (this.isReady) return { chunks: [], next: 'complete' };
    this.#isBaseAwaited = true;
    this.#listen();
    return { chunks: [], next: 'waiting' };
  }

  /** Storage takes its time. */
  #waitForPieces(reading: DiskReading): BasePieces {
    if (this.#intake.waitingBytes > this.#overtakeBytes) {
      reading.overtake();
      return { chunks: this.#waiting(), next: 'more' };
    }
    this.#isBaseAwaited = true;
    reading.whenRead(this.#wakeReader);
    this.#listen();
    return { chunks: [], next: 'waiting' };
  }

  /** Buffers of pieces that nobody needs any more: the next are received into them. */
  giveBack(buffers: readonly ArrayBuffer[]): void {
    this.#buffers.giveBack(buffers);
  }

  /**
   * The writes of an epoch, in order: those with a count up to `through` that no epoch before had.
   * @throws {RomulusError} ERR_DISK_LOST, ERR_DISK_MIRROR, ERR_LIMIT_DISK_BACKLOG.
   */
  take(epoch: number, through: number): readonly (DiskWrite | DiskZeros)[] {
    if (this.#lost !== null) throw this.#lost;
    if (this.#isResting) throw restingError(epoch);
    this.#endReading();
    const writes = this.#intake.takeThrough(through);
    for (const write of writes) this.#epochs.note(write, epoch);
    return writes.map(writeOf);
  }

  /**
   * Ends the mirrors and removes all traces from QEMU. Idempotent.
   * @throws {RomulusError} when QEMU does not let go; our server is closed even so.
   */
  async detach(): Promise<void> {
    this.#closing ??= this.#detach();
    return this.#closing;
  }

  async #detach(): Promise<void> {
    const wasLost = this.#lost;
    this.#brake.end();
    this.#lost ??= new RomulusError('ERR_DISK_LOST', 'the disks were let go', {
      remedy: 'Attach to the disks again before taking checkpoints.',
    });
    try {
      // A mirror whose connection is broken ends at once; one that works needs our replies to end.
      if (wasLost !== null) this.#closeServer();
      // Ending mirrors stops the machine, which would stand until QEMU has done what its server was asked for. Where
      // that takes too long, the mirrors are left without their server, and end with the guest's next write.
      this.#endReading();
      await this.#readersEnding;
      await removeExports(this.#options.monitor, this.#options.exportPath);
      await removeMirrors(this.#options.monitor);
    } finally {
      this.#unlisten();
      this.#closeServer();
    }
  }

  #endReading(): void {
    const reading = this.#reading;
    this.#reading = null;
    if (reading !== null) this.#readersEnding = reading.close();
  }

  #closeServer(): void {
    this.#intake.close();
    this.#server?.close();
    for (const disk of this.disks.keys()) this.#options.onConnection?.(disk, null);
  }

  /** A handful of what was received and waits. */
  #waiting(): DiskChunk[] {
    const pieces = this.#intake.takeSome(HANDFUL_BYTES);
    if (this.#reading !== null)
      for (const piece of pieces) this.#epochs.note(piece, this.#reading.epoch);
    this.#brake.steer();
    return pieces;
  }

  #onOpened(disk: number, connection: OpenedConnection): void {
    try {
      this.#options.onConnection?.(disk, connection.descriptor);
    } catch (error) {
      closeDuplicate(connection.descriptor);
      this.#lose(toRomulusError(error));
      return;
    }
    this.#intake.adopt(disk, connection);
  }

  #onGone(disk: number, error: RomulusError): void {
    this.#options.onConnection?.(disk, null);
    this.#server?.release(disk);
    this.#lose(error);
  }

  #onWaiting(): void {
    this.#brake.steer();
    if (this.#intake.waitingBytes > 0) this.#wake();
    this.#listen();
  }

  /** Asks to hear when there is something to be done. */
  #listen(): void {
    if (this.#lost !== null) return;
    const baseBytes = this.#reading?.isUnderWay === true ? this.#overtakeBytes : 0;
    const bytes = this.#isBaseAwaited ? baseBytes : this.#brake.wakeAboveBytes;
    if (bytes !== null) this.#intake.wakeAbove(bytes);
  }

  #onEvent(event: string, data: Readonly<Record<string, unknown>>): void {
    const job = data['device'];
    if (typeof job !== 'string' || !this.disks.some((_, disk) => jobName(disk) === job)) return;
    if (event === 'BLOCK_JOB_READY') {
      this.#ready.add(job);
      this.#brake.steer();
      this.#wake();
    } else if (event === 'BLOCK_JOB_COMPLETED' || event === 'BLOCK_JOB_CANCELLED') {
      const words = typeof data['error'] === 'string' ? data['error'] : 'somebody ended it';
      this.#lose(
        new RomulusError('ERR_DISK_MIRROR', `QEMU's mirror '${job}' ended: ${words}`, {
          remedy: 'Mend what QEMU names; the backup needs a new first copy of the disk.',
          details: { job, qemuText: words },
        }),
      );
    }
  }

  #lose(error: RomulusError): void {
    if (this.#lost !== null) return;
    this.#lost = error;
    this.#brake.end();
    // Before anything else: whatever waits for a reply of ours must not wait any longer.
    this.#closeServer();
    this.#wake();
    this.#options.onLost(error);
  }

  readonly #wakeReader = (): void => {
    this.#wake();
  };

  #wake(): void {
    if (!this.#isBaseAwaited) return;
    this.#isBaseAwaited = false;
    this.#options.onBase?.();
  }
}

function restingError(epoch: number): RomulusError {
  return new RomulusError('ERR_DISK_LOST', `nobody is given the disk writes of epoch ${epoch}`, {
    remedy: 'Nothing needs to be done: the next image is made with what was written.',
  });
}

function writeOf({ disk, offset, byteCount, data }: WrittenPiece): DiskWrite | DiskZeros {
  return data === null ? { disk, offset, byteCount, data } : { disk, offset, data };
}

/**
 * Starts to follow the disks of a running QEMU, after removing what a dead predecessor left.
 * @throws {RomulusError} ERR_DISK_MIRROR, ERR_DISK_SOCKET, and the monitor's own; nothing is left then.
 */
export async function attachQemuDisks(options: QemuDiskOptions): Promise<QemuDisks> {
  const { monitor } = options;
  assert(options.epoch > 0, 'an image is complete with an epoch');
  await removeExports(monitor, options.exportPath);
  await removeMirrors(monitor);
  const names = options.disks.map(({ name }) => name);
  const disks = new QemuDisks(options, await findDisks(monitor, names));
  await disks.start();
  return disks;
}
