/**
 * The main thread's end of the disk thread: views of a QEMU machine's disks, one for each image that
 * is made, and the watchdog that frees the machine when that thread hangs.
 *
 * The mirrors outlive a view: between two of them, only where the machine writes is kept, so that the
 * next image can be sent what it lacks. When the disks are lost (a mirror ended, the thread hung), the
 * thread is given up, and the next view begins with another one and a whole first copy.
 */
import { rmSync } from 'node:fs';
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { fromErrorJson, RomulusError } from '../base/errors.ts';
import type { DiskChunk, DiskWrite, DiskZeros, SourceDisk } from '../disks/disk.ts';
import { DiskWatchdog, makeWatchedServer } from '../disks/nbd/watchdog.ts';
import type { BasePieces, WantedDisk } from '../disks/qemu-disk-options.ts';
import { STEP_TIMEOUT_MS } from '../disks/qemu-mirror.ts';
import { bytesWaiting, makeCounter } from '../native/disk-intake.ts';
import type { GuardianAddress } from '../native/guardian-link.ts';
import { workerUrl } from '../native/worker-url.ts';
import type { DiskBegin, DiskEvent, DiskMethods, DiskTarget } from './disk-worker.ts';
import { ThreadClient } from './thread-rpc.ts';

/**
 * How long a disk thread that is given up may take to leave the machine clean, milliseconds: QEMU's server of the
 * disks is ended first, while the machine runs; then it stands, and QEMU takes its time to stop where a disk is slow.
 */
const FAREWELL_MS = 4 * STEP_TIMEOUT_MS;

export interface MirroredDisksOptions {
  readonly disks: readonly WantedDisk[];
  readonly socketPath: string;
  /** Where QEMU's server will listen while disks are read through it. */
  readonly exportPath: string;
  readonly owner?: { readonly uid: number; readonly gid: number };
  readonly bytesPerSecondMax?: number;
  /** Who frees QEMU of us when the whole process stands still; null: nobody. */
  readonly guardian: GuardianAddress | null;
  /** Lets the machine's monitor be used through the port. */
  readonly serveMonitor: (port: MessagePort) => Promise<void>;
  /** A view was opened, and so many bytes are to be sent: all of them for this reason, if any. */
  readonly onOpened: (
    target: DiskTarget,
    opened: { readonly totalBytes: number; readonly wholeBecause: RomulusError | null },
  ) => void;
  /** The disks can no longer be followed. */
  readonly onLost: (error: RomulusError) => void;
}

interface Thread {
  readonly client: ThreadClient<DiskMethods, DiskEvent>;
  readonly watchdog: DiskWatchdog;
}

/** Follows the disks of one QEMU for as long as a role lasts. */
export class MirroredDisks {
  /** Counts the writes, for whoever stops the machine. */
  readonly counter: SharedArrayBuffer = makeCounter();
  readonly #options: MirroredDisksOptions;
  #thread: Thread | null = null;
  #view: MirroredView | null = null;
  #viewsAsked = 0;
  /** Ends with the last view asked for: they are opened one at a time. */
  #opening: Promise<unknown> = Promise.resolve();
  #isClosed = false;
  /** The end of the thread before, which must not meddle with its successor's mirrors. */
  #ending: Promise<void> = Promise.resolve();

  constructor(options: MirroredDisksOptions) {
    this.#options = options;
  }

  /** Bytes of writes that wait for their epoch. */
  get waitingBytes(): number {
    return bytesWaiting(this.counter);
  }

  /**
   * Starts the thread, and removes what a predecessor left in the machine.
   * @throws {RomulusError} ERR_DISK_MIRROR, and the monitor's own.
   */
  async #start(): Promise<Thread['client']> {
    await this.#ending;
    if (this.#isClosed) throw notFollowed();
    assert(this.#thread === null, 'the disk thread runs already');
    const { port1, port2 } = new MessageChannel();
    const server = makeWatchedServer();
    const client = new ThreadClient<DiskMethods, DiskEvent>(
      workerUrl('./disk-worker', import.meta.url),
      {
        name: 'disk',
        onEvent: (event) => {
          if (event.kind === 'base') this.#view?.wake();
          else this.#lose(client, fromErrorJson(event.error));
        },
        onDeath: (error) => {
          this.#lose(client, error);
        },
      },
    );
    const watchdog = new DiskWatchdog({
      server,
      onStall: (error) => {
        this.#lose(client, error);
      },
    });
    this.#thread = { client, watchdog };
    const { disks, socketPath, exportPath, owner, bytesPerSecondMax, guardian, serveMonitor } =
      this.#options;
    const request: DiskBegin = {
      monitor: port2,
      guardian,
      server,
      settings: {
        disks,
        socketPath,
        exportPath,
        counter: this.counter,
        ...(owner !== undefined && { owner }),
        ...(bytesPerSecondMax !== undefined && { bytesPerSecondMax }),
      },
    };
    try {
      await serveMonitor(port1);
      await client.call('begin', request, [port2]);
    } catch (error) {
      await this.#giveUp();
      throw error;
    }
    return client;
  }

  /** Starts the thread ahead of the first view. What is wrong with it that view will tell. */
  prepare(): void {
    this.#opening = this.#prepare(this.#opening).catch(() => undefined);
  }

  /**
   * A view for one image; the one before is closed. Asked for anew before it was there, both are
   * given, in order, and the first is closed by the second.
   * @throws {RomulusError} ERR_DISK_LOST when the thread is given up meanwhile, ERR_DISK_MIRROR,
   *   ERR_DISK_SOCKET, ERR_DISK_READ, and the monitor's own.
   */
  open(target: DiskTarget): Promise<SourceDisk> {
    const opening = this.#opening.then(() => this.#open(target));
    this.#opening = opening.catch(() => undefined);
    return opening;
  }

  /** Ends the mirrors and the thread. Idempotent. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#giveUp();
  }

  async #prepare(before: Promise<unknown>): Promise<void> {
    await before;
    if (this.#thread === null) await this.#start();
  }

  async #open(target: DiskTarget): Promise<SourceDisk> {
    this.#view?.close();
    const client = this.#thread?.client ?? (await this.#start());
    this.#viewsAsked += 1;
    const view = this.#viewsAsked;
    const { totalBytes, wholeBecause } = await client.call('open', { view, ...target });
    // Its answer may come from a thread that was told to end after it.
    if (this.#thread?.client !== client) throw notFollowed();
    this.#options.onOpened(target, {
      totalBytes,
      wholeBecause: wholeBecause === null ? null : fromErrorJson(wholeBecause),
    });
    this.#view = new MirroredView(client, { view, totalBytes });
    return this.#view;
  }

  /** What is heard of a thread that was given up already counts no more. */
  #lose(client: Thread['client'], error: RomulusError): void {
    if (this.#thread?.client !== client) return;
    void this.#giveUp(error);
    this.#options.onLost(error);
  }

  #giveUp(why?: RomulusError): Promise<void> {
    const thread = this.#thread;
    this.#thread = null;
    this.#view?.end(why ?? notFollowed());
    this.#view = null;
    if (thread !== null) this.#ending = this.#endThread(thread);
    return this.#ending;
  }

  async #endThread({ client, watchdog }: Thread): Promise<void> {
    const late = new Promise<void>((resolve) => {
      setTimeout(resolve, FAREWELL_MS).unref();
    });
    // A thread that cannot take leave of the machine is ended without.
    await Promise.race([client.call('detach', undefined).catch(() => undefined), late]);
    watchdog.stop();
    await client.close();
    // Where QEMU's own server listens stays: if it could not be ended, it is known by that.
    rmSync(this.#options.socketPath, { force: true });
  }
}

/** The disks, as one image is made of them. */
class MirroredView implements SourceDisk {
  readonly diskBytes: number;
  readonly #client: Thread['client'];
  readonly #view: number;
  readonly #marks = new Map<number, number>();
  #spares: readonly ArrayBuffer[] = [];
  #end: RomulusError | null = null;
  #onWake: () => void = () => undefined;

  constructor(client: Thread['client'], options: { view: number; totalBytes: number }) {
    this.#client = client;
    this.#view = options.view;
    this.diskBytes = options.totalBytes;
  }

  mark(epoch: number, diskWrites: number): void {
    this.#marks.set(epoch, diskWrites);
  }

  async take(epoch: number): Promise<readonly (DiskWrite | DiskZeros)[]> {
    const through = this.#marks.get(epoch);
    assert(through !== undefined, `epoch ${epoch} was not marked on the disk`);
    this.#marks.delete(epoch);
    return await this.#client.call('take', { view: this.#view, epoch, through });
  }

  async *readBase(): AsyncGenerator<DiskChunk> {
    let asked = this.#askBase();
    while (this.#end === null) {
      const { answer, woken } = asked;
      const { chunks, next } = await answer;
      // One handful is read while the one before it is sent.
      if (next === 'more') asked = this.#askBase();
      yield* chunks;
      if (next === 'complete') return;
      if (next === 'waiting') {
        await woken;
        asked = this.#askBase();
      }
    }
    throw this.#end;
  }

  readWaiting(): AsyncGenerator<DiskChunk> {
    return this.readBase();
  }

  giveBack(buffers: readonly ArrayBuffer[]): void {
    this.#spares = [...this.#spares, ...buffers];
  }

  /** There may be more to read. */
  wake(): void {
    this.#onWake();
  }

  #askBase(): { readonly answer: Promise<BasePieces>; readonly woken: Promise<void> } {
    // Before the question: what is told while the answer is on its way must not be missed.
    const woken = new Promise<void>((resolve) => {
      this.#onWake = resolve;
    });
    const spares = this.#spares;
    this.#spares = [];
    const answer = this.#client.call('nextBase', { view: this.#view, spares }, spares);
    // Awaited in its turn, unless nobody reads any more.
    answer.catch(() => undefined);
    return { answer, woken };
  }

  close(): void {
    if (this.#end !== null) return;
    this.end(notFollowed());
    // A thread that is gone has nobody to tell; its loss is told elsewhere.
    this.#client.call('rest', { view: this.#view }).catch(() => undefined);
  }

  /** Who still reads is told why there is no more. */
  end(why: RomulusError): void {
    this.#end ??= why;
    this.#onWake();
  }
}

function notFollowed(): RomulusError {
  return new RomulusError('ERR_DISK_LOST', 'the disks are not followed for this image any more', {
    remedy: 'Nothing needs to be done: the next image begins with the disks.',
  });
}
