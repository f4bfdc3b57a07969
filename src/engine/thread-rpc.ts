/**
 * Calls between the main thread and a worker: numbered requests, one answer each, errors that keep
 * their code, and events the other way. Buffers are moved, not copied, where the caller lists them.
 *
 * Why not a library: the few lines below are all of it, and the transfer lists are the point.
 */
import { type MessagePort, parentPort, Worker } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { fromErrorJson, RomulusError, toRomulusError } from '../base/errors.ts';

/** No caller has more than a handful under way; more means a leak of promises. */
const PENDING_CALLS_MAX = 1024;

/** What a thread offers: every method takes one argument object. */
export type ThreadMethods = Record<string, (argument: never) => unknown>;

/** A result that moves buffers to the caller. */
export class Transferred<T> {
  readonly value: T;
  readonly transfer: readonly ArrayBuffer[];
  constructor(value: T, transfer: readonly ArrayBuffer[]) {
    this.value = value;
    this.transfer = transfer;
  }
}

type Unwrapped<T> = T extends Transferred<infer U> ? U : T;
type ResultOf<F> = F extends (argument: never) => infer R ? Unwrapped<Awaited<R>> : never;
type ArgumentOf<F> = F extends (argument: infer A) => unknown ? A : never;

interface Request {
  readonly id: number;
  readonly method: string;
  readonly argument: unknown;
}
type Answer =
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly error: ReturnType<RomulusError['toJSON']> }
  | { readonly event: unknown };

/** The main thread's end. */
export class ThreadClient<Methods extends ThreadMethods, Event = never> {
  readonly #worker: Worker;
  readonly #pending = new Map<
    number,
    { resolve: (value: never) => void; reject: (error: Error) => void }
  >();
  readonly #ended: Promise<void>;
  #nextId = 1;
  #dead: RomulusError | null = null;

  /** Starts the worker at `url`; `onEvent` gets what the worker emits, `onDeath` an unasked end. */
  constructor(
    url: URL,
    options: {
      name: string;
      workerData?: unknown;
      onEvent?: (event: Event) => void;
      onDeath?: (error: RomulusError) => void;
    },
  ) {
    this.#worker = new Worker(url, { name: options.name, workerData: options.workerData });
    const die = (error: RomulusError): void => {
      if (this.#dead !== null) return;
      this.#dead = error;
      for (const waiting of this.#pending.values()) waiting.reject(error);
      this.#pending.clear();
      options.onDeath?.(error);
    };
    this.#worker.on('message', (answer: Answer) => {
      if ('event' in answer) {
        options.onEvent?.(answer.event as Event);
        return;
      }
      const waiting = this.#pending.get(answer.id);
      // An answer may cross a close(); nobody waits for it any more.
      if (waiting === undefined) return;
      this.#pending.delete(answer.id);
      if ('error' in answer) waiting.reject(fromErrorJson(answer.error));
      else waiting.resolve(answer.value as never);
    });
    this.#worker.on('error', (error) => die(toRomulusError(error)));
    this.#ended = new Promise((resolve) => {
      this.#worker.on('exit', (exitCode) => {
        die(
          new RomulusError('ERR_INTERNAL_THREAD_ENDED', `thread ${options.name} ended`, {
            remedy: 'See the log above for its last words.',
            details: { exitCode },
          }),
        );
        resolve();
      });
    });
  }

  /** Whether the thread ended, or is being ended: no call of it can succeed any more. */
  get hasEnded(): boolean {
    return this.#dead !== null;
  }

  call<Name extends keyof Methods & string>(
    method: Name,
    argument: ArgumentOf<Methods[Name]>,
    transfer: readonly (ArrayBuffer | MessagePort)[] = [],
  ): Promise<ResultOf<Methods[Name]>> {
    if (this.#dead !== null) return Promise.reject(this.#dead);
    assert(this.#pending.size < PENDING_CALLS_MAX, `too many calls under way: ${method}`);
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      const request: Request = { id, method, argument };
      this.#worker.postMessage(request, [...transfer]);
    });
  }

  /** Ends the thread. Calls still under way are rejected. Idempotent. */
  async close(): Promise<void> {
    this.#dead ??= new RomulusError('ERR_INTERNAL_THREAD_CLOSED', 'the thread was closed', {
      remedy: 'Nothing is wrong if the node is stopping.',
    });
    for (const waiting of this.#pending.values()) waiting.reject(this.#dead);
    this.#pending.clear();
    await this.#worker.terminate();
    await this.#ended;
  }
}

/** The worker's end: answers calls one at a time, in order. */
export function serveThread(methods: ThreadMethods): { emit: (event: unknown) => void } {
  const port = parentPort;
  assert(port !== null, 'serveThread is for worker threads');
  let turn: Promise<void> = Promise.resolve();
  const answer = async (request: Request): Promise<void> => {
    try {
      const method = methods[request.method];
      assert(method !== undefined, `no such method: ${request.method}`);
      const result = await method(request.argument as never);
      if (result instanceof Transferred)
        port.postMessage({ id: request.id, value: result.value }, [...result.transfer]);
      else port.postMessage({ id: request.id, value: result });
    } catch (error) {
      port.postMessage({ id: request.id, error: toRomulusError(error).toJSON() });
    }
  };
  port.on('message', (request: Request) => {
    turn = turn.then(() => answer(request));
  });
  return { emit: (event) => port.postMessage({ event }) };
}
