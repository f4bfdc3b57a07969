/**
 * Client of a simulated machine's control socket: one command a line, answered in order
 * (native-sim/README.md). Commands may be sent before earlier ones are answered.
 *
 * Every wait has a bound. After a wait that ran out, or an answer that makes no sense, which answer
 * belongs to which command is no longer known: the connection is given up, and a machine that this
 * connection had stopped goes on by itself.
 */
import { createConnection, type Socket } from 'node:net';
import { type ErrorCode, RomulusError } from '../../base/errors.ts';

/** How long connecting and any one answer may take, milliseconds. */
export const CONTROL_TIMEOUT_MS = 2000;
/** Commands that may wait for their answers. */
export const CONTROL_COMMANDS_MAX = 64;
/** Longest first line of an answer that is believed. */
const ANSWER_LINE_BYTES_MAX = 16_384;
/** Longest device state that is believed. */
const STATE_BYTES_MAX = 1024 * 1024;

interface Waiting {
  readonly command: string;
  /** A device state of the announced length follows the answer's line. */
  readonly takesState: boolean;
  readonly resolve: (answer: Buffer) => void;
  readonly reject: (error: RomulusError) => void;
  readonly timer: NodeJS.Timeout;
}

/** A connection to one machine's control socket. */
export class SimControl {
  readonly socketPath: string;
  readonly #socket: Socket;
  readonly #timeoutMs: number;
  readonly #waiting: Waiting[] = [];
  #received: Buffer[] = [];
  #receivedBytes = 0;
  /** Bytes needed before parsing makes sense again; spares joining chunks of a long state. */
  #neededBytes = 1;
  #ended: RomulusError | null = null;
  #onEnd: ((error: RomulusError) => void) | null = null;

  private constructor(socket: Socket, socketPath: string, timeoutMs: number) {
    this.#socket = socket;
    this.socketPath = socketPath;
    this.#timeoutMs = timeoutMs;
    socket.on('data', (chunk: Buffer) => {
      this.#receive(chunk);
    });
    socket.on('error', (cause) => {
      this.#end(lostError(socketPath, cause.message, cause));
    });
    socket.on('close', () => {
      this.#end(lostError(socketPath, 'it closed the connection'));
    });
  }

  /**
   * Connects to the socket of a machine.
   * @throws {RomulusError} ERR_GUEST_UNREACHABLE when no machine answers there.
   */
  static async connect(
    socketPath: string,
    timeoutMs: number = CONTROL_TIMEOUT_MS,
  ): Promise<SimControl> {
    const socket = createConnection({ path: socketPath });
    try {
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => {
          reject(new Error(`no connection within ${timeoutMs} ms`));
        }, timeoutMs);
        socket.once('connect', () => {
          clearTimeout(timer);
          resolve();
        });
        socket.once('error', (error) => {
          clearTimeout(timer);
          reject(error);
        });
      });
    } catch (cause) {
      socket.destroy();
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new RomulusError('ERR_GUEST_UNREACHABLE', `no machine at ${socketPath}: ${reason}`, {
        remedy: 'Start the machine (`romulus sim --socket PATH`) or correct the path.',
        cause,
        details: { socketPath },
      });
    }
    socket.removeAllListeners('error');
    return new SimControl(socket, socketPath, timeoutMs);
  }

  /** Why the connection is over, null while it is not. */
  get ended(): RomulusError | null {
    return this.#ended;
  }

  /** Called once, when the connection ends for any reason but `close`. */
  onEnd(listener: (error: RomulusError) => void): void {
    this.#onEnd = listener;
  }

  /**
   * Sends one command; resolves to what follows `ok` in the answer's line.
   * @throws {RomulusError} the machine's own ERR_*, ERR_TIMEOUT_GUEST_CONTROL, ERR_GUEST_LOST.
   */
  async command(line: string): Promise<string> {
    return (await this.#send(line, false)).toString();
  }

  /**
   * Sends a command that is answered with a device state.
   * @throws {RomulusError} as `command`.
   */
  async stateOf(line: string): Promise<Buffer> {
    return this.#send(line, true);
  }

  /**
   * Hands a device state to an incoming machine and starts it, in one write.
   * @throws {RomulusError} ERR_INTEGRITY_DEVICE_STATE when the machine refuses the state, else as
   *   `command`.
   */
  async loadAndContinue(state: Uint8Array): Promise<void> {
    this.#socket.cork();
    const loaded = this.#send(`load ${state.byteLength}`, false, state);
    const running = this.#send('cont', false);
    this.#socket.uncork();
    // Both are awaited; the first refusal is the telling one.
    const [load, run] = await Promise.allSettled([loaded, running]);
    if (load.status === 'rejected') throw load.reason;
    if (run.status === 'rejected') throw run.reason;
  }

  /** Sends several commands in one write: what `body` sends leaves together. */
  together(body: () => void): void {
    this.#socket.cork();
    try {
      body();
    } finally {
      this.#socket.uncork();
    }
  }

  /** Lets go of the connection; waiting commands fail. Idempotent. */
  close(): void {
    this.#onEnd = null;
    this.#end(lostError(this.socketPath, 'we let go of it'));
  }

  async #send(line: string, takesState: boolean, body?: Uint8Array): Promise<Buffer> {
    if (this.#ended !== null) throw this.#ended;
    if (this.#waiting.length >= CONTROL_COMMANDS_MAX) {
      throw new RomulusError('ERR_LIMIT_GUEST_CONTROL', 'too many commands wait for the machine', {
        remedy: 'Wait for earlier commands to be answered.',
        details: { commandsMax: CONTROL_COMMANDS_MAX },
      });
    }
    return new Promise<Buffer>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#end(
          new RomulusError(
            'ERR_TIMEOUT_GUEST_CONTROL',
            `the machine at ${this.socketPath} did not answer '${line}' within ${this.#timeoutMs} ms`,
            {
              remedy: 'Check that the machine is not frozen (SIGSTOP) and that the host has CPU.',
              details: { command: line, timeoutMs: this.#timeoutMs },
            },
          ),
        );
      }, this.#timeoutMs);
      this.#waiting.push({ command: line, takesState, resolve, reject, timer });
      this.#socket.write(`${line}\n`);
      if (body !== undefined) this.#socket.write(body);
    });
  }

  #receive(chunk: Buffer): void {
    this.#received.push(chunk);
    this.#receivedBytes += chunk.length;
    while (this.#receivedBytes >= this.#neededBytes && this.#ended === null) {
      const joined = this.#joined();
      const usedBytes = this.#answer(joined);
      if (usedBytes === 0) return;
      this.#received = [joined.subarray(usedBytes)];
      this.#receivedBytes -= usedBytes;
      this.#neededBytes = 1;
    }
  }

  #joined(): Buffer {
    const [first] = this.#received;
    const joined =
      this.#received.length === 1 && first !== undefined ? first : Buffer.concat(this.#received);
    this.#received = [joined];
    return joined;
  }

  /** Takes one answer off the front; 0 when it is not all there. */
  #answer(bytes: Buffer): number {
    const feed = bytes.indexOf(0x0a);
    if (feed < 0) {
      if (bytes.length > ANSWER_LINE_BYTES_MAX) this.#nonsense('a line without end');
      this.#neededBytes = bytes.length + 1;
      return 0;
    }
    const line = bytes.toString('utf8', 0, feed);
    const head = this.#waiting[0];
    if (head === undefined) {
      this.#nonsense(`'${line.slice(0, 80)}' to no command`);
      return 0;
    }
    const refusal = /^err (ERR_[A-Z]+_[A-Z_]+) (.*)$/.exec(line);
    if (refusal !== null) {
      this.#settle().reject(refusedError(head.command, refusal[1] as ErrorCode, refusal[2] ?? ''));
      return feed + 1;
    }
    if (line !== 'ok' && !line.startsWith('ok ')) {
      this.#nonsense(`'${line.slice(0, 80)}' to '${head.command}'`);
      return 0;
    }
    if (!head.takesState) {
      this.#settle().resolve(bytes.subarray(3, Math.max(3, feed)));
      return feed + 1;
    }
    const stateBytes = Number(/^ok bytes=(\d{1,9})$/.exec(line)?.[1] ?? -1);
    if (stateBytes < 0 || stateBytes > STATE_BYTES_MAX) {
      this.#nonsense(`'${line.slice(0, 80)}' to '${head.command}'`);
      return 0;
    }
    const totalBytes = feed + 1 + stateBytes;
    if (bytes.length < totalBytes) {
      this.#neededBytes = totalBytes;
      return 0;
    }
    this.#settle().resolve(bytes.subarray(feed + 1, totalBytes));
    return totalBytes;
  }

  #settle(): Waiting {
    const waiting = this.#waiting.shift();
    if (waiting === undefined) throw new TypeError('no command waits for an answer');
    clearTimeout(waiting.timer);
    return waiting;
  }

  #nonsense(what: string): void {
    this.#end(
      new RomulusError(
        'ERR_PROTOCOL_GUEST_CONTROL',
        `the machine at ${this.socketPath} answered ${what}`,
        { remedy: 'Check that the socket belongs to a romulus-sim of the same version.' },
      ),
    );
  }

  #end(error: RomulusError): void {
    if (this.#ended !== null) return;
    this.#ended = error;
    this.#socket.destroy();
    this.#received = [];
    this.#receivedBytes = 0;
    for (const waiting of this.#waiting.splice(0)) {
      clearTimeout(waiting.timer);
      waiting.reject(error);
    }
    this.#onEnd?.(error);
    this.#onEnd = null;
  }
}

function lostError(socketPath: string, reason: string, cause?: unknown): RomulusError {
  return new RomulusError('ERR_GUEST_LOST', `the machine at ${socketPath} is lost: ${reason}`, {
    remedy: 'Check whether the machine still runs; if it ended, start it or fail over.',
    ...(cause === undefined ? {} : { cause }),
    details: { socketPath },
  });
}

function refusedError(command: string, code: ErrorCode, text: string): RomulusError {
  return new RomulusError(code, `the machine refused '${command}': ${text}`, {
    remedy:
      code === 'ERR_GUEST_CANNOT_SUSPEND'
        ? 'Try again at the next checkpoint.'
        : 'Correct the command; see native-sim/README.md for what the machine takes.',
    details: { command },
  });
}
