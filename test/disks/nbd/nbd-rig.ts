/** A server with its intake, put together as for a machine, and clients of it, for tests. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { RomulusError } from '../../../src/base/errors.ts';
import type { SpareBuffers } from '../../../src/base/spare-buffers.ts';
import { pieceBuffers } from '../../../src/disks/readable-disk.ts';
import { NbdServer } from '../../../src/disks/nbd/server.ts';
import { DiskIntake, type DiskIntakeOptions } from '../../../src/native/disk-intake.ts';
import { clientFlags, go } from './nbd-client.ts';

/** Bytes of everything that answers a granted wish. */
const GRANT_BYTES = 32 + 34 + 20;
const GREETING_BYTES = 18;
const SPARES_MAX = 8;

/** How long a client may hesitate where a test is not about that, milliseconds. */
const PATIENT_MS = 20_000;

/** A client's end. */
export interface NbdPeer {
  readonly socket: Socket;
  /** Waits for so many bytes. */
  read(bytes: number): Promise<Buffer>;
  /** Waits for the end of the connection, whatever comes before it. */
  closed(): Promise<void>;
}

/** A server of disks named disk0 and so on. */
export class NbdRig {
  readonly server: NbdServer;
  readonly intake: DiskIntake;
  readonly buffers: SpareBuffers;
  readonly gone: RomulusError[] = [];
  waitingTold = 0;
  readonly #directory: string;
  readonly #sockets: Socket[] = [];

  private constructor(
    directory: string,
    parts: { server: NbdServer; intake: DiskIntake; buffers: SpareBuffers },
  ) {
    this.#directory = directory;
    this.server = parts.server;
    this.intake = parts.intake;
    this.buffers = parts.buffers;
  }

  static async start(
    disksBytes: readonly number[],
    {
      handshakeTimeoutMs = PATIENT_MS,
      ...options
    }: Partial<DiskIntakeOptions> & { readonly handshakeTimeoutMs?: number } = {},
  ): Promise<NbdRig> {
    const directory = mkdtempSync(join(tmpdir(), 'romulus-nbd-'));
    const buffers = pieceBuffers(SPARES_MAX);
    const intake: DiskIntake = new DiskIntake({
      disksBytes,
      buffers,
      blockBytes: 4096,
      roomBytes: 64,
      onWaiting: () => {
        rig.waitingTold += 1;
      },
      onGone: (disk, error) => {
        rig.gone.push(error);
        server.release(disk);
      },
      ...options,
    });
    const server = await NbdServer.listen({
      path: join(directory, 'nbd.sock'),
      exports: disksBytes.map((diskBytes, disk) => ({ name: `disk${disk}`, diskBytes })),
      onOpened: (disk, connection) => intake.adopt(disk, connection),
      handshakeTimeoutMs,
    });
    const rig = new NbdRig(directory, { server, intake, buffers });
    return rig;
  }

  /** A client that was greeted and said its flags. */
  async connect(): Promise<NbdPeer> {
    const socket = createConnection({ path: this.server.path });
    this.#sockets.push(socket);
    socket.on('error', () => socket.destroy());
    const read = async (bytes: number): Promise<Buffer> => {
      for (;;) {
        const data = socket.read(bytes) as Buffer | null;
        if (data !== null) return data;
        await once(socket, 'readable');
      }
    };
    const closed = async (): Promise<void> => {
      if (socket.closed) return;
      socket.resume();
      await once(socket, 'close');
    };
    await read(GREETING_BYTES);
    socket.write(clientFlags());
    return { socket, read, closed };
  }

  /** A client that has opened a disk. */
  async open(disk: number): Promise<NbdPeer> {
    const peer = await this.connect();
    peer.socket.write(go(`disk${disk}`));
    await peer.read(GRANT_BYTES);
    return peer;
  }

  stop(): void {
    for (const socket of this.#sockets.splice(0)) socket.destroy();
    this.intake.close();
    this.server.close();
    rmSync(this.#directory, { recursive: true });
  }
}
