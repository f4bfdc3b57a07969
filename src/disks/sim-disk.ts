/**
 * The simulated machine's disk, seen from the primary: a client of its disk socket, which
 * reports every write, and of its disk file for the first copy.
 *
 * Writes are numbered as they come; the machine's own count at the instant it stopped is the
 * epoch's boundary, and a write may reach us after its mark. Nothing is ever left out: when more
 * waits than the bound, or the connection breaks, the disk can no longer be followed and says so;
 * the machine is not held up, the backup needs a new first copy.
 */
import { createConnection, type Socket } from 'node:net';
import { assert } from '../base/assert.ts';
import { RomulusError, toRomulusError } from '../base/errors.ts';
import type { DiskChunk, DiskWrite, SourceDisk } from './disk.ts';
import { DiskWriteDecoder } from './disk-frames.ts';
import { RawImage } from './raw-image.ts';
import { pieceBuffers, READ_BYTES_MAX } from './readable-disk.ts';

/** Bytes of writes that may wait for their epoch's end. */
export const WRITES_BYTES_MAX: number = 256 * 1024 * 1024;
/** How long `take` waits for writes that were counted and have not come yet, milliseconds. */
export const TAKE_TIMEOUT_MS = 2000;
/** How long connecting may take, milliseconds. */
export const CONNECT_TIMEOUT_MS = 2000;
/** Size of a piece of the first copy. */
export const BASE_CHUNK_BYTES: number = READ_BYTES_MAX;
/** Buffers of pieces that wait to be filled. */
const SPARES_MAX = 32;

export interface SimDiskOptions {
  /** Path of the machine's disk socket. */
  readonly path: string;
  /** Path through which the disk's bytes can be read, such as `/proc/PID/fd/N`. */
  readonly imagePath: string;
  readonly diskBytes: number;
  /** The disk can no longer be followed; at most once. */
  readonly onLost: (error: RomulusError) => void;
  readonly writesBytesMax?: number;
  readonly takeTimeoutMs?: number;
}

interface Mark {
  readonly epoch: number;
  readonly throughCount: number;
}

/** Follows the writes of a simulated machine. Made by `connectSimDisk`. */
export class SimDisk implements SourceDisk {
  readonly diskBytes: number;
  readonly #options: SimDiskOptions;
  readonly #socket: Socket;
  readonly #writesBytesMax: number;
  #writes: DiskWrite[] = [];
  #writesBytes = 0;
  /** Count of the first write in `#writes`, less one: how many were taken. */
  #takenCount = 0;
  #received = 0;
  readonly #buffers = pieceBuffers(SPARES_MAX);
  #marks: Mark[] = [];
  #lost: RomulusError | null = null;
  #closed = false;
  readonly #waiting = new Set<() => void>();

  constructor(socket: Socket, options: SimDiskOptions) {
    this.#socket = socket;
    this.#options = options;
    this.diskBytes = options.diskBytes;
    this.#writesBytesMax = options.writesBytesMax ?? WRITES_BYTES_MAX;
    const decoder = new DiskWriteDecoder({ diskBytes: options.diskBytes });
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const write of decoder.push(chunk)) this.#receive(write);
      } catch (error) {
        this.#lose(toRomulusError(error));
      }
    });
    socket.on('error', (error) => {
      this.#lose(lostError(options.path, error));
    });
    socket.on('close', () => {
      this.#lose(lostError(options.path));
    });
  }

  /** Writes received since the machine's disk socket was connected. */
  get writesReceived(): number {
    return this.#received;
  }

  /** Bytes of the writes that wait for their epoch. */
  get pendingBytes(): number {
    return this.#writesBytes;
  }

  mark(epoch: number, diskWrites: number): void {
    assert(Number.isSafeInteger(diskWrites) && diskWrites >= 0, `bad write count: ${diskWrites}`);
    const last = this.#marks.at(-1);
    assert(last === undefined || epoch > last.epoch, `epoch ${epoch} is marked out of order`);
    const least = last?.throughCount ?? this.#takenCount;
    assert(diskWrites >= least, `the disk mark of epoch ${epoch} lies before an earlier one`);
    this.#marks.push({ epoch, throughCount: diskWrites });
  }

  async take(epoch: number): Promise<readonly DiskWrite[]> {
    const mark = this.#marks.find((candidate) => candidate.epoch === epoch);
    assert(mark !== undefined, `epoch ${epoch} was not marked on the disk`);
    await this.#waitFor(mark.throughCount, epoch);
    // Marks of epochs before this one are covered: their writes go along, in order.
    this.#marks = this.#marks.filter((candidate) => candidate.epoch > epoch);
    const taken = this.#writes.splice(0, mark.throughCount - this.#takenCount);
    this.#takenCount = mark.throughCount;
    for (const write of taken) this.#writesBytes -= write.data.byteLength;
    return taken;
  }

  async *readBase(): AsyncGenerator<DiskChunk> {
    const { imagePath: path } = this.#options;
    const image = RawImage.open({
      file: { path },
      diskBytes: this.diskBytes,
      buffers: this.#buffers,
    });
    try {
      for (let offset = 0; offset < this.diskBytes; offset += BASE_CHUNK_BYTES) {
        const byteCount = Math.min(BASE_CHUNK_BYTES, this.diskBytes - offset);
        const data = await image.read(offset, byteCount);
        yield { offset, byteCount, data, roomBytes: data?.byteOffset ?? 0 };
      }
    } finally {
      image.close();
    }
  }

  giveBack(buffers: readonly ArrayBuffer[]): void {
    this.#buffers.giveBack(buffers);
  }

  async *readWaiting(): AsyncGenerator<DiskChunk> {
    assert(this.#marks.length === 0, 'what is marked belongs to its epoch');
    for (let write = this.#writes.shift(); write !== undefined; write = this.#writes.shift()) {
      this.#takenCount += 1;
      this.#writesBytes -= write.data.byteLength;
      yield { offset: write.offset, byteCount: write.data.byteLength, data: write.data };
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.destroy();
    this.#lost ??= new RomulusError('ERR_DISK_LOST', 'the disk was let go', {
      remedy: 'Connect to the disk again before taking checkpoints.',
    });
    this.#wake();
  }

  #receive(write: DiskWrite): void {
    if (this.#lost !== null) return;
    this.#received += 1;
    this.#writes.push(write);
    this.#writesBytes += write.data.byteLength;
    if (this.#writesBytes > this.#writesBytesMax) {
      this.#lose(
        new RomulusError(
          'ERR_LIMIT_DISK_BACKLOG',
          `more than ${this.#writesBytesMax} bytes of disk writes wait for their checkpoint`,
          {
            remedy: 'Shorten the interval between checkpoints, or let the machine write less.',
            details: { writesBytesMax: this.#writesBytesMax },
          },
        ),
      );
      return;
    }
    if (this.#waiting.size > 0) this.#wake();
  }

  async #waitFor(count: number, epoch: number): Promise<void> {
    const timeoutMs = this.#options.takeTimeoutMs ?? TAKE_TIMEOUT_MS;
    const deadlineMs = performance.now() + timeoutMs;
    while (this.#received < count) {
      if (this.#lost !== null) throw this.#lost;
      const leftMs = deadlineMs - performance.now();
      if (leftMs <= 0) {
        throw new RomulusError(
          'ERR_TIMEOUT_DISK_WRITES',
          `epoch ${epoch} counts ${count} disk writes, ${this.#received} came within ${timeoutMs} ms`,
          {
            remedy: 'Check whether the machine is overloaded; the backup needs a new first copy.',
            details: { epoch, expected: count, received: this.#received },
          },
        );
      }
      await this.#nextWrite(leftMs);
    }
    if (this.#lost !== null) throw this.#lost;
  }

  async #nextWrite(leftMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(done);
        resolve();
      };
      const timer = setTimeout(done, leftMs);
      this.#waiting.add(done);
    });
  }

  #lose(error: RomulusError): void {
    if (this.#lost !== null) return;
    this.#lost = error;
    this.#writes = [];
    this.#writesBytes = 0;
    this.#socket.destroy();
    this.#wake();
    this.#options.onLost(error);
  }

  #wake(): void {
    for (const done of this.#waiting) done();
  }
}

/**
 * Connects to a simulated machine's disk socket.
 * @throws {RomulusError} ERR_DISK_SOCKET when it is not there or does not answer in time.
 */
export async function connectSimDisk(options: SimDiskOptions): Promise<SimDisk> {
  const socket = createConnection({ path: options.path });
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      fail(new Error(`no answer within ${CONNECT_TIMEOUT_MS} ms`));
    }, CONNECT_TIMEOUT_MS);
    const fail = (error: Error): void => {
      clearTimeout(timer);
      socket.destroy();
      reject(
        new RomulusError('ERR_DISK_SOCKET', `cannot connect to ${options.path}: ${error.message}`, {
          remedy: 'Check that the machine runs and that its socket may be opened by this user.',
          cause: error,
          details: { path: options.path },
        }),
      );
    };
    socket.once('error', fail);
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.off('error', fail);
      resolve();
    });
  });
  return new SimDisk(socket, options);
}

function lostError(path: string, cause?: Error): RomulusError {
  const how = cause === undefined ? 'closed' : cause.message;
  return new RomulusError('ERR_DISK_LOST', `the machine's disk socket ${path}: ${how}`, {
    remedy: 'Check whether the machine is still running; the backup needs a new first copy.',
    ...(cause === undefined ? {} : { cause }),
    details: { path },
  });
}
