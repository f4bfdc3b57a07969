/**
 * A TCP door into the machine: each connection becomes one stream of the world, so that real
 * clients (redis-cli, redis-benchmark) talk to the key-value machine and keep their connections
 * through a failover. Both directions are bounded: a flood from a client pauses that client, a
 * client that does not read is cut off.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { RomulusError } from '../base/errors.ts';
import type { Endpoint } from '../engine/config.ts';
import type { World } from './world.ts';

/** Connections at once; the machine keeps a buffer for each. */
export const GATEWAY_CONNECTIONS_MAX = 1024;
/** Bytes a client may leave unread before it is cut off. */
export const CLIENT_BACKLOG_BYTES_MAX = 16 * 1024 * 1024;

/** A listening door. */
export interface Gateway {
  readonly port: number;
  readonly connectionCount: () => number;
  /** Ends every connection; when it is done, the world has been told of each end. */
  close(): Promise<void>;
}

function carry(socket: Socket, world: World): void {
  let cutOff = false;
  socket.setNoDelay(true);
  const stream = world.openStream({
    onData: (data) => {
      if (socket.destroyed) return;
      socket.write(data);
      if (socket.writableLength > CLIENT_BACKLOG_BYTES_MAX)
        socket.destroy(new Error(`left ${socket.writableLength} bytes unread`));
    },
    onClose: () => {
      cutOff = true;
      socket.end();
    },
  });
  socket.on('data', (data: Buffer) => {
    stream.write(data);
    if (!world.saturated) return;
    socket.pause();
    world.onDrain(() => socket.resume());
  });
  // A client that breaks off is an end like any other: the machine learns of it just below.
  socket.on('error', () => socket.destroy());
  socket.on('close', () => {
    if (!cutOff) stream.close();
  });
}

function listenError(where: Endpoint, cause: NodeJS.ErrnoException): RomulusError {
  if (cause.code === 'EADDRINUSE')
    return new RomulusError(
      'ERR_TRANSPORT_ADDRESS_IN_USE',
      `${where.host}:${where.port} is in use`,
      { remedy: 'Choose another --listen address, or stop what listens there.', cause },
    );
  return new RomulusError(
    'ERR_TRANSPORT_LISTEN',
    `cannot listen on ${where.host}:${where.port}: ${cause.message}`,
    { remedy: 'Choose an address of this host.', cause },
  );
}

/**
 * Opens the door.
 * @throws {RomulusError} ERR_TRANSPORT_ADDRESS_IN_USE, ERR_TRANSPORT_LISTEN
 */
export async function openGateway(world: World, where: Endpoint): Promise<Gateway> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    carry(socket, world);
  });
  server.maxConnections = GATEWAY_CONNECTIONS_MAX;
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => reject(listenError(where, cause)));
    server.listen(where.port, where.host, resolve);
  });
  const address = server.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : where.port,
    connectionCount: () => sockets.size,
    close: async () => {
      // A server says that it has closed before its connections say so.
      const ends = [...sockets].map(
        (socket) => new Promise((resolve) => socket.once('close', resolve)),
      );
      const closed = new Promise((resolve) => server.close(resolve));
      for (const socket of sockets) socket.destroy();
      await Promise.all([...ends, closed]);
    },
  };
}
