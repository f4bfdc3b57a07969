/**
 * The outlet of a node's gate, which outlives what is behind it: the outside line of a simulated
 * machine by default, the sockets of an attachment to a QEMU while there is one.
 */
import type { NetOutlet } from './net.ts';

/** Passes on to the outlet in use. */
export class OutletSwitch implements NetOutlet {
  readonly #usual: NetOutlet;
  #current: NetOutlet;
  #onReady: () => void = () => undefined;

  /** `usual` is in use while no other is. */
  constructor(usual: NetOutlet) {
    this.#usual = usual;
    this.#current = usual;
    usual.onReady(() => {
      if (this.#current === usual) this.#onReady();
    });
  }

  get ready(): boolean {
    return this.#current.ready;
  }

  write(frame: Buffer, port: number): void {
    this.#current.write(frame, port);
  }

  onReady(listener: () => void): void {
    this.#onReady = listener;
  }

  /** Uses this outlet from now on; null: the usual one again. */
  use(outlet: NetOutlet | null): void {
    const next = outlet ?? this.#usual;
    if (next === this.#current) return;
    this.#current = next;
    if (next !== this.#usual)
      next.onReady(() => {
        if (this.#current === next) this.#onReady();
      });
    if (next.ready) this.#onReady();
  }
}
