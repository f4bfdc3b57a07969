/** Opening a listening TCP socket, with the errors that a user can do something about. */
import type { Server } from 'node:net';
import { RomulusError } from '../base/errors.ts';

/**
 * Listens, or says why not.
 * @throws {RomulusError} ERR_NET_ADDRESS_IN_USE, ERR_NET_LISTEN.
 */
export async function listenOn(
  server: Server,
  address: { readonly host: string; readonly port: number },
): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const fail = (error: NodeJS.ErrnoException): void => {
      reject(listenError(error, address));
    };
    server.once('error', fail);
    server.listen(address.port, address.host, () => {
      server.off('error', fail);
      // Accepting may fail later (no descriptors left); the line then lives on without that one.
      server.on('error', () => {});
      resolve();
    });
  });
}

function listenError(
  error: NodeJS.ErrnoException,
  address: { readonly host: string; readonly port: number },
): RomulusError {
  const where = `${address.host}:${address.port}`;
  if (error.code === 'EADDRINUSE') {
    return new RomulusError('ERR_NET_ADDRESS_IN_USE', `${where} is in use already`, {
      remedy: 'Choose another port with --net-listen, or stop what listens there.',
      cause: error,
      details: { host: address.host, port: address.port },
    });
  }
  return new RomulusError('ERR_NET_LISTEN', `cannot listen on ${where}: ${error.message}`, {
    remedy: 'Check that the address belongs to this host and that the port may be used.',
    cause: error,
    details: { host: address.host, port: address.port, reason: error.code },
  });
}
