/**
 * The main thread's end of the apply thread: hands over frames in order and says when too much
 * waits there, so that the link is read more slowly instead of memory filling up.
 */
import type { Frame } from '../codec/frame.ts';
import type { DiskSync } from '../disks/disk.ts';
import type { IncomingGuest } from '../guests/guest.ts';
import { workerUrl } from '../native/worker-url.ts';
import type { ApplyMethods } from './apply-worker.ts';
import type { WholeEpoch } from './epoch-assembler.ts';
import { ThreadClient } from './thread-rpc.ts';

/**
 * Above the first the link is paused, below the second it is read again. The distance is small: while a
 * slow disk works it off nothing is acknowledged, and all the machine's output waits.
 */
const BACKLOG_HIGH_BYTES = 256 * 1024 * 1024;
const BACKLOG_LOW_BYTES = 248 * 1024 * 1024;
/** Smaller payloads are copied: moving would detach a pool that other frames share. */
const MOVE_BYTES_MIN = 64 * 1024;

/** Frames whose payloads may be moved to another thread, and the buffers that move. */
function movable(frames: readonly Frame[]): { frames: Frame[]; transfer: ArrayBuffer[] } {
  const transfer = new Set<ArrayBuffer>();
  const moved = frames.map((frame): Frame => {
    const { payload } = frame;
    const whole = payload.buffer;
    const owns = whole instanceof ArrayBuffer && payload.byteLength * 2 > whole.byteLength;
    if (!owns || payload.byteLength < MOVE_BYTES_MIN)
      return { ...frame, payload: Uint8Array.prototype.slice.call(payload) };
    transfer.add(whole);
    return frame;
  });
  return { frames: moved, transfer: [...transfer] };
}

export class ApplyQueue {
  readonly #options: { diskSync: DiskSync; onPressure: (full: boolean) => void };
  #thread: ThreadClient<ApplyMethods>;
  #isClosed = false;
  #backlogBytes = 0;
  #full = false;
  #last: Promise<void> = Promise.resolve();
  /** Counts up when the image is replaced: what was handed over for the old one is void. */
  #image = 0;

  constructor(options: { diskSync: DiskSync; onPressure: (full: boolean) => void }) {
    this.#options = options;
    this.#thread = startThread();
  }

  get backlogBytes(): number {
    return this.#backlogBytes;
  }

  async prepare(incoming: IncomingGuest): Promise<void> {
    await this.#thread.call('prepare', {
      blocks: incoming.blocks,
      disks: incoming.disks.map(({ id, fd, bytes }) => ({ id, fd, bytes })),
      diskSync: this.#options.diskSync,
    });
  }

  async restate(): Promise<void> {
    await this.#thread.call('restate', undefined);
  }

  base(frame: Frame): Promise<void> {
    const { frames, transfer } = movable([frame]);
    return this.#hand(frame.payload.byteLength, () =>
      this.#thread.call('base', { frames }, transfer),
    );
  }

  async epoch(whole: WholeEpoch): Promise<void> {
    const { bytes } = whole;
    const { frames, transfer } = movable(whole.frames);
    await this.#hand(bytes, () =>
      this.#thread.call('epoch', { epoch: whole.epoch, frames }, transfer),
    );
  }

  /** Resolves when all that was handed over is in the image; rejects when some could not be. */
  async settled(): Promise<void> {
    await this.#last;
  }

  deviceState(): Promise<{ epoch: number; state: Uint8Array }> {
    return this.#thread.call('deviceState', undefined);
  }

  scrub(): Promise<{ epoch: number; digest: bigint }> {
    return this.#thread.call('scrub', undefined);
  }

  /** Forgets the image; the thread stays for the next one, which gets another if this one ended. */
  async release(): Promise<void> {
    this.#image += 1;
    this.#last = Promise.resolve();
    if (!this.#thread.hasEnded) await this.#thread.call('close', undefined);
    else if (!this.#isClosed) this.#thread = startThread();
  }

  /** Ends the thread. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#thread.close();
  }

  async #hand<T>(bytes: number, work: () => Promise<T>): Promise<T> {
    const image = this.#image;
    this.#note(bytes);
    const working = work();
    // Kept separately so that a failure also shows in settled(), without being unhandled here.
    // Only the last one's outcome is kept: what came before would pile up for as long as we run.
    this.#last = Promise.all([this.#last, working]).then(() => undefined);
    this.#last.catch(() => undefined);
    try {
      return await working;
    } finally {
      this.#note(-bytes);
      if (image !== this.#image) this.#last = Promise.resolve();
    }
  }

  #note(bytes: number): void {
    this.#backlogBytes += bytes;
    if (!this.#full && this.#backlogBytes > BACKLOG_HIGH_BYTES) {
      this.#full = true;
      this.#options.onPressure(true);
    } else if (this.#full && this.#backlogBytes < BACKLOG_LOW_BYTES) {
      this.#full = false;
      this.#options.onPressure(false);
    }
  }
}

function startThread(): ThreadClient<ApplyMethods> {
  return new ThreadClient(workerUrl('./apply-worker', import.meta.url), { name: 'apply' });
}
