/**
 * What any thread of an engine has to tell the machine's guardian (native-sim/src/guardian_main.cc):
 * that it lives, which sockets QEMU must not wait on when it does not, and whether the machine may be
 * heard should the whole engine die. All of it is in a page of memory shared with the guardian, or said
 * in one piece on the socket to it, so it takes no thread but the caller's.
 *
 * Who beats: a native thread that serves a socket on which QEMU waits, every `BEAT_MS`. One that is silent
 * longer than `STALL_MS_MAX` has its sockets shut down, and QEMU goes on without it.
 */
import { writeSync } from 'node:fs';
import { threadId } from 'node:worker_threads';
import { sendDescriptor } from './descriptors.ts';
import { Memory } from './memory.ts';

/** How long a thread that is watched may be silent, milliseconds (native-sim/src/guardian_watch.h). */
export const STALL_MS_MAX = 1000;
/** Time between two beats, milliseconds. */
export const BEAT_MS = 50;
/** Bytes of the page; layout in native-sim/src/guardian_page.h. */
export const GUARDIAN_PAGE_BYTES = 4096;
/** Filters named romulus-nf0 and so on that the guardian can take out, at most. */
export const GUARDIAN_FILTERS_MAX = 64;

/** The word of the page, in units of eight bytes, into which each thread beats. */
export const BEAT_WORDS = { net: 8, disk: 9 } as const;
export type BeatWord = keyof typeof BEAT_WORDS;

const RUNS_ALONE_OFFSET = 4;
const FILTERS_OFFSET = 8;

/** Descriptors of a guardian, good in every thread of the process until it is dismissed. */
export interface GuardianAddress {
  readonly socket: number;
  readonly page: number;
}

/** One thread's link to the guardian. To be closed before the guardian is dismissed. */
export class GuardianLink {
  /** The shared page, for native threads that beat by themselves. */
  readonly page: Memory;
  readonly #socket: number;
  #nextId = 1;
  #isClosed = false;

  /** @throws {RomulusError} ERR_HOST_MEMORY_MAP. */
  constructor(address: GuardianAddress) {
    this.page = Memory.map({ fd: address.page, bytes: GUARDIAN_PAGE_BYTES, writable: true });
    this.#socket = address.socket;
  }

  /**
   * From now on this socket is shut down when the thread with that word is silent for too long, or
   * the engine dies. The guardian keeps a copy of the descriptor: call what is returned *before* the
   * socket is closed, or the other end does not notice. Idempotent.
   * @throws {RomulusError} ERR_HOST_SEND_DESCRIPTOR when the guardian does not listen.
   */
  watch(descriptor: number, word: BeatWord): () => void {
    const id = threadId * 65_536 + this.#nextId;
    this.#nextId = (this.#nextId + 1) % 65_536;
    sendDescriptor(this.#socket, guardianWord('w', id, BEAT_WORDS[word]), descriptor);
    let isWatched = true;
    return () => {
      if (!isWatched || this.#isClosed) return;
      isWatched = false;
      try {
        writeSync(this.#socket, guardianWord('u', id));
      } catch {
        // The guardian is gone, and its copy with it.
      }
    };
  }

  /** Whether the register says that this machine may run, and be heard, without a partner. */
  setRunsAlone(isAlone: boolean): void {
    this.#setNumber(RUNS_ALONE_OFFSET, isAlone ? 1 : 0);
  }

  /** How many filters, named romulus-nf0 and so on, hold the machine's output. */
  setFilterCount(count: number): void {
    if (!Number.isInteger(count) || count < 0 || count > GUARDIAN_FILTERS_MAX)
      throw new RangeError(`no count of filters: ${count}`);
    this.#setNumber(FILTERS_OFFSET, count);
  }

  /** Idempotent; what was said stays said. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.page.close();
  }

  #setNumber(offset: number, value: number): void {
    if (this.#isClosed) return;
    const word = Buffer.alloc(4);
    word.writeUInt32LE(value);
    this.page.write(offset, word);
  }
}

/** A word of the engine's to its guardian. */
export function guardianWord(what: 'w' | 'u' | 'q', id = 0, beatWord = 0): Buffer {
  const word = Buffer.alloc(12);
  word.write(what, 'latin1');
  word.writeUInt32LE(id, 4);
  word.writeUInt32LE(beatWord, 8);
  return word;
}
