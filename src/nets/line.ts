/**
 * The outside line of a node: a TCP port to which whoever wants to hear the machine connects.
 * Any number of listeners, at all times, whether the machine runs here or not; a node whose
 * output is closed accepts and stays silent. Released frames go to all of them, frames from any
 * of them go to the machine.
 *
 * A frame is written only when no listener has bytes waiting inside this process, so that the
 * runtime never sends later what was allowed only at the time of writing. (The kernel's own send
 * buffer is beyond our reach, like the ring of a NIC.) The price is that one listener that does
 * not read holds up the others; it is given a short, bounded time and then dropped.
 *
 * Nothing is authenticated here: the line stands for a cable.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { type RomulusError, toRomulusError } from '../base/errors.ts';
import { BoundaryDecoder } from './boundary-frames.ts';
import { listenOn } from './listen.ts';
import type { NetOutlet } from './net.ts';

/** Connections at most; further ones are closed at once. */
export const LISTENERS_MAX = 64;
/** How long a listener may keep bytes waiting before it is dropped, milliseconds. */
export const LISTENER_STALL_MS = 100;

export interface LineOptions {
  readonly host: string;
  /** 0 lets the kernel choose; `port` of the line tells which. */
  readonly port: number;
  /** A frame from outside, length in front. Called only with whole, bounded frames. */
  readonly onFrame: (frame: Buffer) => void;
  /** A listener was dropped for the given reason. */
  readonly onDropped?: (why: RomulusError | string) => void;
  readonly stallMs?: number;
}

/** What a line has counted. */
export interface LineCounters {
  readonly listeners: number;
  readonly framesWritten: number;
  readonly framesReceived: number;
  readonly listenersDropped: number;
}

/** The outside line. Made by `listenLine`. */
export class Line implements NetOutlet {
  readonly #server: Server;
  readonly #options: LineOptions;
  readonly #stallMs: number;
  readonly #listeners = new Set<Socket>();
  /** Listeners with bytes waiting in this process, and the timers that end their patience. */
  readonly #stalled = new Map<Socket, NodeJS.Timeout>();
  #onReady: () => void = () => {};
  #framesWritten = 0;
  #framesReceived = 0;
  #listenersDropped = 0;

  constructor(server: Server, options: LineOptions) {
    this.#server = server;
    this.#options = options;
    this.#stallMs = options.stallMs ?? LISTENER_STALL_MS;
    server.on('connection', (socket) => {
      this.#accept(socket);
    });
  }

  /** The port it listens on. */
  get port(): number {
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  get counters(): LineCounters {
    return {
      listeners: this.#listeners.size,
      framesWritten: this.#framesWritten,
      framesReceived: this.#framesReceived,
      listenersDropped: this.#listenersDropped,
    };
  }

  get ready(): boolean {
    return this.#stalled.size === 0;
  }

  onReady(listener: () => void): void {
    this.#onReady = listener;
  }

  write(frame: Buffer): void {
    this.#framesWritten += 1;
    for (const socket of this.#listeners) {
      socket.write(frame);
      if (socket.writableLength > 0) this.#stall(socket);
    }
  }

  /** Closes the port and every connection. Idempotent. */
  async close(): Promise<void> {
    for (const timer of this.#stalled.values()) clearTimeout(timer);
    this.#stalled.clear();
    for (const socket of this.#listeners) socket.destroy();
    this.#listeners.clear();
    if (!this.#server.listening) return;
    await new Promise<void>((resolve) => {
      this.#server.close(() => {
        resolve();
      });
    });
  }

  #accept(socket: Socket): void {
    if (this.#listeners.size >= LISTENERS_MAX) {
      this.#listenersDropped += 1;
      this.#options.onDropped?.(`more than ${LISTENERS_MAX} listeners on the outside line`);
      socket.destroy();
      return;
    }
    this.#listeners.add(socket);
    socket.setNoDelay(true);
    const decoder = new BoundaryDecoder();
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const frame of decoder.push(chunk)) {
          this.#framesReceived += 1;
          this.#options.onFrame(frame);
        }
      } catch (error) {
        this.#dropListener(socket, toRomulusError(error));
      }
    });
    // The reason of a broken connection adds nothing: 'close' follows, and the listener is gone.
    socket.on('error', () => {
      socket.destroy();
    });
    socket.on('close', () => {
      this.#forget(socket);
    });
  }

  #stall(socket: Socket): void {
    if (this.#stalled.has(socket)) return;
    const timer = setTimeout(() => {
      this.#dropListener(
        socket,
        `a listener on the outside line did not read for ${this.#stallMs} ms`,
      );
    }, this.#stallMs);
    this.#stalled.set(socket, timer);
    socket.once('drain', () => {
      this.#unstall(socket);
    });
  }

  #unstall(socket: Socket): void {
    const timer = this.#stalled.get(socket);
    if (timer === undefined) return;
    clearTimeout(timer);
    this.#stalled.delete(socket);
    if (this.#stalled.size === 0) this.#onReady();
  }

  #dropListener(socket: Socket, why: RomulusError | string): void {
    if (!this.#listeners.has(socket)) return;
    this.#listenersDropped += 1;
    socket.destroy();
    this.#forget(socket);
    this.#options.onDropped?.(why);
  }

  #forget(socket: Socket): void {
    this.#listeners.delete(socket);
    this.#unstall(socket);
  }
}

/**
 * Opens the outside line.
 * @throws {RomulusError} ERR_NET_ADDRESS_IN_USE, ERR_NET_LISTEN.
 */
export async function listenLine(options: LineOptions): Promise<Line> {
  const server = createServer();
  const line = new Line(server, options);
  await listenOn(server, { host: options.host, port: options.port });
  return line;
}
