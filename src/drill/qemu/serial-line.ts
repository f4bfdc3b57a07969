/**
 * A serial port of a machine, seen from outside: we listen on a unix socket, QEMU connects to it as it
 * starts, so nothing that the machine ever says is missed, and what it said before it was killed is
 * still read. Every line has the instant at which it was read.
 *
 * A carriage return before the end of a line is dropped; bytes that are no UTF-8 are replaced.
 */
import { existsSync, unlinkSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { RomulusError } from '../../base/errors.ts';

/** Lines kept of one port; a counter at 100 lines a second fills this in an hour and a half. */
export const SERIAL_LINES_MAX = 600_000;
/** Longest line; a longer one is cut in two. */
const LINE_CHARACTERS_MAX = 16_384;

/** One line that the machine wrote. */
export interface SerialText {
  /** CLOCK_MONOTONIC, nanoseconds. */
  readonly atNs: bigint;
  readonly text: string;
}

/** One serial port. */
export class SerialLine implements AsyncIterable<SerialText> {
  readonly path: string;
  readonly lines: SerialText[] = [];
  /** Lines that were not kept, because there were too many. */
  droppedCount = 0;
  readonly #server: Server;
  #socket: Socket | null = null;
  #rest = '';
  #closed = false;
  readonly #watchers = new Set<() => void>();

  private constructor(path: string, server: Server) {
    this.path = path;
    this.#server = server;
    server.on('connection', (socket) => this.#handleConnection(socket));
  }

  /** Listens at the path, which must fit a unix socket (107 bytes). */
  static async listen(path: string): Promise<SerialLine> {
    const server = createServer();
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
    return new SerialLine(path, server);
  }

  /** A machine is connected now. */
  get connected(): boolean {
    return this.#socket !== null;
  }

  /** Sends text to the machine; nobody there is an error. */
  write(text: string): void {
    if (this.#socket === null)
      throw new RomulusError('ERR_GUEST_SILENT', `no machine is connected to ${this.path}`, {
        remedy: 'Start the machine with its serial port at that socket.',
      });
    this.#socket.write(text);
  }

  /**
   * The first line from number `after` on that satisfies the test, past or to come.
   * @throws {RomulusError} ERR_TIMEOUT_SERIAL
   */
  async waitFor(
    what: string,
    test: (text: string) => boolean,
    options: { readonly withinMs: number; readonly after?: number },
  ): Promise<SerialText> {
    const deadlineMs = performance.now() + options.withinMs;
    for (let index = options.after ?? 0; ; ) {
      for (; index < this.lines.length; index += 1) {
        const line = this.lines[index];
        if (line !== undefined && test(line.text)) return line;
      }
      const leftMs = deadlineMs - performance.now();
      if (leftMs <= 0 || this.#closed)
        throw new RomulusError(
          'ERR_TIMEOUT_SERIAL',
          `the machine did not say ${what} within ${options.withinMs} ms; its last line: ${this.lines.at(-1)?.text ?? 'none'}`,
          { remedy: 'Read what it said before; raise the time if the host is busy.' },
        );
      await this.#change(leftMs);
    }
  }

  /** Lines from the first on, then those to come, until the port is closed. */
  async *[Symbol.asyncIterator](): AsyncIterator<SerialText> {
    for (let index = 0; ; ) {
      for (; index < this.lines.length; index += 1) {
        const line = this.lines[index];
        if (line !== undefined) yield line;
      }
      if (this.#closed) return;
      await this.#change(null);
    }
  }

  /** Ends the port and removes its socket. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket?.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
    if (existsSync(this.path)) unlinkSync(this.path);
    this.#tell();
  }

  #handleConnection(socket: Socket): void {
    // A machine that was started again takes the place of the one before.
    this.#socket?.destroy();
    this.#socket = socket;
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => this.#handleText(text));
    // A killed QEMU resets its sockets: `close` follows and is all that matters.
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      if (this.#socket === socket) this.#socket = null;
      this.#tell();
    });
    this.#tell();
  }

  #handleText(text: string): void {
    const atNs = process.hrtime.bigint();
    const parts = (this.#rest + text).split('\n');
    this.#rest = parts.pop() ?? '';
    for (const part of parts) this.#keep(atNs, part.replace(/\r+$/, ''));
    if (this.#rest.length > LINE_CHARACTERS_MAX) {
      this.#keep(atNs, this.#rest);
      this.#rest = '';
    }
    this.#tell();
  }

  #keep(atNs: bigint, text: string): void {
    if (this.lines.length < SERIAL_LINES_MAX) this.lines.push({ atNs, text });
    else this.droppedCount += 1;
  }

  #tell(): void {
    for (const watcher of this.#watchers) watcher();
  }

  #change(withinMs: number | null): Promise<void> {
    return new Promise((resolve) => {
      const finish = (): void => {
        clearTimeout(timer);
        this.#watchers.delete(finish);
        resolve();
      };
      const timer = withinMs === null ? undefined : setTimeout(finish, withinMs);
      this.#watchers.add(finish);
    });
  }
}
