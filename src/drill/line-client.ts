/**
 * One cable from the outside world to a node's `--net-listen` line. It dials for as long as it is
 * wanted: a node that is dead now may be the one that answers in a second.
 */
import { connect, type Socket } from 'node:net';
import { FrameSplitter, frameForLine } from './frame-splitter.ts';

/** Pause between two attempts to reach a node. */
export const REDIAL_MS = 20;
/** Bytes a node may leave unread before we cut the cable; it is then stuck or frozen. */
export const LINE_BACKLOG_BYTES_MAX = 16 * 1024 * 1024;

export interface LineClientOptions {
  readonly host: string;
  readonly port: number;
  /** The payload is only valid during the call. */
  readonly onFrame: (payload: Buffer, arrivalNs: bigint) => void;
  /** Called after the last frame of every chunk, to answer many frames at once. */
  readonly onChunkEnd: () => void;
  readonly onUp: () => void;
  readonly onDown: (why: string) => void;
}

/** A redialling connection to one node's outside line. */
export class LineClient {
  readonly #options: LineClientOptions;
  #socket: Socket | null = null;
  #redial: NodeJS.Timeout | null = null;
  #up = false;
  #closed = false;

  constructor(options: LineClientOptions) {
    this.#options = options;
    this.#dial();
  }

  get up(): boolean {
    return this.#up;
  }

  /** Sends one payload; false when there is no connection to send it on. */
  send(payload: Uint8Array): boolean {
    const socket = this.#socket;
    if (socket === null || !this.#up) return false;
    if (socket.writableLength > LINE_BACKLOG_BYTES_MAX) {
      socket.destroy(new Error(`the node left ${socket.writableLength} bytes unread`));
      return false;
    }
    socket.write(frameForLine(payload));
    return true;
  }

  /** Hangs up for good. Idempotent. */
  close(): void {
    this.#closed = true;
    if (this.#redial !== null) clearTimeout(this.#redial);
    this.#socket?.destroy();
  }

  #dial(): void {
    this.#redial = null;
    const socket = connect({ host: this.#options.host, port: this.#options.port, noDelay: true });
    const splitter = new FrameSplitter();
    let why = 'closed by the node';
    this.#socket = socket;
    socket.on('connect', () => {
      this.#up = true;
      this.#options.onUp();
    });
    socket.on('data', (chunk: Buffer) => {
      const arrivalNs = process.hrtime.bigint();
      try {
        for (const payload of splitter.push(chunk)) this.#options.onFrame(payload, arrivalNs);
        this.#options.onChunkEnd();
      } catch (error) {
        socket.destroy(error instanceof Error ? error : new Error(String(error)));
      }
    });
    socket.on('error', (error) => {
      why = error.message;
    });
    socket.on('close', () => {
      const wasUp = this.#up;
      this.#up = false;
      this.#socket = null;
      if (wasUp) this.#options.onDown(why);
      if (!this.#closed) this.#redial = setTimeout(() => this.#dial(), REDIAL_MS);
    });
  }
}
