/** Free TCP ports on loopback, for processes that must know each other's before they start. */
import { createServer, type Server } from 'node:net';

/** That many distinct ports that were free an instant ago. */
export async function freePorts(count: number): Promise<number[]> {
  const servers: Server[] = [];
  const ports: number[] = [];
  for (let index = 0; index < count; index += 1) {
    const server = createServer();
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(0, '127.0.0.1', resolve);
    });
    const address = server.address();
    if (address !== null && typeof address === 'object') ports.push(address.port);
    servers.push(server);
  }
  // Held together until all are known, or the same port would come twice.
  await Promise.all(
    servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve()))),
  );
  return ports;
}
