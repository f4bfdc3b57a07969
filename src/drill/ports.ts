/**
 * TCP ports on loopback for processes that must know each other's before they start.
 *
 * They are chosen below the range from which the kernel takes ports for outgoing connections: one
 * out of it may be somebody's connection by the time it is listened on.
 */
import { randomInt } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { RomulusError } from '../base/errors.ts';

const LOWEST_PORT = 10_000;
/** Where the kernel's own range begins when it does not say. */
const EPHEMERAL_PORT_MIN = 32_768;
const TRIES_MAX = 200;

/**
 * That many distinct ports that were free an instant ago.
 * @throws {RomulusError} ERR_TRANSPORT_NO_PORT when hardly any is.
 */
export async function freePorts(count: number): Promise<number[]> {
  const end = ephemeralStart();
  const servers: Server[] = [];
  const ports: number[] = [];
  try {
    for (let tries = 0; ports.length < count; tries += 1) {
      if (tries >= TRIES_MAX)
        throw new RomulusError('ERR_TRANSPORT_NO_PORT', 'no free TCP port was found on loopback', {
          remedy: 'See what listens there (ss -ltn), and end what is not needed.',
          details: { from: LOWEST_PORT, to: end - 1 },
        });
      const port = randomInt(LOWEST_PORT, end);
      const server = await listening(port);
      if (server === null) continue;
      servers.push(server);
      ports.push(port);
    }
  } finally {
    // Held together until all are known, or the same port would come twice.
    await Promise.all(
      servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve()))),
    );
  }
  return ports;
}

function listening(port: number): Promise<Server | null> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once('error', () => resolve(null));
    server.listen(port, '127.0.0.1', () => resolve(server));
  });
}

/** First port that the kernel may give to an outgoing connection. */
function ephemeralStart(): number {
  try {
    const text = readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'latin1');
    const start = Number(text.split(/\s+/)[0]);
    if (start > LOWEST_PORT + TRIES_MAX) return start;
  } catch {
    // A container may hide it.
  }
  return EPHEMERAL_PORT_MIN;
}
