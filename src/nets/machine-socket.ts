/**
 * Our end of the machine's net socket (a unix socket that the machine listens on). Frames are
 * read always: a machine whose socket is full would stop, and it must not for our sake. Frames
 * for the machine are dropped, and counted, while it does not take them, as a NIC does.
 */
import { createConnection, type Socket } from 'node:net';
import { RomulusError, toRomulusError } from '../base/errors.ts';
import { BoundaryDecoder } from './boundary-frames.ts';

/** How long connecting may take, milliseconds. */
export const CONNECT_TIMEOUT_MS = 2000;
/** Bytes that may wait for the machine inside this process. */
export const INPUT_QUEUE_BYTES_MAX: number = 4 * 1024 * 1024;

export interface MachineSocketOptions {
  /** Path of the machine's unix socket. */
  readonly path: string;
  /** A frame of the machine's, length in front; in order. */
  readonly onFrame: (frame: Buffer) => void;
  /** The connection ended without our doing; at most once. */
  readonly onLost: (error: RomulusError) => void;
}

/** What the connection has counted. */
export interface MachineSocketCounters {
  readonly framesReceived: number;
  readonly framesSent: number;
  readonly framesDropped: number;
}

/** A connection to the machine's net socket. Made by `connectMachine`. */
export class MachineSocket {
  readonly #socket: Socket;
  #framesReceived = 0;
  #framesSent = 0;
  #framesDropped = 0;
  #closed = false;

  constructor(socket: Socket, options: MachineSocketOptions) {
    this.#socket = socket;
    const decoder = new BoundaryDecoder();
    let reason: RomulusError | null = null;
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const frame of decoder.push(chunk)) {
          this.#framesReceived += 1;
          options.onFrame(frame);
        }
      } catch (error) {
        reason = toRomulusError(error);
        socket.destroy();
      }
    });
    socket.on('error', (error) => {
      reason ??= lostError(options.path, error);
    });
    socket.on('close', () => {
      if (this.#closed) return;
      this.#closed = true;
      options.onLost(reason ?? lostError(options.path));
    });
  }

  get counters(): MachineSocketCounters {
    return {
      framesReceived: this.#framesReceived,
      framesSent: this.#framesSent,
      framesDropped: this.#framesDropped,
    };
  }

  /** Sends one frame, length in front, to the machine; false when it had to be dropped. */
  send(frame: Buffer): boolean {
    if (this.#closed || this.#socket.writableLength + frame.byteLength > INPUT_QUEUE_BYTES_MAX) {
      this.#framesDropped += 1;
      return false;
    }
    this.#socket.write(frame);
    this.#framesSent += 1;
    return true;
  }

  /** Lets go of the machine's net. Idempotent. */
  close(): void {
    this.#closed = true;
    this.#socket.destroy();
  }
}

/**
 * Connects to the machine's net socket.
 * @throws {RomulusError} ERR_NET_MACHINE_SOCKET when it is not there or does not answer in time.
 */
export async function connectMachine(options: MachineSocketOptions): Promise<MachineSocket> {
  const socket = await connectUnix(options.path, 'ERR_NET_MACHINE_SOCKET');
  return new MachineSocket(socket, options);
}

async function connectUnix(path: string, code: 'ERR_NET_MACHINE_SOCKET'): Promise<Socket> {
  const socket = createConnection({ path });
  return await new Promise<Socket>((resolve, reject) => {
    const timer = setTimeout(() => {
      fail(new Error(`no answer within ${CONNECT_TIMEOUT_MS} ms`));
    }, CONNECT_TIMEOUT_MS);
    const fail = (error: Error): void => {
      clearTimeout(timer);
      socket.destroy();
      reject(
        new RomulusError(code, `cannot connect to ${path}: ${error.message}`, {
          remedy: 'Check that the machine runs and that its socket may be opened by this user.',
          cause: error,
          details: { path },
        }),
      );
    };
    socket.once('error', fail);
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.off('error', fail);
      resolve(socket);
    });
  });
}

function lostError(path: string, cause?: Error): RomulusError {
  const how = cause === undefined ? 'closed' : cause.message;
  return new RomulusError('ERR_NET_MACHINE_LOST', `the machine's net socket ${path}: ${how}`, {
    remedy: 'Check whether the machine is still running.',
    ...(cause === undefined ? {} : { cause }),
    details: { path },
  });
}
