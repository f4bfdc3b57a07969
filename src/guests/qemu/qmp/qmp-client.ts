/**
 * Client of one QMP socket of a running QEMU.
 *
 * Commands are matched to answers by id, events are drained at all times, every wait and queue has
 * a bound. QEMU runs in-band commands one after another and takes at most eight ahead
 * (QMP_REQ_QUEUE_LEN_MAX in its monitor/qmp.c); beyond that it stops reading, and out-of-band
 * commands would be stuck too. So at most `QMP_IN_FLIGHT_MAX` are sent, the rest wait here.
 *
 * A command whose time ran out stays counted as in flight until its answer comes, because QEMU is
 * still busy with it; its late answer is dropped.
 *
 * The native pause shares the socket: while the client is `idle` and this thread sits in the native
 * call, that call writes commands and reads answers on `descriptor` itself, and hands all it read to
 * `feed`. Its commands carry ids that begin with `NATIVE_ID_PREFIX`; their answers are dropped here.
 *
 * A client does not start, stop or judge the machine, and leaves it as it is when it goes.
 */
import { createConnection, type Socket } from 'node:net';
import { type RomulusError, toRomulusError } from '../../../base/errors.ts';
import {
  closeDuplicate,
  descriptorOf,
  duplicate,
  readRest,
  sendDescriptor,
} from '../../../native/descriptors.ts';
import { socketPeer } from '../../../native/host.ts';
import {
  heldError,
  inBandOnlyError,
  lostError,
  nonsenseError,
  refusedError,
  timeoutError,
  tooManyError,
  unreachableError,
} from './errors.ts';
import { LineReader } from './line-reader.ts';
import { parseQmpLine, type QemuVersion, type QmpEvent, type QmpMessage } from './messages.ts';

/** How long connecting and the greeting may take together, milliseconds. */
export const QMP_CONNECT_TIMEOUT_MS = 2000;
/** How long any one answer may take unless the caller says otherwise, milliseconds. */
export const QMP_COMMAND_TIMEOUT_MS = 5000;
/** In-band commands that QEMU is given ahead; it has a queue of eight. */
export const QMP_IN_FLIGHT_MAX = 7;
/** Commands that may wait, sent or not. */
export const QMP_COMMANDS_MAX = 256;
/** Longest line that is believed: the full list of CPU models has some hundred kilobytes. */
export const QMP_LINE_BYTES_MAX = 4 * 1024 * 1024;
/** Longest greeting that is believed. */
export const QMP_GREETING_BYTES_MAX = 64 * 1024;
/** Longest path a unix socket can have. */
const SOCKET_PATH_BYTES_MAX = 107;
/** Ids of commands that the native pause sends begin so. */
export const NATIVE_ID_PREFIX = 'n';
const OWN_ID_PREFIX = 'r';

interface Waiting {
  readonly id: string;
  readonly command: string;
  readonly line: string;
  readonly isOutOfBand: boolean;
  /** A descriptor that QEMU gets with the line. */
  readonly descriptor: number | null;
  /** Null once the caller gave up; the answer is still to come. */
  settle: { resolve: (value: unknown) => void; reject: (error: RomulusError) => void } | null;
  readonly timer: NodeJS.Timeout;
}

export interface QmpConnectOptions {
  /** For connecting, greeting and negotiation together, milliseconds. */
  readonly timeoutMs?: number;
}

export interface QmpCommandOptions {
  /** How long the answer may take, waiting for earlier commands included, milliseconds. */
  readonly timeoutMs?: number;
}

type Greeting = Extract<QmpMessage, { kind: 'greeting' }>;

/** A connection to one running QEMU. */
export class QmpClient {
  readonly path: string;
  /** Of the connected socket, for the native pause; valid until the connection ends. */
  readonly descriptor: number;
  /**
   * Who made the listening socket: QEMU itself, unless a manager made it and handed it over
   * (libvirt does so for its own monitor); 0 when it lives in a pid namespace out of sight.
   */
  readonly peerPid: number;
  readonly #socket: Socket;
  /** Through which its last words can be read when Node has closed the socket because of an error. */
  readonly #lastWords: number | null;
  readonly #lines = new LineReader(QMP_GREETING_BYTES_MAX);
  /** Sent and not answered, by id. */
  readonly #inFlight = new Map<string, Waiting>();
  readonly #queued: Waiting[] = [];
  readonly #eventListeners = new Set<(event: QmpEvent) => void>();
  readonly #endListeners = new Set<(error: RomulusError) => void>();
  #greeting: Greeting | null = null;
  #onGreeting: ((greeting: Greeting) => void) | null = null;
  #nextId = 1;
  #isClosed = false;
  #ended: RomulusError | null = null;

  private constructor(socket: Socket, path: string) {
    this.#socket = socket;
    this.path = path;
    this.descriptor = descriptorOf(socket);
    this.peerPid = this.descriptor < 0 ? 0 : socketPeer(this.descriptor).pid;
    socket.on('data', (chunk: Buffer) => {
      this.feed(chunk);
    });
    this.#lastWords = this.descriptor < 0 ? null : duplicate(this.descriptor);
    socket.on('error', (cause) => {
      this.#hearOut();
      this.#end(lostError(path, cause.message, cause));
    });
    socket.on('close', () => {
      this.#end(lostError(path, 'it closed the connection'));
    });
  }

  /**
   * Connects, awaits the greeting and negotiates capabilities (out-of-band when offered).
   * @throws {RomulusError} ERR_GUEST_UNREACHABLE when nobody listens there, ERR_GUEST_QMP_HELD when
   *   nobody greets us, ERR_PROTOCOL_GUEST_CONTROL when it is no QMP socket, ERR_GUEST_LOST when it
   *   hangs up.
   */
  static async connect(path: string, options: QmpConnectOptions = {}): Promise<QmpClient> {
    const timeoutMs = options.timeoutMs ?? QMP_CONNECT_TIMEOUT_MS;
    const deadlineMs = performance.now() + timeoutMs;
    const client = new QmpClient(await openSocket(path, timeoutMs), path);
    try {
      await client.#negotiate(timeoutMs, deadlineMs);
    } catch (error) {
      client.close();
      throw error;
    }
    return client;
  }

  /** The version of the QEMU that greeted us. */
  get version(): QemuVersion {
    if (this.#greeting === null) throw new TypeError('the monitor has not greeted yet');
    return this.#greeting.version;
  }

  /** Whether the monitor runs commands out of band. */
  get hasOutOfBand(): boolean {
    return this.#greeting?.outOfBand ?? false;
  }

  /**
   * No command in flight or waiting, and no line half read: only then may the native pause use the
   * socket.
   */
  get idle(): boolean {
    return (
      this.#ended === null &&
      this.#inFlight.size === 0 &&
      this.#queued.length === 0 &&
      this.#lines.pendingBytes === 0
    );
  }

  /** Why the connection is over, null while it is not. */
  get ended(): RomulusError | null {
    return this.#ended;
  }

  /**
   * Sends one command and resolves to what it returns.
   * @throws {RomulusError} ERR_GUEST_QMP_* with QEMU's own text when it refuses,
   *   ERR_TIMEOUT_GUEST_CONTROL, ERR_GUEST_LOST, ERR_LIMIT_GUEST_CONTROL.
   */
  async command(name: string, args?: object, options: QmpCommandOptions = {}): Promise<unknown> {
    return this.#send(name, args, options);
  }

  /**
   * As `command`, and hands QEMU a descriptor of ours with it (`getfd`), which stays ours as well. One
   * at a time: QEMU keeps the last that came until a command asks for it.
   * @throws {RomulusError} ERR_HOST_SEND_DESCRIPTOR when QEMU does not read, else as `command`.
   */
  async commandWithDescriptor(
    name: string,
    args: object,
    descriptor: number,
    options: QmpCommandOptions = {},
  ): Promise<unknown> {
    return this.#send(name, args, options, { descriptor });
  }

  /**
   * As `command`, but QEMU runs it at once, even while an earlier command hangs. Few commands can:
   * `yank`, `migrate-pause`, `migrate-recover`.
   * @throws {RomulusError} ERR_GUEST_QMP_IN_BAND_ONLY when the monitor cannot, else as `command`.
   */
  async commandOutOfBand(
    name: string,
    args?: object,
    options: QmpCommandOptions = {},
  ): Promise<unknown> {
    if (!this.hasOutOfBand) throw inBandOnlyError(this.path, name);
    return this.#send(name, args, options, { isOutOfBand: true });
  }

  /**
   * Runs a line of the human monitor and resolves to what it prints; errors are in the text too.
   * @throws {RomulusError} as `command`.
   */
  async humanMonitor(line: string, options: QmpCommandOptions = {}): Promise<string> {
    const printed = await this.command('human-monitor-command', { 'command-line': line }, options);
    if (typeof printed === 'string') return printed;
    const error = nonsenseError(this.path, `an answer to '${line}' that is not a text`);
    this.#end(error);
    throw error;
  }

  /** Calls `listener` for every event from now on; returns how to stop that. */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#eventListeners.add(listener);
    return () => {
      this.#eventListeners.delete(listener);
    };
  }

  /** Calls `listener` once, when the connection ends, or has ended, for any reason but `close`. */
  onEnd(listener: (error: RomulusError) => void): void {
    const ended = this.#ended;
    if (ended === null) this.#endListeners.add(listener);
    else if (!this.#isClosed) queueMicrotask(() => listener(ended));
  }

  /** Takes bytes that came from the socket, in their order: the native pause hands over its own. */
  feed(bytes: Uint8Array): void {
    if (this.#ended !== null) return;
    const isBounded = this.#lines.push(bytes, (line) => {
      if (this.#ended === null && line !== '') this.#take(parseQmpLine(line));
    });
    if (!isBounded) this.#end(nonsenseError(this.path, 'a line that is too long'));
  }

  /** Lets go of the connection; waiting commands fail. The machine is left as it is. Idempotent. */
  close(): void {
    this.#isClosed = true;
    this.#endListeners.clear();
    this.#end(lostError(this.path, 'we let go of it'));
  }

  async #negotiate(timeoutMs: number, deadlineMs: number): Promise<void> {
    const greeting = await new Promise<Greeting>((resolve, reject) => {
      const timer = setTimeout(
        () => {
          reject(heldError(this.path, timeoutMs));
        },
        Math.max(0, deadlineMs - performance.now()),
      );
      const fail = (error: RomulusError): void => {
        clearTimeout(timer);
        reject(error);
      };
      this.onEnd(fail);
      this.#onGreeting = (greeting) => {
        clearTimeout(timer);
        this.#endListeners.delete(fail);
        resolve(greeting);
      };
    });
    this.#lines.lineBytesMax = QMP_LINE_BYTES_MAX;
    await this.command('qmp_capabilities', greeting.outOfBand ? { enable: ['oob'] } : undefined, {
      timeoutMs: Math.max(1, deadlineMs - performance.now()),
    });
  }

  async #send(
    command: string,
    args: object | undefined,
    options: QmpCommandOptions,
    way: { readonly isOutOfBand?: boolean; readonly descriptor?: number } = {},
  ): Promise<unknown> {
    const { isOutOfBand = false, descriptor = null } = way;
    if (this.#ended !== null) throw this.#ended;
    if (this.#inFlight.size + this.#queued.length >= QMP_COMMANDS_MAX) {
      throw tooManyError(this.path, QMP_COMMANDS_MAX);
    }
    const id = `${OWN_ID_PREFIX}${this.#nextId++}`;
    const verb = isOutOfBand ? 'exec-oob' : 'execute';
    const line = `${JSON.stringify({ [verb]: command, arguments: args, id })}\n`;
    const timeoutMs = options.timeoutMs ?? QMP_COMMAND_TIMEOUT_MS;
    return new Promise<unknown>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#giveUp(waiting, timeoutMs);
      }, timeoutMs);
      const settle = { resolve, reject };
      const waiting: Waiting = { id, command, line, isOutOfBand, descriptor, settle, timer };
      if (isOutOfBand) {
        this.#transmit(waiting);
      } else {
        this.#queued.push(waiting);
        this.#transmitQueued();
      }
    });
  }

  #transmit(waiting: Waiting): void {
    this.#inFlight.set(waiting.id, waiting);
    if (waiting.descriptor === null) this.#socket.write(waiting.line);
    else this.#transmitWith(waiting, waiting.descriptor);
  }

  /** Past Node, which passes no descriptors; so nothing may wait in it that was said before. */
  #transmitWith(waiting: Waiting, descriptor: number): void {
    try {
      if (this.#socket.writableLength > 0) throw tooManyError(this.path, QMP_COMMANDS_MAX);
      sendDescriptor(this.descriptor, Buffer.from(waiting.line), descriptor);
    } catch (error) {
      this.#inFlight.delete(waiting.id);
      clearTimeout(waiting.timer);
      waiting.settle?.reject(toRomulusError(error));
    }
  }

  #transmitQueued(): void {
    let inBand = 0;
    for (const { isOutOfBand } of this.#inFlight.values()) if (!isOutOfBand) inBand += 1;
    for (; inBand < QMP_IN_FLIGHT_MAX; inBand += 1) {
      const next = this.#queued.shift();
      if (next === undefined) return;
      this.#transmit(next);
    }
  }

  #giveUp(waiting: Waiting, timeoutMs: number): void {
    const settle = waiting.settle;
    waiting.settle = null;
    const at = this.#queued.indexOf(waiting);
    if (at >= 0) this.#queued.splice(at, 1);
    settle?.reject(timeoutError(this.path, waiting.command, timeoutMs));
  }

  #take(message: QmpMessage): void {
    if (message.kind === 'nonsense') {
      this.#end(nonsenseError(this.path, message.why));
    } else if (message.kind === 'greeting') {
      if (this.#greeting !== null) {
        this.#end(nonsenseError(this.path, 'a second greeting'));
        return;
      }
      this.#greeting = message;
      this.#onGreeting?.(message);
    } else if (this.#greeting === null) {
      this.#end(nonsenseError(this.path, 'something else than a greeting first'));
    } else if (message.kind === 'event') {
      for (const listener of this.#eventListeners) listener(message.event);
    } else {
      this.#answer(message);
    }
  }

  #answer(message: Extract<QmpMessage, { kind: 'return' | 'error' }>): void {
    const { id } = message;
    if (id?.startsWith(NATIVE_ID_PREFIX) === true) return;
    const waiting = id === null ? undefined : this.#inFlight.get(id);
    if (id === null || waiting === undefined) {
      const text = message.kind === 'error' ? `: ${message.text}` : '';
      this.#end(nonsenseError(this.path, `an answer to no command of ours${text}`));
      return;
    }
    this.#inFlight.delete(id);
    clearTimeout(waiting.timer);
    if (message.kind === 'return') {
      waiting.settle?.resolve(message.value);
    } else {
      waiting.settle?.reject(refusedError(waiting.command, message.errorClass, message.text));
    }
    this.#transmitQueued();
  }

  /**
   * Node closes a socket that cannot be written to and forgets what it has not read: of a machine that
   * was switched off, that it was.
   */
  #hearOut(): void {
    if (this.#ended === null && this.#lastWords !== null)
      this.feed(readRest(this.#lastWords, QMP_LINE_BYTES_MAX));
  }

  #end(error: RomulusError): void {
    if (this.#ended !== null) return;
    this.#ended = error;
    this.#socket.destroy();
    if (this.#lastWords !== null) closeDuplicate(this.#lastWords);
    this.#lines.clear();
    const waitings = [...this.#inFlight.values(), ...this.#queued];
    this.#inFlight.clear();
    this.#queued.length = 0;
    for (const { timer, settle } of waitings) {
      clearTimeout(timer);
      settle?.reject(error);
    }
    const listeners = [...this.#endListeners];
    this.#endListeners.clear();
    this.#eventListeners.clear();
    for (const listener of listeners) listener(error);
  }
}

async function openSocket(path: string, timeoutMs: number): Promise<Socket> {
  // Node would cut the path off and connect to another one.
  if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX) {
    throw unreachableError(path, `the path is longer than ${SOCKET_PATH_BYTES_MAX} bytes`);
  }
  const socket = createConnection({ path });
  try {
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(heldError(path, timeoutMs));
      }, timeoutMs);
      socket.once('connect', () => {
        clearTimeout(timer);
        resolve();
      });
      socket.once('error', (cause: NodeJS.ErrnoException) => {
        clearTimeout(timer);
        // QEMU listens with a backlog of one: a third client finds it full.
        const isFull = cause.code === 'EAGAIN';
        reject(isFull ? heldError(path, 0) : unreachableError(path, cause.message, cause));
      });
    });
  } catch (error) {
    socket.destroy();
    throw error;
  }
  socket.removeAllListeners('error');
  return socket;
}
