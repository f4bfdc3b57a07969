/**
 * The disk thread's word to the guardian: that it lives, and which connections QEMU waits on. Unlike
 * the watchdog of this process, the guardian is there when the whole process is frozen.
 */
import { BEAT_MS, type GuardianAddress, GuardianLink } from '../native/guardian-link.ts';

/** One thread's disks; ends with the thread. */
export class GuardedDisks {
  readonly #link: GuardianLink;
  readonly #release = new Map<number, () => void>();

  /** Beats from now on. */
  constructor(guardian: GuardianAddress) {
    this.#link = new GuardianLink(guardian);
    this.#link.beat('disk');
    setInterval(() => this.#link.beat('disk'), BEAT_MS).unref();
  }

  /**
   * The connection of a disk is this one now, or none.
   * @throws {RomulusError} ERR_HOST_SEND_DESCRIPTOR when the guardian does not listen.
   */
  connection(disk: number, descriptor: number | null): void {
    this.#release.get(disk)?.();
    this.#release.delete(disk);
    if (descriptor !== null) this.#release.set(disk, this.#link.watch(descriptor, 'disk'));
  }
}
