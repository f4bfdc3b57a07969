/**
 * Holds QEMU's background copy back while more of the first copy waits to be sent than should. The
 * guest's own writes are never held back.
 */
import { toRomulusError, type RomulusError } from '../base/errors.ts';
import type { DescriptorMonitor } from './qemu-export.ts';
import { pauseCopy } from './qemu-mirror.ts';

/** Above this much unsent first copy the background copy is paused, below the second it goes on. */
export const BASE_HIGH_BYTES: number = 64 * 1024 * 1024;
export const BASE_LOW_BYTES: number = 16 * 1024 * 1024;

export interface CopyBrakeOptions {
  readonly monitor: DescriptorMonitor;
  readonly highBytes?: number | undefined;
  readonly lowBytes?: number | undefined;
  /** Disks whose background copy has not ended. */
  readonly copying: () => readonly number[];
  /** How much was received and waits. */
  readonly waitingBytes: () => number;
  /** All is as it should be, for now: `steer` again when more waits than `wakeAboveBytes`. */
  readonly onSettled: () => void;
  /** QEMU did not take the order. */
  readonly onFailure: (error: RomulusError) => void;
}

/** Steers the background copies of one machine's disks. Does nothing until `release`. */
export class CopyBrake {
  readonly #options: CopyBrakeOptions;
  readonly #highBytes: number;
  readonly #lowBytes: number;
  /** Whose background copy is held back. */
  #paused: readonly number[] = [];
  /** Until all copies were started, and while an order is on its way. */
  #isLocked = true;
  #isEnded = false;

  constructor(options: CopyBrakeOptions) {
    this.#options = options;
    this.#highBytes = options.highBytes ?? BASE_HIGH_BYTES;
    this.#lowBytes = options.lowBytes ?? BASE_LOW_BYTES;
  }

  /** Above this much the background copy is to be paused; null while there is none to pause. */
  get wakeAboveBytes(): number | null {
    const isAble = !this.#isLocked && !this.#isEnded && this.#paused.length === 0;
    return isAble && this.#options.copying().length > 0 ? this.#highBytes : null;
  }

  /** Every background copy was started: orders can be given. */
  release(): void {
    this.#isLocked = false;
    this.steer();
  }

  /** No order is given any more. */
  end(): void {
    this.#isEnded = true;
  }

  /** Pauses the copies, or lets them go on, by how much waits now. */
  steer(): void {
    if (this.#isLocked || this.#isEnded) return;
    const copying = this.#options.copying();
    const isPaused = this.#paused.length > 0;
    const waitingBytes = this.#options.waitingBytes();
    const isWanted =
      copying.length > 0 && waitingBytes > (isPaused ? this.#lowBytes : this.#highBytes);
    if (isWanted === isPaused) {
      this.#options.onSettled();
      return;
    }
    this.#isLocked = true;
    this.#order(isWanted ? copying : this.#paused, isWanted).catch((error: unknown) => {
      this.#options.onFailure(toRomulusError(error));
    });
  }

  async #order(disks: readonly number[], isWanted: boolean): Promise<void> {
    await Promise.all(disks.map((disk) => pauseCopy(this.#options.monitor, disk, isWanted)));
    this.#paused = isWanted ? disks : [];
    this.release();
  }
}
