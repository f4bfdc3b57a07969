/**
 * The pause of a QEMU machine as one native conversation on its QMP socket: stop, device state
 * beside the capture, cont (native-sim/src/qmp_pause.h). It owns no socket and no file: the QMP
 * client lends its descriptor and is handed what was read and is not ours.
 *
 * Synchronous on purpose, for the capture thread. The machine never stays stopped because of us:
 * whatever goes wrong after `stop`, `cont` is sent, unless somebody else had paused it before.
 */
import { loadNative } from './load.ts';
import type { Memory, MemoryHandle } from './memory.ts';
import { callNative } from './native-error.ts';

interface PauseHandle {
  readonly pauseHandle: never;
}

interface PauseNative {
  qmpPauseCreate(fd: number, inPause: MemoryHandle | undefined): PauseHandle;
  qmpPauseTake(
    handle: PauseHandle,
    request: object,
    whileStopped: () => void,
    times: Float64Array,
  ): number;
  qmpPauseTakeForeign(handle: PauseHandle): Buffer;
  qmpPauseRefusal(handle: PauseHandle): string;
}

/** How a pause ended; the order is native-sim/src/qmp_pause.h's. */
const OUTCOMES = [
  'done',
  'notRunning',
  'stopRefused',
  'saveRefused',
  'timeout',
  'lost',
  'contRefused',
] as const;

export type PauseOutcome = (typeof OUTCOMES)[number];

export interface QmpPauseOptions {
  /** The connected QMP socket; it stays the caller's. */
  readonly descriptor: number;
  /** Its first word is 1 for as long as a pause lasts, for a guardian to see. */
  readonly inPause?: Memory;
  /** Where QEMU writes the device state. */
  readonly statePath: string;
  /** Bound of each wait for an answer. */
  readonly timeoutMs: number;
  /** How long `cont` may take to be answered after something went wrong. */
  readonly rescueMs: number;
}

export interface PauseTaken {
  readonly outcome: PauseOutcome;
  /** QEMU's answer when it refused something, empty otherwise. */
  readonly refusal: string;
  /** What was read and belongs to the QMP client. */
  readonly foreign: Buffer;
  /** From the request: the machine stands, the capture is done, the state is saved, it runs on. */
  readonly stoppedMs: number;
  readonly capturedMs: number;
  readonly savedMs: number;
  readonly resumedMs: number;
}

const NS_PER_MS = 1e6;

/** Takes pauses of one machine through one QMP connection, one at a time. */
export class QmpPause {
  readonly #native: PauseNative;
  readonly #handle: PauseHandle;
  readonly #times = new Float64Array(4);
  readonly #request: object;

  constructor(options: QmpPauseOptions) {
    this.#native = loadNative<PauseNative>();
    this.#handle = callNative(() =>
      this.#native.qmpPauseCreate(options.descriptor, options.inPause?.handle),
    );
    // QEMU reads a monitor byte by byte, so every letter is paid by the paused guest. No name in
    // QEMU may hold a tilde, so these ids cannot be met elsewhere.
    const line = (execute: string, id: string, commandArguments?: object): string =>
      `${JSON.stringify({ execute, arguments: commandArguments, id })}\n`;
    const ids = { stopId: 'n~1', saveId: 'n~2' };
    const contId = 'n~3';
    // With live: true QEMU would inactivate the disks of a stopped machine.
    const save = { filename: options.statePath, live: false };
    this.#request = {
      ...ids,
      contId,
      stopAndSave: line('stop', ids.stopId) + line('xen-save-devices-state', ids.saveId, save),
      cont: line('cont', contId),
      timeoutMs: options.timeoutMs,
      rescueMs: options.rescueMs,
    };
  }

  /**
   * One pause. `whileStopped` runs while the machine stands and its state is being saved.
   * @throws what `whileStopped` throws, after the machine runs again; `foreign` then waits for
   *   `takeForeign`.
   */
  take(whileStopped: () => void): PauseTaken {
    const number = callNative(() =>
      this.#native.qmpPauseTake(this.#handle, this.#request, whileStopped, this.#times),
    );
    const [stopped = 0, captured = 0, saved = 0, resumed = 0] = this.#times;
    return {
      outcome: OUTCOMES[number] ?? 'lost',
      refusal: this.#native.qmpPauseRefusal(this.#handle),
      foreign: this.takeForeign(),
      stoppedMs: stopped / NS_PER_MS,
      capturedMs: captured / NS_PER_MS,
      savedMs: saved / NS_PER_MS,
      resumedMs: resumed / NS_PER_MS,
    };
  }

  /** What was read by a `take` that threw, for the QMP client. */
  takeForeign(): Buffer {
    return callNative(() => this.#native.qmpPauseTakeForeign(this.#handle));
  }
}
