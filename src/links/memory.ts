/**
 * Two ends of a link within one process: the reference implementation of the contract, for tests
 * and simulation. Frames travel as bytes through the same decoder as anywhere else, in a later turn
 * of the event loop, and are copied as a network would copy them.
 */
import { FrameLink, type FrameLinkOptions } from './frame-link.ts';
import type { Link, LinkEnd } from './link.ts';

class MemoryLink extends FrameLink {
  #peer: MemoryLink | undefined;
  readonly #outgoing: { readonly chunk: Uint8Array; readonly bytes: number }[] = [];
  #isReading = false;
  #isScheduled = false;
  #isFinishing = false;

  join(peer: MemoryLink): void {
    this.#peer = peer;
  }

  /** Bytes that did not come from `send`, as a broken or hostile peer would write them. */
  inject(bytes: Uint8Array): void {
    this.#outgoing.push({ chunk: bytes, bytes: 0 });
    this.#schedule();
  }

  protected override transportSend(parts: readonly Uint8Array[], bytes: number): void {
    this.#outgoing.push({ chunk: Buffer.concat(parts), bytes });
    this.#schedule();
  }

  protected override transportPause(): void {
    this.#isReading = false;
  }

  protected override transportResume(): void {
    this.#isReading = true;
    if (this.#peer !== undefined) this.#peer.#schedule();
  }

  protected override transportClose(): void {
    this.#isFinishing = true;
    this.#schedule();
  }

  protected override transportDestroy(): void {
    this.#outgoing.length = 0;
    this.#end({ kind: 'reset', text: 'the connection ended without a farewell', error: null });
  }

  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      this.#deliver();
    });
  }

  #deliver(): void {
    const peer = this.#peer;
    // The peer may pause or end at any frame, so it is asked again before each.
    for (;;) {
      if (peer === undefined || (peer.isOpen && !peer.#isReading)) break;
      const item = this.#outgoing.shift();
      if (item === undefined) break;
      peer.received(item.chunk);
      this.left(item.bytes);
    }
    // A peer that does not read must not keep a closing side waiting.
    if (!this.#isFinishing) return;
    if (this.#outgoing.length > 0 && peer?.isOpen === true && peer.#isReading) return;
    this.#end({ kind: 'closed', text: 'closed by the other node', error: null });
    this.ended({ kind: 'closed', text: 'closed by this node', error: null });
  }

  /** Tells the peer, in a turn of its own, as a network would. */
  #end(end: LinkEnd): void {
    const peer = this.#peer;
    this.#peer = undefined;
    if (peer === undefined) return;
    setImmediate(() => {
      peer.#peer = undefined;
      peer.ended(end);
    });
  }
}

/** Both ends of a new link. */
export interface MemoryLinkPair {
  readonly primary: Link;
  readonly backup: Link;
  /** Makes the backup's end receive bytes that the primary never sent. */
  readonly injectIntoBackup: (bytes: Uint8Array) => void;
}

/** A new link, both ends of it. */
export function memoryLinkPair(options: FrameLinkOptions = {}): MemoryLinkPair {
  const primary = new MemoryLink('memory (primary end)', options);
  const backup = new MemoryLink('memory (backup end)', options);
  primary.join(backup);
  backup.join(primary);
  return { primary, backup, injectIntoBackup: (bytes) => primary.inject(bytes) };
}
