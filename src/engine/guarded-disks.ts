/**
 * The disk thread's word to the guardian: which connections QEMU waits on, and where the native thread
 * that serves them tells that it lives. Unlike the watchdog of this process, the guardian is there when
 * the whole process is frozen.
 */
import type { IntakeBeats } from '../native/disk-intake.ts';
import { BEAT_WORDS, type GuardianAddress, GuardianLink } from '../native/guardian-link.ts';

/** One thread's disks; ends with the thread. */
export class GuardedDisks {
  readonly #link: GuardianLink;
  readonly #release = new Map<number, () => void>();

  constructor(guardian: GuardianAddress) {
    this.#link = new GuardianLink(guardian);
  }

  /** Where to beat. */
  get page(): NonNullable<IntakeBeats['page']> {
    return { memory: this.#link.page, word: BEAT_WORDS.disk };
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
