/**
 * What waits to go to one peer, in order. The link takes a bounded amount at a time; the rest
 * stays here, where it is counted, instead of in a socket's buffers, where it is not.
 */
import type { Link } from '../links/link.ts';

type Frame = readonly Uint8Array[];

interface Waiting {
  readonly frame: Frame;
  readonly bytes: number;
  readonly beforeSend: (() => void) | undefined;
}

/** The only way frames reach a link. */
export class Outbox {
  readonly #link: Link;
  #waiting: Waiting[] = [];
  #head = 0;
  #bytes = 0;
  #sentBytes = 0;
  #blocked = false;
  #drained: { bytesMax: number; resolve: () => void }[] = [];

  constructor(link: Link) {
    this.#link = link;
    link.onDrain(() => {
      this.#blocked = false;
      this.#pump();
    });
    link.onClose(() => {
      this.#waiting = [];
      this.#head = 0;
      this.#bytes = 0;
      this.#settle();
    });
  }

  /** Bytes that have not left this process. */
  get queuedBytes(): number {
    return this.#bytes + this.#link.queuedBytes;
  }

  /** Bytes queued here since the beginning. */
  get sentBytes(): number {
    return this.#sentBytes;
  }

  /** Of these, the bytes that have left this process: their memory is free to be used again. */
  get leftBytes(): number {
    return this.#sentBytes - this.queuedBytes;
  }

  /** Queues a frame; `beforeSend` is called right before the link takes it. */
  send(frame: Frame, beforeSend?: () => void): void {
    if (!this.#link.isOpen) return;
    const bytes = frame.reduce((sum, part) => sum + part.byteLength, 0);
    this.#waiting.push({ frame, bytes, beforeSend });
    this.#bytes += bytes;
    this.#sentBytes += bytes;
    this.#pump();
  }

  /** Queues what belongs together; as far as the link has room, it leaves in one go. */
  together(act: () => void): void {
    this.#link.together(act);
  }

  /** Resolves when no more than `bytesMax` wait, or the link has ended. */
  drained(bytesMax: number): Promise<void> {
    if (this.queuedBytes <= bytesMax || !this.#link.isOpen) return Promise.resolve();
    return new Promise((resolve) => {
      this.#drained.push({ bytesMax, resolve });
    });
  }

  #pump(): void {
    while (!this.#blocked) {
      const next = this.#waiting[this.#head];
      if (next === undefined) break;
      this.#head += 1;
      this.#bytes -= next.bytes;
      next.beforeSend?.();
      this.#blocked = !this.#link.send(next.frame) && this.#link.isOpen;
    }
    if (this.#head === this.#waiting.length) {
      this.#waiting = [];
      this.#head = 0;
    } else if (this.#head > 1024) {
      this.#waiting = this.#waiting.slice(this.#head);
      this.#head = 0;
    }
    this.#settle();
  }

  #settle(): void {
    if (this.#drained.length === 0) return;
    const queued = this.#link.isOpen ? this.queuedBytes : 0;
    const done = this.#drained.filter(({ bytesMax }) => queued <= bytesMax);
    this.#drained = this.#drained.filter(({ bytesMax }) => queued > bytesMax);
    for (const { resolve } of done) resolve();
  }
}
