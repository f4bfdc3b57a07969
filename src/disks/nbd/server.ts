/**
 * NBD server on a unix socket: what QEMU mirrors a machine's disks to.
 *
 * A write counts as received, and reaches the sink, before its reply is sent; replies never wait for
 * anything else, because the guest's write and `stop` wait for them. An export serves one client at
 * a time, so that the order of its writes is the order of its connection; several exports share the
 * sink, which sees one order of all.
 *
 * It keeps no data and knows nothing of mirrors. No package fits: `network-block-device` hands whole
 * blocks of one size to an asynchronous store and has one export, `nbd-server` was last released
 * eleven years ago as 0.0.1.
 */
import { chmodSync, chownSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { RomulusError, toRomulusError } from '../../base/errors.ts';
import { descriptorOf } from '../../native/descriptors.ts';
import { releaseBuffer } from '../../native/page-store.ts';
import { greeting } from './protocol.ts';
import { type NbdAction, NbdSession, type OpenVerdict } from './session.ts';

/** Connections at a time, those that have not opened anything included. */
export const CONNECTIONS_MAX = 64;
/** How long a client may take to open an export, milliseconds. */
export const HANDSHAKE_TIMEOUT_MS = 5000;
/** Bytes of replies a client may leave unread. */
export const REPLIES_BYTES_MAX: number = 1024 * 1024;

/** Where writes go. Called on the server's thread, in order of receipt, before the reply. */
export interface NbdSink {
  /** The data is the sink's to keep. Throwing ends the connection. */
  write(disk: number, offset: number, data: Buffer): void;
  /** A stretch that reads as zeros from now on (TRIM, too). Throwing ends the connection. */
  zeros(disk: number, offset: number, byteCount: number): void;
}

/** A disk that can be opened. */
export interface NbdExport {
  readonly name: string;
  readonly diskBytes: number;
}

export interface NbdServerOptions {
  /** Path of the socket; its directory should be closed to others. */
  readonly path: string;
  /** Their indexes are the disk numbers that the sink sees. */
  readonly exports: readonly NbdExport[];
  readonly sink: NbdSink;
  /** Who may connect, besides root: this user by default. */
  readonly owner?: { readonly uid: number; readonly gid: number };
  /** Memory of that size for a write's data: the system's by default. */
  readonly allocate?: (byteCount: number) => Buffer;
  /** A client opened this disk, over the socket with this descriptor. */
  readonly onOpened?: (disk: number, descriptor: number) => void;
  /** A client that had opened this disk is gone, with why. */
  readonly onGone?: (disk: number, error: RomulusError) => void;
  readonly handshakeTimeoutMs?: number;
}

/** Serves until closed. */
export class NbdServer {
  readonly path: string;
  readonly #options: NbdServerOptions;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** Which connection has which export. */
  readonly #holders: (Socket | null)[];
  #refused = 0;

  private constructor(options: NbdServerOptions) {
    this.path = options.path;
    this.#options = options;
    this.#holders = options.exports.map(() => null);
    this.#server = createServer((socket) => {
      this.#accept(socket);
    });
    this.#server.maxConnections = CONNECTIONS_MAX;
  }

  /**
   * Listens.
   * @throws {RomulusError} ERR_DISK_SOCKET when it cannot.
   */
  static async listen(options: NbdServerOptions): Promise<NbdServer> {
    const server = new NbdServer(options);
    await new Promise<void>((resolve, reject) => {
      server.#server.once('error', (cause) => {
        reject(
          new RomulusError(
            'ERR_DISK_SOCKET',
            `cannot listen on ${options.path}: ${cause.message}`,
            {
              remedy: 'Check that its directory exists, is writable and the path is not too long.',
              cause,
              details: { path: options.path },
            },
          ),
        );
      });
      server.#server.listen(options.path, () => {
        server.#server.removeAllListeners('error');
        server.#server.on('error', () => {
          // Failing to accept one client (no descriptors left): it sees that itself.
          server.#refused += 1;
        });
        resolve();
      });
    });
    chmodSync(options.path, 0o600);
    const { owner } = options;
    if (owner !== undefined && owner.uid !== process.getuid?.())
      chownSync(options.path, owner.uid, owner.gid);
    return server;
  }

  /** Clients that were sent away or broke the protocol. */
  get refusedCount(): number {
    return this.#refused;
  }

  /** Whether somebody has this disk open. */
  isOpen(disk: number): boolean {
    return (this.#holders[disk] ?? null) !== null;
  }

  /** Ends all connections and removes the socket. Idempotent. */
  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    rmSync(this.path, { force: true });
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket);
    const session = new NbdSession((name) => this.#open(name, socket), this.#options.allocate);
    let disk = -1;
    let why: RomulusError | null = null;
    let replies: Buffer[] = [];
    let ending = false;
    const timer = setTimeout(() => {
      if (session.isTransmitting) return;
      this.#refused += 1;
      socket.destroy();
    }, this.#options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS);
    const act = (action: NbdAction): void => {
      switch (action.kind) {
        case 'send':
          replies.push(action.bytes);
          break;
        case 'opened':
          clearTimeout(timer);
          disk = this.#holders.indexOf(socket);
          this.#options.onOpened?.(disk, descriptorOf(socket));
          break;
        case 'write':
          this.#options.sink.write(disk, action.offset, action.data);
          break;
        case 'zeros':
          this.#options.sink.zeros(disk, action.offset, action.byteCount);
          break;
        case 'end':
          ending = true;
          break;
      }
    };
    const send = (): void => {
      if (replies.length > 0) socket.write(Buffer.concat(replies));
      replies = [];
      if (ending) socket.end();
    };
    socket.on('data', (chunk: Buffer) => {
      try {
        session.push(chunk, act);
        send();
        release(chunk);
        if (socket.writableLength > REPLIES_BYTES_MAX) throw unreadError();
      } catch (cause) {
        // What was taken before the nonsense is with the sink; its client will not be told.
        why = toRomulusError(cause);
        this.#refused += 1;
        socket.destroy();
      }
    });
    socket.on('error', (cause) => {
      why ??= goneError(cause.message, cause);
    });
    socket.on('close', () => {
      clearTimeout(timer);
      this.#sockets.delete(socket);
      if (disk < 0) return;
      this.#holders[disk] = null;
      this.#options.onGone?.(disk, why ?? goneError('it closed the connection'));
    });
    socket.write(greeting());
  }

  #open(name: string, socket: Socket): OpenVerdict {
    const disk = this.#options.exports.findIndex((candidate) => candidate.name === name);
    const wanted = this.#options.exports[disk];
    if (wanted === undefined) return 'unknown';
    if (this.isOpen(disk)) {
      this.#refused += 1;
      return 'taken';
    }
    this.#holders[disk] = socket;
    return { diskBytes: wanted.diskBytes };
  }
}

/** All of it was copied, and nobody else has it. */
function release({ buffer, byteLength }: Buffer): void {
  if (buffer instanceof ArrayBuffer && byteLength === buffer.byteLength) releaseBuffer(buffer);
}

function goneError(reason: string, cause?: unknown): RomulusError {
  return new RomulusError('ERR_DISK_LOST', `QEMU's connection for the disk is gone: ${reason}`, {
    remedy: 'Check whether QEMU still runs; the backup needs a new first copy of the disk.',
    ...(cause === undefined ? {} : { cause }),
  });
}

function unreadError(): RomulusError {
  return new RomulusError('ERR_PROTOCOL_NBD', 'an NBD client does not read its replies', {
    remedy: 'Only the QEMU of the protected machine may connect to this socket.',
    details: { repliesBytesMax: REPLIES_BYTES_MAX },
  });
}
