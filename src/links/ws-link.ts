/**
 * One WebSocket connection (RFC 6455, package `ws`) as a link. The backup dials, so that the bulk
 * travels from server to client and is not masked. One frame goes out as one binary message, in as
 * many fragments as it has large parts, none of them copied; the receiving side takes bytes as they
 * come and does not rely on that.
 */
import type { Socket } from 'node:net';
import type { WebSocket } from 'ws';
import { RomulusError } from '../base/errors.ts';
import { KIB, MIB } from '../base/units.ts';
import { FRAME_HEADER_BYTES } from '../codec/frame.ts';
import { ANY_PAYLOAD_BYTES_MAX } from '../codec/limits.ts';
import { FrameLink, type FrameLinkOptions } from './frame-link.ts';
import type { LinkEnd } from './link.ts';

/** Where a node's link is found, below its address. */
export const LINK_PATH = '/v1/link';
/** The WebSocket subprotocol that both sides must name. */
export const LINK_SUBPROTOCOL = 'romulus';
/** Longest WebSocket message: one frame, with room for senders that put several into one. */
export const MESSAGE_BYTES_MAX = FRAME_HEADER_BYTES + ANY_PAYLOAD_BYTES_MAX + MIB;
/** How long a farewell may take before the connection is cut. */
export const CLOSE_GRACE_MS = 1000;

/** Options of `ws` on both sides: no compression of its own, bounded messages. */
export const WS_OPTIONS = {
  perMessageDeflate: false,
  maxPayload: MESSAGE_BYTES_MAX,
  skipUTF8Validation: true,
} as const;

/** Smaller parts are copied together: a fragment and a vector element cost more than that. */
const JOIN_BYTES_MAX = 16 * KIB;

const SOCKET_BREAKS: ReadonlySet<string> = new Set(['ECONNRESET', 'EPIPE', 'ECONNABORTED']);

export class WsLink extends FrameLink {
  readonly #ws: WebSocket;
  readonly #socket: Socket;
  #socketError: NodeJS.ErrnoException | undefined;
  #closeTimer: NodeJS.Timeout | undefined;

  /** @param ws Open, and nothing read from it yet. */
  constructor(ws: WebSocket, socket: Socket, options: FrameLinkOptions) {
    super(`ws ${socket.remoteAddress}:${socket.remotePort}`, options);
    this.#ws = ws;
    this.#socket = socket;
    // Fragments: the header and the payload of a frame then need not be joined to be delivered.
    ws.binaryType = 'fragments';
    ws.pause();
    ws.on('message', (data, isBinary) => {
      if (!isBinary) this.failed(textMessage());
      else for (const part of data as Buffer[]) this.received(part);
    });
    ws.on('error', (error) => this.#wsFailed(error));
    ws.on('close', (code, reason) => this.#wsClosed(code, reason.toString()));
    socket.on('error', (error) => {
      this.#socketError = error;
    });
    // Before the listener of `ws`, which would hide whether a farewell had come.
    socket.prependListener('end', () => {
      if (ws.readyState === ws.OPEN) this.#broken();
    });
  }

  override together(act: () => void): void {
    // Corks nest: those of single frames within do nothing.
    this.#socket.cork();
    try {
      act();
    } finally {
      this.#socket.uncork();
    }
  }

  protected override transportSend(parts: readonly Uint8Array[], bytes: number): void {
    const pieces = joinSmall(parts);
    this.#socket.cork();
    pieces.forEach((piece, index) => {
      const isLast = index === pieces.length - 1;
      const done = isLast ? (): void => this.left(bytes) : undefined;
      this.#ws.send(piece, { binary: true, fin: isLast }, done);
    });
    this.#socket.uncork();
  }

  protected override transportPause(): void {
    this.#ws.pause();
  }

  protected override transportResume(): void {
    this.#ws.resume();
  }

  protected override transportClose(): void {
    // The farewell of the other side can only be seen while reading.
    this.#ws.resume();
    this.#ws.close(1000);
    this.#closeTimer = setTimeout(() => this.#ws.terminate(), CLOSE_GRACE_MS);
  }

  protected override transportDestroy(): void {
    this.#ws.terminate();
  }

  protected override ended(end: LinkEnd): void {
    clearTimeout(this.#closeTimer);
    super.ended(end);
  }

  #broken(): void {
    const cause = this.#socketError;
    const code = cause?.code ?? '';
    const isBreak = cause === undefined || SOCKET_BREAKS.has(code);
    const text = cause === undefined ? 'ended without a farewell' : `failed: ${cause.message}`;
    const error =
      cause === undefined
        ? null
        : new RomulusError('ERR_TRANSPORT_BROKEN', `link ${this.name} ${text}`, {
            remedy: 'Nothing: the backup dials again by itself.',
            cause,
          });
    this.ended({ kind: isBreak ? 'reset' : 'error', text: `the connection ${text}`, error });
    this.#ws.terminate();
  }

  #wsFailed(error: Error & { code?: string }): void {
    // Everything that `ws` itself finds wrong with the bytes has such a code.
    if (error.code?.startsWith('WS_ERR_') !== true) return;
    this.failed(
      new RomulusError('ERR_PROTOCOL_WEBSOCKET', `bad WebSocket bytes: ${error.message}`, {
        remedy: 'Check that the other side is a Romulus node and that no proxy meddles.',
        cause: error,
      }),
    );
  }

  #wsClosed(code: number, reason: string): void {
    if (code === 1006) this.#broken();
    const text = `closed by the other node (${code}${reason === '' ? '' : `: ${reason}`})`;
    this.ended({ kind: 'closed', text, error: null });
  }
}

function textMessage(): RomulusError {
  return new RomulusError('ERR_PROTOCOL_WEBSOCKET', 'the other side sent text, not frames', {
    remedy: 'Check that the other side is a Romulus node.',
  });
}

/** The same bytes in fewer pieces: neighbours that are small are copied together. */
function joinSmall(parts: readonly Uint8Array[]): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let run: Uint8Array[] = [];
  let runBytes = 0;
  const flush = (): void => {
    const first = run[0];
    if (first !== undefined) pieces.push(run.length === 1 ? first : Buffer.concat(run));
    run = [];
    runBytes = 0;
  };
  for (const part of parts) {
    if (runBytes + part.byteLength > JOIN_BYTES_MAX) flush();
    run.push(part);
    runBytes += part.byteLength;
  }
  flush();
  return pieces;
}
