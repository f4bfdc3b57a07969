/**
 * A machine's monitor, used from another thread than the one that holds its socket: commands go one
 * way through a message port, answers and the events of block jobs come back. It is a port of its
 * own, so that no call of the threads' own waits behind a command, nor a command behind a call.
 *
 * While the capture thread sits in a pause, commands wait; whoever asks must be able to.
 */
import type { MessagePort } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { fromErrorJson, RomulusError, toRomulusError } from '../base/errors.ts';
import type { MachineMonitor, OwnMonitor } from '../guests/guest.ts';

/** Commands under way at a time; more means that somebody does not wait for answers. */
const COMMANDS_MAX = 64;
/** Events that are passed on; a checkpoint makes half a dozen others, which nobody there needs. */
const PASSED_EVENT = /^BLOCK_JOB_/;

interface Command {
  readonly id: number;
  readonly name: string;
  readonly args: object | undefined;
  readonly options: { timeoutMs?: number } | undefined;
  /** Of this process, so it means the same in either thread; handed to the machine. */
  readonly descriptor?: number;
}
type ErrorJson = ReturnType<RomulusError['toJSON']>;
type Answer =
  | { readonly kind: 'value'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'error'; readonly id: number; readonly error: ErrorJson }
  | {
      readonly kind: 'event';
      readonly event: string;
      readonly data: Readonly<Record<string, unknown>>;
    }
  | { readonly kind: 'end'; readonly error: ErrorJson };

/**
 * Serves a monitor to the other end of a port, until that is closed. A machine that the other end had
 * stopped by then is resumed: a thread that is ended, because it took too long, cannot any more.
 */
export function serveMonitor(port: MessagePort, monitor: OwnMonitor): void {
  const say = (answer: Answer): void => {
    port.postMessage(answer);
  };
  const unlisten = monitor.onEvent(({ event, data }) => {
    if (PASSED_EVENT.test(event)) say({ kind: 'event', event, data });
  });
  monitor.onEnd((error) => {
    say({ kind: 'end', error: error.toJSON() });
  });
  let isHeld = false;
  port.on('close', () => {
    unlisten();
    // A machine that is gone, or a QEMU that is slow to answer, is heard of elsewhere.
    if (isHeld) monitor.command('cont').catch(() => undefined);
  });
  port.on('message', ({ id, name, args, options, descriptor }: Command) => {
    if (name === 'stop') isHeld = true;
    if (name === 'cont') isHeld = false;
    const answer =
      descriptor === undefined
        ? monitor.command(name, args, options)
        : monitor.commandWithDescriptor(name, args ?? {}, descriptor, options);
    answer.then(
      (value) => say({ kind: 'value', id, value }),
      (error: unknown) => say({ kind: 'error', id, error: toRomulusError(error).toJSON() }),
    );
  });
}

/** The other end: a monitor as good as the real one. */
export class RelayedMonitor implements OwnMonitor {
  readonly #port: MessagePort;
  readonly #pending = new Map<
    number,
    { resolve: (value: unknown) => void; reject: (error: RomulusError) => void }
  >();
  readonly #listeners = new Set<Parameters<MachineMonitor['onEvent']>[0]>();
  readonly #endListeners = new Set<(error: RomulusError) => void>();
  #nextId = 1;
  #ended: RomulusError | null = null;

  constructor(port: MessagePort) {
    this.#port = port;
    port.on('message', (answer: Answer) => {
      this.#take(answer);
    });
    port.on('close', () => {
      this.#end(
        new RomulusError('ERR_GUEST_LOST', 'nobody holds the connection to the machine any more', {
          remedy: 'Nothing is wrong if the node is stopping.',
        }),
      );
    });
  }

  command(name: string, args?: object, options?: { timeoutMs?: number }): Promise<unknown> {
    return this.#send({ name, args, options });
  }

  commandWithDescriptor(
    name: string,
    args: object,
    descriptor: number,
    options?: { timeoutMs?: number },
  ): Promise<unknown> {
    return this.#send({ name, args, options, descriptor });
  }

  async #send(words: Omit<Command, 'id'>): Promise<unknown> {
    if (this.#ended !== null) throw this.#ended;
    assert(this.#pending.size < COMMANDS_MAX, `too many commands under way: ${words.name}`);
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise<unknown>((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      const command: Command = { id, ...words };
      this.#port.postMessage(command);
    });
  }

  onEvent(listener: Parameters<MachineMonitor['onEvent']>[0]): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  onEnd(listener: (error: RomulusError) => void): void {
    const ended = this.#ended;
    if (ended === null) this.#endListeners.add(listener);
    else queueMicrotask(() => listener(ended));
  }

  #take(answer: Answer): void {
    switch (answer.kind) {
      case 'event':
        for (const listener of this.#listeners) listener(answer);
        return;
      case 'end':
        return this.#end(fromErrorJson(answer.error));
      case 'value':
      case 'error': {
        const waiting = this.#pending.get(answer.id);
        this.#pending.delete(answer.id);
        if (answer.kind === 'value') waiting?.resolve(answer.value);
        else waiting?.reject(fromErrorJson(answer.error));
        return;
      }
    }
  }

  #end(error: RomulusError): void {
    if (this.#ended !== null) return;
    this.#ended = error;
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
    for (const listener of this.#endListeners) listener(error);
    this.#endListeners.clear();
  }
}
