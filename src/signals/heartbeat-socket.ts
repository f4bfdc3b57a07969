/**
 * One heartbeat connection: frames in and out over a plain TCP socket, either side. Small frames
 * only, a bound on what may wait to be sent, and one reason for its end, in words.
 */
import type { Socket } from 'node:net';
import { RomulusError } from '../base/errors.ts';
import { type Generation, NO_GENERATION } from '../base/units.ts';
import { type Frame, FrameDecoder } from '../codec/frame.ts';
import { PAYLOAD_BYTES_MAX } from '../codec/limits.ts';
import { decodeMessage, encodeMessage, type Message } from '../codec/messages.ts';

/** No payload on this connection is longer: heartbeats are small, a goodbye is a sentence. */
const PAYLOAD_BYTES_MAX_HERE = 16 * 1024;
/** Bytes that may wait for a peer that does not read; then it is of no use. */
const UNSENT_BYTES_MAX = 64 * 1024;

const LIMITS = Object.fromEntries(
  Object.entries(PAYLOAD_BYTES_MAX).map(([kind, bytesMax]) => [
    kind,
    Math.min(bytesMax, PAYLOAD_BYTES_MAX_HERE),
  ]),
);

export interface HeartbeatSocketEvents {
  /** A message, and the generation of who sent it. */
  readonly onMessage: (message: Message, generation: Generation) => void;
  /** Once: how it ended, completing "heartbeat connection ...", and whether we ended it. */
  readonly onClose: (how: string, byUs: boolean) => void;
}

/** Frames over one TCP connection. */
export class HeartbeatSocket {
  readonly #socket: Socket;
  readonly #events: HeartbeatSocketEvents;
  readonly #decoder = new FrameDecoder({ limits: LIMITS });
  #how: string | null = null;
  #byUs = false;
  #isBroken = false;

  constructor(socket: Socket, events: HeartbeatSocketEvents) {
    this.#socket = socket;
    this.#events = events;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => {
      this.#receive(chunk);
    });
    socket.on('error', (error: NodeJS.ErrnoException) => {
      // A write after the peer's end, which was not read yet, fails with EPIPE.
      const isReset = error.code === 'ECONNRESET' || error.code === 'EPIPE';
      this.#how ??= isReset ? 'reset' : `failed (${error.code ?? 'unknown'})`;
    });
    socket.on('close', () => {
      events.onClose(this.#how ?? 'closed', this.#byUs);
    });
  }

  /** Sends a message. A peer that lets too much wait is cut off. */
  send(message: Message, generation: Generation): void {
    if (this.#socket.destroyed || this.#socket.writableEnded) return;
    if (this.#socket.writableLength > UNSENT_BYTES_MAX) {
      this.#how ??= `stuck: ${this.#socket.writableLength} bytes wait to be sent`;
      this.#socket.destroy();
      return;
    }
    // One write, one segment: the parts of a heartbeat are far smaller than a packet.
    this.#socket.write(Buffer.concat(encodeMessage(message, { generation })));
  }

  /** Sends what was written, then closes; the peer's last words are not waited for. */
  end(how: string): void {
    this.#how ??= how;
    this.#byUs = true;
    this.#socket.destroySoon();
  }

  /** Closes at once. */
  destroy(): void {
    this.#byUs = true;
    this.#socket.destroy();
  }

  #receive(chunk: Buffer): void {
    if (this.#isBroken || this.#byUs) return;
    try {
      for (const frame of this.#decoder.push(chunk)) this.#handle(frame);
    } catch (error) {
      // Anything else is a defect of ours and must not pass for the peer's.
      if (!(error instanceof RomulusError)) throw error;
      const { code, message, remedy } = error;
      this.#isBroken = true;
      this.#how ??= `broke the protocol (${code}: ${message})`;
      this.send({ kind: 'error', code, message: message.slice(0, 1024), remedy }, NO_GENERATION);
      this.#socket.destroySoon();
    }
  }

  #handle(frame: Frame): void {
    if (this.#byUs) return;
    this.#events.onMessage(decodeMessage(frame), frame.generation);
  }
}
