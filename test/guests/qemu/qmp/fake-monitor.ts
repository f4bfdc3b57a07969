/** A small server that speaks QMP as badly as a test asks for. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const GREETING =
  '{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":""},"capabilities":["oob"]}}\r\n';

export interface Command {
  readonly execute?: string;
  readonly 'exec-oob'?: string;
  readonly id: string;
  readonly arguments?: unknown;
}

export interface FakeMonitor {
  readonly path: string;
  close(): Promise<void>;
}

export interface FakeBehaviour {
  /** What is said first; nothing when null. */
  readonly greeting?: string | null;
  /** Called for every command but `qmp_capabilities`. */
  readonly onCommand?: (command: Command, socket: Socket) => void;
}

/** Answers one command rightly. */
export function reply(socket: Socket, command: Command, value: unknown = {}): void {
  socket.write(`${JSON.stringify({ return: value, id: command.id })}\r\n`);
}

/** Listens in a fresh directory. */
export async function startFakeMonitor(behaviour: FakeBehaviour): Promise<FakeMonitor> {
  const directory = mkdtempSync(join(tmpdir(), 'romulus-qmp-'));
  const path = join(directory, 'q');
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => socket.destroy());
    const greeting = behaviour.greeting === undefined ? GREETING : behaviour.greeting;
    if (greeting !== null) socket.write(greeting);
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk.toString();
      for (let feed = text.indexOf('\n'); feed >= 0; feed = text.indexOf('\n')) {
        const command = JSON.parse(text.slice(0, feed)) as Command;
        text = text.slice(feed + 1);
        if (command.execute === 'qmp_capabilities') reply(socket, command);
        else behaviour.onCommand?.(command, socket);
      }
    });
  });
  await new Promise<void>((resolve) => {
    server.listen(path, resolve);
  });
  return {
    path,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => {
        server.close(resolve);
      });
      rmSync(directory, { recursive: true });
    },
  };
}
