/**
 * The smallest thing that stands where a node stands for the world: it copies frames between a
 * machine's net socket and a TCP line, holding nothing back.
 */
import { connect, createServer, type Server, type Socket } from 'node:net';

export interface Relay {
  readonly port: number;
  close(): Promise<void>;
}

/** Opens the line, then plugs the machine in. */
export async function openRelay(netSocketPath: string): Promise<Relay> {
  const listeners = new Set<Socket>();
  const machines: Socket[] = [];
  const server: Server = createServer((socket) => {
    listeners.add(socket);
    socket.on('close', () => listeners.delete(socket));
    socket.on('error', () => socket.destroy());
    socket.on('data', (data: Buffer) => machines[0]?.write(data));
    // As a cable: the machine's line opens when somebody is at the other end.
    if (machines.length > 0) return;
    const machine = connect(netSocketPath);
    machines.push(machine);
    machine.on('data', (data: Buffer) => {
      for (const listener of listeners) listener.write(data);
    });
    machine.on('error', () => machine.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return {
    port: address.port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const machine of machines) machine.destroy();
        for (const listener of listeners) listener.destroy();
      }),
  };
}
