/**
 * The disk writes of a QEMU machine, received by a native thread (native-sim/src/disk_intake.h): it
 * serves the connections of QEMU's mirrors once they are negotiated, whatever this thread does, and
 * keeps the writes in one order of receipt until they are taken here.
 *
 * Nothing is ever left out: when more waits than the bound, the writes can no longer be followed; all
 * connections are shut down, and it is told once for each.
 *
 * An intake belongs to the thread that made it. The count of writes received lives in memory that
 * other threads can read: who stops the machine reads it while the machine stands, and that is the
 * epoch's mark. So does what waits, for the status.
 */
import { assert } from '../base/assert.ts';
import { type ErrorCode, RomulusError } from '../base/errors.ts';
import type { SpareBuffers } from '../base/spare-buffers.ts';
import { loadNative } from './load.ts';
import type { Memory, MemoryHandle } from './memory.ts';
import { callNative } from './native-error.ts';

/** Bytes of writes that may wait to be taken, their bookkeeping included. */
export const WAITING_BYTES_MAX: number = 256 * 1024 * 1024;
/** Longest piece that leaves here (native-sim/src/write_queue.h); longer writes leave in several. */
export const PIECE_BYTES_MAX: number = 1024 * 1024;
/** Disk, offset, bytes, which buffer, where in it, bytes before it that are nobody's. */
const NUMBERS_OF_PIECE = 6;

const RECEIVED_AT = 0;
const WAITING_AT = 1;

/** Memory for the counts of an intake; counting goes on where one before it ended. */
export function makeCounter(): SharedArrayBuffer {
  return new SharedArrayBuffer(2 * BigInt64Array.BYTES_PER_ELEMENT);
}

/** Reads the count of writes received; usable on any thread. */
export function writesReceived(counter: SharedArrayBuffer): number {
  return Number(Atomics.load(new BigInt64Array(counter), RECEIVED_AT));
}

/** Reads how many bytes of writes wait; usable on any thread. */
export function bytesWaiting(counter: SharedArrayBuffer): number {
  return Number(Atomics.load(new BigInt64Array(counter), WAITING_AT));
}

interface IntakeHandle {
  readonly intakeHandle: never;
}

interface Handout {
  readonly notes: Float64Array;
  readonly buffers: readonly ArrayBuffer[];
}

interface IntakeNative {
  diskIntakeCreate(
    options: {
      disksBytes: readonly number[];
      waitingBytesMax: number;
      blockBytes: number;
      counts: BigInt64Array;
      beat: BigInt64Array | undefined;
      page: MemoryHandle | undefined;
      pageWord: number;
    },
    onWake: () => void,
  ): IntakeHandle;
  diskIntakeAdopt(
    handle: IntakeHandle,
    disk: number,
    descriptor: number,
    words: Uint8Array,
    early: Uint8Array,
  ): void;
  diskIntakeWakeAbove(handle: IntakeHandle, bytes: number): void;
  diskIntakeTakeGone(
    handle: IntakeHandle,
  ): readonly { readonly disk: number; readonly code: string; readonly text: string }[];
  diskIntakeTakeSome(
    handle: IntakeHandle,
    dataBytes: number,
    spares: readonly ArrayBuffer[],
    roomBytes: number,
  ): Handout;
  diskIntakeTakeThrough(
    handle: IntakeHandle,
    count: number,
    spares: readonly ArrayBuffer[],
    roomBytes: number,
  ): Handout;
  diskIntakeRest(handle: IntakeHandle): void;
  diskIntakeResume(handle: IntakeHandle): Buffer[];
  diskIntakeClose(handle: IntakeHandle): void;
}

/** Where the intake's thread tells that it lives: milliseconds of the monotonic clock. */
export interface IntakeBeats {
  /** One signed 64-bit number; 0 while there is no thread. */
  readonly shared?: SharedArrayBuffer;
  /** A 64-bit word of memory that another process reads. */
  readonly page?: { readonly memory: Memory; readonly word: number };
}

export interface DiskIntakeOptions {
  /** The disks' sizes; their order numbers them. */
  readonly disksBytes: readonly number[];
  /** The grain in which writes are noted while it rests. */
  readonly blockBytes: number;
  /** Left free in front of the data of pieces that have a buffer of their own. */
  readonly roomBytes: number;
  /** Those buffers: of `roomBytes` and `PIECE_BYTES_MAX` together. */
  readonly buffers: SpareBuffers;
  /** See `writesReceived`; from `makeCounter`. */
  readonly counter?: SharedArrayBuffer;
  readonly beats?: IntakeBeats;
  readonly waitingBytesMax?: number;
  /** After `wakeAbove`: more than that waits. Also when it is not so any more, or never was. */
  readonly onWaiting: () => void;
  /** The connection of a disk has ended, with why. */
  readonly onGone: (disk: number, error: RomulusError) => void;
}

/** A connection as its negotiation left it. */
export interface OpenedConnection {
  /** Its socket's: the intake's own from now on. */
  readonly descriptor: number;
  /** What is still to be said to the client. */
  readonly words: Uint8Array;
  /** What it sent already, behind its negotiation. */
  readonly early: Uint8Array;
}

/** A write, or a part of one. */
export interface WrittenPiece {
  readonly disk: number;
  readonly offset: number;
  readonly byteCount: number;
  /** Null when all of it is zeros. */
  readonly data: Buffer | null;
  /** Bytes before the data that are nobody's; above 0 when it is alone in its buffer. */
  readonly roomBytes: number;
}

/** Receives the writes of one machine's disks. */
export class DiskIntake {
  readonly #native = loadNative<IntakeNative>();
  readonly #handle: IntakeHandle;
  readonly #options: DiskIntakeOptions;
  readonly #counter: SharedArrayBuffer;
  readonly #waitingBytesMax: number;
  #isClosed = false;

  /** @throws {RomulusError} ERR_HOST_DESCRIPTOR, ERR_USAGE_NUMBER. */
  constructor(options: DiskIntakeOptions) {
    assert(
      options.buffers.bytes === options.roomBytes + PIECE_BYTES_MAX,
      'buffers that a piece and its room fill',
    );
    this.#options = options;
    this.#counter = options.counter ?? makeCounter();
    this.#waitingBytesMax = options.waitingBytesMax ?? WAITING_BYTES_MAX;
    const { disksBytes, blockBytes, beats = {} } = options;
    this.#handle = callNative(() =>
      this.#native.diskIntakeCreate(
        {
          disksBytes,
          blockBytes,
          waitingBytesMax: this.#waitingBytesMax,
          counts: new BigInt64Array(this.#counter),
          beat: beats.shared === undefined ? undefined : new BigInt64Array(beats.shared),
          page: beats.page?.memory.handle,
          pageWord: beats.page?.word ?? 0,
        },
        () => this.#hear(),
      ),
    );
  }

  /** Writes counted so far, those of earlier intakes with the same counter included. */
  get received(): number {
    return writesReceived(this.#counter);
  }

  /** Bytes that wait. */
  get waitingBytes(): number {
    return bytesWaiting(this.#counter);
  }

  /** Serves the client of a disk from now on. The descriptor is taken over, whatever comes of it. */
  adopt(disk: number, { descriptor, words, early }: OpenedConnection): void {
    callNative(() => {
      this.#native.diskIntakeAdopt(this.#handle, disk, descriptor, words, early);
    });
  }

  /** Calls `onWaiting` once, as soon as more than this waits. The last call counts. */
  wakeAbove(bytes: number): void {
    callNative(() => {
      this.#native.diskIntakeWakeAbove(this.#handle, bytes);
    });
  }

  /** The oldest writes, whole, until they have so many bytes; zeros are found in them. */
  takeSome(dataBytes: number): WrittenPiece[] {
    return this.#handedOut((spares, roomBytes) =>
      this.#native.diskIntakeTakeSome(this.#handle, dataBytes, spares, roomBytes),
    );
  }

  /**
   * All writes with a count up to this that were not taken before.
   * @throws {RomulusError} ERR_USAGE_NUMBER for a count of what never came, or is gone.
   */
  takeThrough(count: number): WrittenPiece[] {
    return this.#handedOut((spares, roomBytes) =>
      this.#native.diskIntakeTakeThrough(this.#handle, count, spares, roomBytes),
    );
  }

  /** Keeps no data from now on: only which blocks are written, those of what waits included. */
  rest(): void {
    callNative(() => {
      this.#native.diskIntakeRest(this.#handle);
    });
  }

  /**
   * Keeps data again. Gives the blocks written since `rest`, one bit for each, lowest first, by disk:
   * every write received until now is in them, and every later one will wait.
   */
  resume(): Buffer[] {
    return callNative(() => this.#native.diskIntakeResume(this.#handle));
  }

  /** Ends all connections; what waits is gone, and nobody is told anything any more. Idempotent. */
  close(): void {
    this.#isClosed = true;
    callNative(() => {
      this.#native.diskIntakeClose(this.#handle);
    });
  }

  #handedOut(take: (spares: readonly ArrayBuffer[], roomBytes: number) => Handout): WrittenPiece[] {
    const { roomBytes, buffers: store } = this.#options;
    const { notes, buffers } = callNative(() => take(store.waiting, roomBytes));
    store.taken(buffers);
    const pieces: WrittenPiece[] = [];
    for (let at = 0; at < notes.length; at += NUMBERS_OF_PIECE) {
      const number = (which: number): number => notes[at + which] ?? 0;
      const byteCount = number(2);
      const buffer = buffers[number(3)];
      pieces.push({
        disk: number(0),
        offset: number(1),
        byteCount,
        data: buffer === undefined ? null : Buffer.from(buffer, number(4), byteCount),
        roomBytes: number(5),
      });
    }
    return pieces;
  }

  #hear(): void {
    if (this.#isClosed) return;
    const { onGone, onWaiting } = this.#options;
    for (const { disk, code, text } of this.#native.diskIntakeTakeGone(this.#handle))
      onGone(disk, this.#goneError(code as ErrorCode, text));
    if (!this.#isClosed) onWaiting();
  }

  #goneError(code: ErrorCode, text: string): RomulusError {
    switch (code) {
      case 'ERR_LIMIT_DISK_BACKLOG':
        return new RomulusError(
          code,
          `more than ${this.#waitingBytesMax} bytes of disk writes wait to be sent`,
          {
            remedy: 'Shorten the interval between checkpoints, or let the machine write less.',
            details: { waitingBytesMax: this.#waitingBytesMax },
          },
        );
      case 'ERR_PROTOCOL_NBD':
        return new RomulusError(code, `an NBD client sent ${text}`, {
          remedy: 'Only the QEMU of the protected machine may connect to this socket.',
        });
      default:
        return new RomulusError(code, `QEMU's connection for the disk is gone: ${text}`, {
          remedy: 'Check whether QEMU still runs; the backup needs a new first copy of the disk.',
        });
    }
  }
}
