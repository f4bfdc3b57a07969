/**
 * A link carries frames between two nodes, in order, both ways, until it ends. What a frame means is
 * none of its business. Every implementation checks what it receives with `FrameDecoder` and passes
 * test/contracts/link.ts.
 *
 * Ends of a link are evidence for the failure detector, so the reason is told apart with care: a
 * connection that breaks says more than one that is silent.
 */
import type { RomulusError } from '../base/errors.ts';
import type { Frame } from '../codec/frame.ts';
import { MIB } from '../base/units.ts';

/** How a link came to its end. */
export type LinkEndKind =
  /** Broke without a farewell: the other process or host died, or the network cut it. */
  | 'reset'
  /** Nobody listens there: the host lives, the process does not. Only from dialling. */
  | 'refused'
  /** Either side closed it on purpose. */
  | 'closed'
  /** The network or this host failed (no route, a timeout, no such name). */
  | 'error'
  /** The other side sent what the protocol does not allow. */
  | 'protocol';

export interface LinkEnd {
  readonly kind: LinkEndKind;
  /** One sentence, for logs and verdicts. */
  readonly text: string;
  /** What went wrong, when something did. */
  readonly error: RomulusError | null;
}

/** Since the link began; bytes are those of frames, without the transport's own overhead. */
export interface LinkCounters {
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly framesSent: number;
  readonly framesReceived: number;
}

/** Bounds of a link's outgoing queue. */
export interface LinkQueueBounds {
  /** From here on `send` answers false, and `onDrain` is owed. */
  readonly highBytes: number;
  /** `onDrain` is called when the queue has come down to this. */
  readonly lowBytes: number;
  /** Never exceeded: `send` throws instead. */
  readonly maxBytes: number;
}

export const DEFAULT_QUEUE_BOUNDS: LinkQueueBounds = {
  highBytes: 8 * MIB,
  lowBytes: 2 * MIB,
  maxBytes: 256 * MIB,
};

/** One connection to the other node. */
export interface Link {
  /** For logs: what kind of link, and with whom. */
  readonly name: string;
  /** False from the moment either side has begun to end it. */
  readonly isOpen: boolean;
  /** Bytes given to `send` that have not yet left this process. */
  readonly queuedBytes: number;
  readonly counters: LinkCounters;
  /**
   * Queues one frame, given as `encodeFrame` makes it. The parts are not copied: they must stay
   * unchanged until they have left. A link that has ended swallows the frame and answers false.
   * @returns true while there is room for more; false: wait for `onDrain`.
   * @throws {RomulusError} ERR_LIMIT_LINK_QUEUE when the queue would exceed its bound; the frame is
   *   not queued and the link lives on.
   */
  send(parts: readonly Uint8Array[]): boolean;
  /**
   * Frames sent within `act` leave in one go at its end, where the transport can: one wake-up of the
   * other side instead of one for each. Nothing leaves later for it than the end of `act`.
   */
  together(act: () => void): void;
  /** Stops reading. Frames that were read already (one transport message at most) still come. */
  pause(): void;
  resume(): void;
  /** The one receiver of frames. Reading begins when it is set, so that none is missed. */
  onMessage(listener: (frame: Frame) => void): void;
  /** Called when the queue has drained after `send` answered false. */
  onDrain(listener: () => void): void;
  /** Called exactly once, soon if the link has ended already, after the last frame. */
  onClose(listener: (end: LinkEnd) => void): void;
  /**
   * Ends the link after what is queued has left; with an error, tells the other side why by an
   * `error` frame first. Bounded in time. Idempotent.
   */
  close(error?: RomulusError): void;
  /** Ends the link at once; what is queued is lost. Idempotent. */
  destroy(): void;
}
