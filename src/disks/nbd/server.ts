/**
 * NBD server on a unix socket: what QEMU mirrors a machine's disks to.
 *
 * It listens, accepts and negotiates, which is rare and hostile. Once a client has opened an export,
 * its connection is handed over as a bare descriptor, together with the words that grant it: Node has
 * let go of the socket by then, and nothing of what the client sends can end up in between. Who takes
 * it over serves the requests (src/native/disk-intake.ts), and says here when the disk is free again:
 * an export serves one client at a time, so that the order of its writes is the order of its
 * connection.
 *
 * No package fits: `network-block-device` hands whole blocks of one size to an asynchronous store and
 * has one export, `nbd-server` was last released eleven years ago as 0.0.1.
 */
import { chmodSync, chownSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { RomulusError } from '../../base/errors.ts';
import { descriptorOf, duplicate } from '../../native/descriptors.ts';
import type { OpenedConnection } from '../../native/disk-intake.ts';
import { greeting } from './protocol.ts';
import { type NbdAction, NbdSession, type OpenVerdict } from './session.ts';

/** Connections at a time that have not opened anything. */
export const CONNECTIONS_MAX = 64;
/** How long a client may take to open an export, milliseconds. */
export const HANDSHAKE_TIMEOUT_MS = 5000;
/** A disk that can be opened. */
export interface NbdExport {
  readonly name: string;
  readonly diskBytes: number;
}

export interface NbdServerOptions {
  /** Path of the socket; its directory should be closed to others. */
  readonly path: string;
  /** Their indexes are the numbers of the disks. */
  readonly exports: readonly NbdExport[];
  /** Who may connect, besides root: this user by default. */
  readonly owner?: { readonly uid: number; readonly gid: number };
  /** A client opened this disk. The descriptor is the callee's; `release` is to be called after it. */
  readonly onOpened: (disk: number, connection: OpenedConnection) => void;
  readonly handshakeTimeoutMs?: number;
}

/** Serves until closed. */
export class NbdServer {
  readonly path: string;
  readonly #options: NbdServerOptions;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #openDisks = new Set<number>();
  #refused = 0;

  private constructor(options: NbdServerOptions) {
    this.path = options.path;
    this.#options = options;
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
    return this.#openDisks.has(disk);
  }

  /** The client that had this disk is gone: another may open it. */
  release(disk: number): void {
    this.#openDisks.delete(disk);
  }

  /** Ends all connections that are still its own and removes the socket. Idempotent. */
  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    rmSync(this.path, { force: true });
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket);
    let disk = -1;
    const session = new NbdSession((name) => {
      disk = this.#options.exports.findIndex((candidate) => candidate.name === name);
      return this.#verdict(disk);
    });
    const words: Buffer[] = [];
    let isEnding = false;
    const refuse = (): void => {
      this.#refused += 1;
      socket.destroy();
    };
    const timer = setTimeout(refuse, this.#options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS);
    const act = (action: NbdAction): void => {
      switch (action.kind) {
        case 'send':
          words.push(action.bytes);
          break;
        case 'opened':
          this.#handOver(disk, socket, {
            words: Buffer.concat(words.splice(0)),
            early: action.early,
          });
          break;
        case 'end':
          isEnding = true;
          break;
      }
    };
    socket.on('data', (chunk: Buffer) => {
      try {
        session.push(chunk, act);
        if (words.length > 0) socket.write(Buffer.concat(words.splice(0)));
        if (isEnding) socket.end();
      } catch (error) {
        // It broke the protocol, or did not read; nobody knows it yet, and it sees for itself.
        refuse();
        // Anything else is a defect of ours and must not pass for the client's.
        if (!(error instanceof RomulusError)) throw error;
      }
    });
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      clearTimeout(timer);
      this.#sockets.delete(socket);
    });
    socket.write(greeting());
  }

  /**
   * From here on the connection is another's. Closing ours stops libuv's reading at once, before the
   * client knows that it may send requests; the duplicate keeps the connection open.
   */
  #handOver(disk: number, socket: Socket, rest: Omit<OpenedConnection, 'descriptor'>): void {
    if (socket.writableLength > 0) throw unreadError();
    const descriptor = duplicate(descriptorOf(socket));
    socket.destroy();
    this.#openDisks.add(disk);
    this.#options.onOpened(disk, { descriptor, ...rest });
  }

  #verdict(disk: number): OpenVerdict {
    const wanted = this.#options.exports[disk];
    if (wanted === undefined) return 'unknown';
    if (!this.isOpen(disk)) return { diskBytes: wanted.diskBytes };
    this.#refused += 1;
    return 'taken';
  }
}

function unreadError(): RomulusError {
  return new RomulusError('ERR_PROTOCOL_NBD', 'an NBD client does not read its replies', {
    remedy: 'Only the QEMU of the protected machine may connect to this socket.',
  });
}
