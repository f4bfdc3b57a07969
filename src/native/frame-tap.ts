/**
 * The network of a machine whose frames are held (native-sim/src/frame_tap.h): what its NICs say is
 * read by a native thread at all times, whatever this one does, and comes here in batches; what is
 * let out is written back at once or not at all.
 *
 * A tap makes pairs of sockets and keeps one end of each; the far ends are for QEMU. It belongs to
 * the thread that made it; only `drainFrames` is for another one, by the tap's number.
 */
import { type ErrorCode, RomulusError } from '../base/errors.ts';
import { loadNative } from './load.ts';
import type { Memory, MemoryHandle } from './memory.ts';
import { callNative } from './native-error.ts';

/** Captured and not yet taken by this thread, at most; what comes above is dropped and counted. */
export const TAP_BYTES_MAX: number = 64 * 1024 * 1024;
export const TAP_FRAMES_MAX = 65_536;
/** NICs that one tap can serve. */
export const TAP_PORTS_MAX = 32;

const HEADER_BYTES = 4;

interface TapHandle {
  readonly tapHandle: never;
}

interface NativeBatch {
  readonly chunks: readonly { readonly bytes: Buffer; readonly notes: Uint32Array }[];
  readonly lostAfter: number;
  readonly broken: readonly {
    readonly port: number;
    readonly code: string;
    readonly text: string;
  }[];
  readonly ready: boolean;
}

interface TapNative {
  frameTapCreate(
    options: {
      ports: number;
      bytesMax: number;
      framesMax: number;
      beat: MemoryHandle | undefined;
      beatIndex: number;
    },
    onWake: () => void,
  ): TapHandle;
  frameTapDescribe(handle: TapHandle): { id: number; farEnds: number[]; captureEnds: number[] };
  frameTapCloseFarEnds(handle: TapHandle): void;
  frameTapTake(handle: TapHandle): NativeBatch;
  frameTapWrite(handle: TapHandle, port: number, frame: Uint8Array): boolean;
  frameTapUnreadBytes(handle: TapHandle): number;
  frameTapCounters(handle: TapHandle): TapCounters;
  frameTapClose(handle: TapHandle): void;
  frameTapDrain(id: number): number;
}

/** What a tap has counted. */
export interface TapCounters {
  /** Frames the machine said, dropped ones included. */
  readonly received: number;
  /** Frames dropped because too many waited for this thread. */
  readonly dropped: number;
  readonly waitingBytes: number;
  readonly waitingFrames: number;
}

/** The ends of one NIC's sockets that are QEMU's: descriptors of this process. */
export interface TapEnds {
  /** QEMU writes what the NIC says into it. */
  readonly capture: number;
  /** QEMU reads from it what may leave. */
  readonly inject: number;
}

export interface FrameTapOptions {
  /** How many NICs there are, 1 to 32. */
  readonly ports: number;
  /** A frame, length in front, of that NIC; in order. It may be kept. */
  readonly onFrame: (frame: Buffer, port: number) => void;
  /** So many frames were dropped between the frame before and the next one. */
  readonly onLost: (frameCount: number) => void;
  /** The tap is ready again. */
  readonly onReady: () => void;
  /** A NIC's sockets are of no use any more: QEMU closed them, or broke the format. */
  readonly onBroken: (port: number, error: RomulusError) => void;
  /** Where the native thread notes, as a 64-bit word of monotonic milliseconds, that it lives. */
  readonly beat?: { readonly memory: Memory; readonly index: number };
  readonly bytesMax?: number;
  readonly framesMax?: number;
}

/** Sockets to the NICs of one machine, read at all times. */
export class FrameTap {
  /** For `drainFrames`, in any thread of this process. */
  readonly id: number;
  /** QEMU's ends, by NIC; valid until `closeFarEnds`. */
  readonly farEnds: readonly TapEnds[];
  /** Our ends of what QEMU writes: shut down, they free a QEMU that waits for a frozen reader. */
  readonly captureEnds: readonly number[];
  readonly #native = loadNative<TapNative>();
  readonly #handle: TapHandle;
  readonly #options: FrameTapOptions;
  #ready = true;
  #isClosed = false;

  /** @throws {RomulusError} ERR_NET_TAP without descriptors, ERR_USAGE_NUMBER. */
  constructor(options: FrameTapOptions) {
    this.#options = options;
    const { beat } = options;
    this.#handle = callNative(() =>
      this.#native.frameTapCreate(
        {
          ports: options.ports,
          bytesMax: options.bytesMax ?? TAP_BYTES_MAX,
          framesMax: options.framesMax ?? TAP_FRAMES_MAX,
          beat: beat?.memory.handle,
          beatIndex: beat?.index ?? 0,
        },
        () => this.#take(),
      ),
    );
    const { id, farEnds, captureEnds } = this.#native.frameTapDescribe(this.#handle);
    this.id = id;
    this.captureEnds = captureEnds;
    this.farEnds = captureEnds.map((_, port) => ({
      capture: farEnds[2 * port] ?? -1,
      inject: farEnds[2 * port + 1] ?? -1,
    }));
  }

  /** Whether a frame written now goes to the kernel at once and whole. */
  get ready(): boolean {
    return this.#ready && !this.#isClosed;
  }

  get counters(): TapCounters {
    return callNative(() => this.#native.frameTapCounters(this.#handle));
  }

  /** Bytes written that QEMU has not read, as the kernel accounts for them; 0 when there are none. */
  get unreadBytes(): number {
    return callNative(() => this.#native.frameTapUnreadBytes(this.#handle));
  }

  /** QEMU has its ends: without ours we see when it closes them. */
  closeFarEnds(): void {
    callNative(() => this.#native.frameTapCloseFarEnds(this.#handle));
  }

  /** Hands one frame, length in front, to the NIC's outside. Only while `ready`. */
  write(frame: Uint8Array, port: number): void {
    this.#ready = callNative(() => this.#native.frameTapWrite(this.#handle, port, frame));
  }

  /** Closes all sockets; nobody is told anything any more. Idempotent. */
  close(): void {
    this.#isClosed = true;
    callNative(() => this.#native.frameTapClose(this.#handle));
  }

  #take(): void {
    if (this.#isClosed) return;
    const { onFrame, onLost, onReady, onBroken } = this.#options;
    const { chunks, lostAfter, broken, ready } = this.#native.frameTapTake(this.#handle);
    const wasReady = this.#ready;
    // Before any frame is told of: whoever hears of one may write, and change it again.
    this.#ready = ready;
    if (ready && !wasReady) onReady();
    for (const { bytes, notes } of chunks) {
      let at = 0;
      for (let index = 0; index < notes.length; index += 2) {
        const lostBefore = notes[index + 1] ?? 0;
        if (lostBefore > 0) onLost(lostBefore);
        const end = at + HEADER_BYTES + bytes.readUInt32BE(at);
        onFrame(bytes.subarray(at, end), notes[index] ?? 0);
        at = end;
      }
    }
    if (lostAfter > 0) onLost(lostAfter);
    for (const { port, code, text } of broken) onBroken(port, brokenError(port, code, text));
  }
}

/**
 * Reads everything that a tap's machine has said until now and gives the number of frames since the
 * tap was made, dropped ones included. With the machine stopped this is its epoch's boundary. For any
 * thread; it takes microseconds.
 * @throws {RomulusError} ERR_NET_TAP_LOST when the tap is closed.
 */
export function drainFrames(id: number): number {
  return callNative(() => loadNative<TapNative>().frameTapDrain(id));
}

function brokenError(port: number, code: string, text: string): RomulusError {
  return new RomulusError(
    code as ErrorCode,
    `the frames of NIC ${port} cannot be followed: ${text}`,
    {
      remedy:
        'Nothing needs to be done: its network stays closed until the frames are followed anew.',
      details: { port },
    },
  );
}
