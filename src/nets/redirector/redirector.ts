/**
 * Our side of the filters in a running QEMU: the outlet through which the gate lets frames of every
 * NIC go on to its netdev, and the way on which all that the guest says comes to the gate.
 *
 * It lives as long as one attachment. The far ends of its sockets are QEMU's (filters.ts); when it
 * closes, the machine's network is closed unless the filters were removed before.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { RomulusError } from '../../base/errors.ts';
import {
  FrameTap,
  type FrameTapOptions,
  type TapCounters,
  type TapEnds,
} from '../../native/frame-tap.ts';
import type { NetOutlet } from '../net.ts';
import type { OutputGate } from '../output-gate.ts';

const FLUSH_POLL_MS = 2;

export interface RedirectorOptions {
  readonly gate: OutputGate;
  readonly nicCount: number;
  /** QEMU closed a socket or broke the format: the network is closed from here on. At most once. */
  readonly onLost: (error: RomulusError) => void;
  /** Where the reading thread notes that it lives; see FrameTap. */
  readonly beat?: FrameTapOptions['beat'];
}

/** Frames of a QEMU's NICs to the gate and back. */
export class Redirector implements NetOutlet {
  readonly #tap: FrameTap;
  #onReady: () => void = () => undefined;
  #isLost = false;

  /** @throws {RomulusError} ERR_NET_TAP. */
  constructor(options: RedirectorOptions) {
    const { gate, nicCount, onLost, beat } = options;
    this.#tap = new FrameTap({
      ports: nicCount,
      onFrame: (frame, port) => gate.receive(frame, port),
      onLost: (frameCount) => gate.lost(frameCount),
      onReady: () => this.#onReady(),
      onBroken: (_port, error) => {
        if (this.#isLost) return;
        this.#isLost = true;
        onLost(error);
      },
      ...(beat !== undefined && { beat }),
    });
    gate.machineConnected();
  }

  /** For `drainFrames` in the thread that stops the machine. */
  get tapId(): number {
    return this.#tap.id;
  }

  /** What QEMU is to be handed, by NIC; until `handedOver`. */
  get farEnds(): readonly TapEnds[] {
    return this.#tap.farEnds;
  }

  /** Our ends of what QEMU writes: shut down, they free a QEMU that waits for a frozen reader. */
  get captureEnds(): readonly number[] {
    return this.#tap.captureEnds;
  }

  get counters(): TapCounters {
    return this.#tap.counters;
  }

  get ready(): boolean {
    return this.#tap.ready;
  }

  write(frame: Buffer, port: number): void {
    this.#tap.write(frame, port);
  }

  onReady(listener: () => void): void {
    this.#onReady = listener;
  }

  /** QEMU has its ends. */
  handedOver(): void {
    this.#tap.closeFarEnds();
  }

  /**
   * Waits until QEMU has read all that was written, at most so long.
   * @returns whether it has.
   */
  async flushed(timeoutMs: number): Promise<boolean> {
    const deadlineMs = performance.now() + timeoutMs;
    while (this.#tap.unreadBytes > 0) {
      if (performance.now() > deadlineMs) return false;
      await sleep(FLUSH_POLL_MS);
    }
    return true;
  }

  /** What QEMU closes from now on it closes by our wish. */
  letGo(): void {
    this.#isLost = true;
  }

  /** Closes the sockets. Idempotent. */
  close(): void {
    this.letGo();
    this.#tap.close();
  }
}
