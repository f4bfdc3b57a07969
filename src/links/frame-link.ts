/**
 * What all links have in common: the decoder, the books of the outgoing queue, the listeners and the
 * single end. An implementation moves bytes: it overrides the `transport*` methods and calls
 * `received`, `left` and `ended`.
 */
import { assert } from '../base/assert.ts';
import { RomulusError, toRomulusError } from '../base/errors.ts';
import { NO_GENERATION } from '../base/units.ts';
import { FrameDecoder, type Frame } from '../codec/frame.ts';
import { TEXT_LENGTH_MAX } from '../codec/limits.ts';
import { encodeMessage } from '../codec/messages.ts';
import {
  DEFAULT_QUEUE_BOUNDS,
  type Link,
  type LinkCounters,
  type LinkEnd,
  type LinkQueueBounds,
} from './link.ts';

/** What every link can be told. */
export interface FrameLinkOptions {
  readonly queue?: Partial<LinkQueueBounds>;
}

export abstract class FrameLink implements Link {
  readonly name: string;
  readonly #decoder = new FrameDecoder();
  readonly #bounds: LinkQueueBounds;
  readonly #counters = { bytesSent: 0, bytesReceived: 0, framesSent: 0, framesReceived: 0 };
  #queuedBytes = 0;
  #isDrainOwed = false;
  #isPaused = false;
  #state: 'open' | 'closing' | 'ended' = 'open';
  /** Why we began to close, if we did: it outranks how the transport then ends. */
  #ownEnd: LinkEnd | undefined;
  #end: LinkEnd | undefined;
  #onMessage: ((frame: Frame) => void) | undefined;
  readonly #onDrain: (() => void)[] = [];
  readonly #onClose: ((end: LinkEnd) => void)[] = [];

  constructor(name: string, options: FrameLinkOptions) {
    this.name = name;
    this.#bounds = { ...DEFAULT_QUEUE_BOUNDS, ...options.queue };
  }

  get isOpen(): boolean {
    return this.#state === 'open';
  }

  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  get counters(): LinkCounters {
    return { ...this.#counters };
  }

  send(parts: readonly Uint8Array[]): boolean {
    if (this.#state !== 'open') return false;
    let bytes = 0;
    for (const part of parts) bytes += part.byteLength;
    const { highBytes, maxBytes } = this.#bounds;
    if (this.#queuedBytes + bytes > maxBytes && this.#queuedBytes > 0) {
      throw new RomulusError(
        'ERR_LIMIT_LINK_QUEUE',
        `${this.#queuedBytes} bytes wait on link ${this.name} and ${bytes} more do not fit`,
        {
          remedy: 'Wait for the link to drain; if it never does, lengthen the epochs.',
          details: { queuedBytes: this.#queuedBytes, frameBytes: bytes, maxBytes },
        },
      );
    }
    this.#queuedBytes += bytes;
    this.#counters.bytesSent += bytes;
    this.#counters.framesSent += 1;
    if (this.#queuedBytes >= highBytes) this.#isDrainOwed = true;
    this.transportSend(parts, bytes);
    return !this.#isDrainOwed;
  }

  together(act: () => void): void {
    act();
  }

  pause(): void {
    this.#isPaused = true;
    if (this.#state === 'open') this.transportPause();
  }

  resume(): void {
    this.#isPaused = false;
    if (this.#state === 'open' && this.#onMessage !== undefined) this.transportResume();
  }

  onMessage(listener: (frame: Frame) => void): void {
    this.#onMessage = listener;
    if (!this.#isPaused) this.resume();
  }

  onDrain(listener: () => void): void {
    this.#onDrain.push(listener);
  }

  onClose(listener: (end: LinkEnd) => void): void {
    const end = this.#end;
    if (end === undefined) this.#onClose.push(listener);
    else queueMicrotask(() => listener(end));
  }

  close(error?: RomulusError): void {
    if (this.#state !== 'open') return;
    this.#beginClosing(
      { kind: 'closed', text: error?.message ?? 'closed by this node', error: error ?? null },
      error,
    );
  }

  destroy(): void {
    if (this.#state === 'ended') return;
    this.#ownEnd ??= { kind: 'closed', text: 'closed by this node', error: null };
    this.#state = 'closing';
    this.transportDestroy();
    this.ended(this.#ownEnd);
  }

  /** Hands the transport one frame; it calls `left(bytes)` when the frame has left the process. */
  protected abstract transportSend(parts: readonly Uint8Array[], bytes: number): void;
  protected abstract transportPause(): void;
  protected abstract transportResume(): void;
  /** Ends the connection in good order, within a bound. */
  protected abstract transportClose(): void;
  protected abstract transportDestroy(): void;

  /** Bytes have come in. */
  protected received(chunk: Uint8Array): void {
    if (this.#state !== 'open') return;
    this.#counters.bytesReceived += chunk.byteLength;
    let frames: Frame[];
    try {
      frames = this.#decoder.push(chunk);
    } catch (error) {
      this.failed(toRomulusError(error));
      return;
    }
    // Outside the try: what a listener throws is a defect, and must not look like the peer's.
    for (const frame of frames) {
      // A listener may have closed the link at an earlier frame.
      if (this.#state !== 'open') return;
      this.#counters.framesReceived += 1;
      assert(this.#onMessage !== undefined, 'nothing is read before there is a listener');
      this.#onMessage(frame);
    }
  }

  /** The other side broke the protocol: it is told, and the link ends. */
  protected failed(error: RomulusError): void {
    if (this.#state !== 'open') return;
    this.#beginClosing({ kind: 'protocol', text: error.message, error }, error);
  }

  /** `bytes` of what was sent are no longer ours to keep. */
  protected left(bytes: number): void {
    this.#queuedBytes -= bytes;
    if (!this.#isDrainOwed || this.#queuedBytes > this.#bounds.lowBytes) return;
    this.#isDrainOwed = false;
    if (this.#state === 'open') for (const listener of this.#onDrain) listener();
  }

  /** The connection is gone, for this reason unless we had one of our own. */
  protected ended(end: LinkEnd): void {
    if (this.#state === 'ended') return;
    this.#state = 'ended';
    this.#queuedBytes = 0;
    this.#isDrainOwed = false;
    const reason = this.#ownEnd ?? end;
    this.#end = reason;
    for (const listener of this.#onClose) listener(reason);
    this.#onClose.length = 0;
  }

  #beginClosing(end: LinkEnd, error: RomulusError | undefined): void {
    this.#ownEnd = end;
    if (error !== undefined) {
      const parts = encodeMessage(
        {
          kind: 'error',
          code: error.code,
          message: error.message.slice(0, TEXT_LENGTH_MAX),
          remedy: error.remedy.slice(0, TEXT_LENGTH_MAX),
        },
        { generation: NO_GENERATION },
      );
      this.send(parts);
    }
    this.#state = 'closing';
    this.transportClose();
  }
}
