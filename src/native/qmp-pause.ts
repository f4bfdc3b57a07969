/**
 * The pause of a QEMU machine as one native conversation (native-sim/src/qmp_pause.h): QEMU is told to save
 * its device state, stops the machine for it, and is held up through the pipe that it saves to until the
 * capture is done. It owns no socket: the QMP client lends its descriptor and is handed what was read and
 * is not ours.
 *
 * Synchronous on purpose, for the capture thread. The machine never stays stopped because of us:
 * whatever goes wrong, QEMU is let go and resumes it, unless somebody else had paused it before.
 */
import { DEVICE_STATE_BYTES_MAX } from '../codec/limits.ts';
import { loadNative } from './load.ts';
import type { Memory, MemoryHandle } from './memory.ts';
import { callNative } from './native-error.ts';

interface PauseHandle {
  readonly pauseHandle: never;
}

interface PipeHandle {
  readonly pipeHandle: never;
}

interface PauseNative {
  statePipeCreate(directory: string, uid: number, gid: number): PipeHandle;
  statePipePath(pipe: PipeHandle): string;
  statePipeDescriptor(pipe: PipeHandle): number;
  statePipeClose(pipe: PipeHandle): void;
  statePipesRelease(parent: string, prefix: string): number;
  qmpPauseCreate(
    fd: number,
    pipe: PipeHandle,
    page: MemoryHandle | undefined,
    pid: number,
  ): PauseHandle;
  qmpPauseTake(
    handle: PauseHandle,
    request: object,
    whileStopped: () => void,
    meanwhile: () => void,
    times: Float64Array,
  ): number;
  qmpPauseClose(handle: PauseHandle): void;
  qmpPauseState(handle: PauseHandle): Buffer;
  qmpPauseTakeForeign(handle: PauseHandle): Buffer;
  qmpPauseRefusal(handle: PauseHandle): string;
}

/** How a pause ended; the order is native-sim/src/qmp_pause.h's. */
const OUTCOMES = [
  'done',
  'notRunning',
  'saveRefused',
  'timeout',
  'lost',
  'contRefused',
  'ranOn',
] as const;

export type PauseOutcome = (typeof OUTCOMES)[number];

/** The pipe that QEMU saves to (native-sim/src/state_pipe.h). */
export class StatePipe {
  readonly path: string;
  /** For a guardian. */
  readonly descriptor: number;
  readonly handle: PipeHandle;
  readonly #native: PauseNative;
  #isClosed = false;

  /**
   * Makes it in a directory that is there and empty, for that user.
   * @throws {RomulusError} ERR_HOST_STATE_PIPE
   */
  constructor(directory: string, user: { readonly uid: number; readonly gid: number }) {
    const native = loadNative<PauseNative>();
    const handle = callNative(() => native.statePipeCreate(directory, user.uid, user.gid));
    this.#native = native;
    this.handle = handle;
    this.path = callNative(() => native.statePipePath(handle));
    this.descriptor = callNative(() => native.statePipeDescriptor(handle));
  }

  /** Removes it, once no `QmpPause` has it. Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    callNative(() => {
      this.#native.statePipeClose(this.handle);
    });
  }
}

/**
 * Lets every QEMU go that is held up by a pipe whose engine is dead, and its guardian with it, and removes
 * what they left: directories in `parent` whose names begin with `prefix`.
 * @returns how many there were.
 */
export function releaseAbandonedPipes(parent: string, prefix: string): number {
  return callNative(() => loadNative<PauseNative>().statePipesRelease(parent, prefix));
}

export interface QmpPauseOptions {
  /** The connected QMP socket; it stays the caller's. */
  readonly descriptor: number;
  /** Where QEMU writes the device state; it stays the caller's. */
  readonly pipe: StatePipe;
  /** The page of a guardian, who must know whether the machine stands because of us. */
  readonly page?: Memory;
  /** QEMU's process, whose main thread must not be kept from its CPU meanwhile; 0 when not known. */
  readonly pid: number;
  /** Bound of each wait for QEMU. */
  readonly timeoutMs: number;
  /** How long QEMU may take to be done after something went wrong. */
  readonly rescueMs: number;
}

/** Times are milliseconds since the request. */
export interface PauseTaken {
  readonly outcome: PauseOutcome;
  /** QEMU's answer when it refused something, empty otherwise. */
  readonly refusal: string;
  /** What was read and belongs to the QMP client. */
  readonly foreign: Buffer;
  /** When it is `done`. Beyond `DEVICE_STATE_BYTES_MAX` it is cut off. */
  readonly deviceState: Uint8Array;
  /** The machine stood, and ran on, as QEMU's events say. */
  readonly stoppedMs: number;
  readonly resumedMs: number;
  /** Its disks were drained, the capture was done, the state was saved. */
  readonly heldMs: number;
  readonly capturedMs: number;
  readonly savedMs: number;
}

const NS_PER_MS = 1e6;

/** Takes pauses of one machine through one QMP connection, one at a time. */
export class QmpPause {
  readonly #native: PauseNative;
  readonly #handle: PauseHandle;
  readonly #times = new Float64Array(5);
  readonly #options: QmpPauseOptions;
  #pauses = 0;

  constructor(options: QmpPauseOptions) {
    this.#native = loadNative<PauseNative>();
    this.#handle = callNative(() =>
      this.#native.qmpPauseCreate(
        options.descriptor,
        options.pipe.handle,
        options.page?.handle,
        options.pid,
      ),
    );
    this.#options = options;
  }

  /**
   * One pause. `whileStopped` runs while the machine stands and its state is being saved; `meanwhile` when
   * it has all that it needs to run on.
   * @throws what the two throw, after the machine runs again; `foreign` then waits for `takeForeign`.
   *   {RomulusError} ERR_HOST_STATE_PIPE before anything was asked of QEMU. After the outcome `timeout`
   *   the next may be taken when QEMU has answered a later command of the client's.
   */
  take(whileStopped: () => void, meanwhile: () => void): PauseTaken {
    const request = this.#request();
    const number = callNative(() =>
      this.#native.qmpPauseTake(this.#handle, request, whileStopped, meanwhile, this.#times),
    );
    const [stopped = 0, held = 0, captured = 0, saved = 0, resumed = 0] = this.#times;
    return {
      outcome: OUTCOMES[number] ?? 'lost',
      refusal: this.#native.qmpPauseRefusal(this.#handle),
      foreign: this.takeForeign(),
      deviceState: this.#native.qmpPauseState(this.#handle),
      stoppedMs: stopped / NS_PER_MS,
      heldMs: held / NS_PER_MS,
      capturedMs: captured / NS_PER_MS,
      savedMs: saved / NS_PER_MS,
      resumedMs: resumed / NS_PER_MS,
    };
  }

  /** The lines of one pause. Their ids are of this pause alone, so a late answer is nobody else's. */
  #request(): object {
    this.#pauses += 1;
    const { pipe, timeoutMs, rescueMs } = this.#options;
    // No name in QEMU may hold a tilde, so these ids cannot be met elsewhere.
    const id = (letter: string): string => `n~${letter}${this.#pauses}`;
    const line = (execute: string, letter: string, commandArguments?: object): string =>
      `${JSON.stringify({ execute, arguments: commandArguments, id: id(letter) })}\n`;
    return {
      // With live: true QEMU would inactivate the disks of a machine that stands.
      save: line('xen-save-devices-state', 's', { filename: pipe.path, live: false }),
      saveId: `"${id('s')}"`,
      status: line('query-status', 'q'),
      statusId: `"${id('q')}"`,
      cont: line('cont', 'c'),
      contId: `"${id('c')}"`,
      stateBytesMax: DEVICE_STATE_BYTES_MAX,
      timeoutMs,
      rescueMs,
    };
  }

  /** What was read by a `take` that threw, for the QMP client. */
  takeForeign(): Buffer {
    return callNative(() => this.#native.qmpPauseTakeForeign(this.#handle));
  }

  /** Lets go of the pipe; no pause can be taken after it. Idempotent. */
  close(): void {
    callNative(() => {
      this.#native.qmpPauseClose(this.#handle);
    });
  }
}
