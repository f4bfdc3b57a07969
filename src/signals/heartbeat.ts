/**
 * The main thread's side of the heartbeats: starts and stops the heartbeat thread, passes orders
 * and reports, and holds the shared words (promise-words.ts), through which the two threads agree
 * without waiting for each other.
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { unreachable } from '../base/assert.ts';
import { fromErrorJson, RomulusError, toRomulusError } from '../base/errors.ts';
import type { Generation } from '../base/units.ts';
import { DEFAULT_PROMISE_MARGIN, DEFAULT_PROMISE_MS } from '../core/promise.ts';
import type { Instance } from '../core/register.ts';
import type { Signal, Verdict } from '../core/verdict.ts';
import { closeLoopDescriptors, learnPipes, learnPool } from '../native/host.ts';
import { workerUrl } from '../native/worker-url.ts';
import {
  type Endpoint,
  type Goodbye,
  HEARTBEAT_INTERVAL_MS,
  type HeartbeatOrder,
  type HeartbeatReport,
  type HeartbeatRole,
  type HeartbeatTuning,
  type HeartbeatWorkerData,
  MAIN_STALL_MS_MAX,
  PHI_DEAD,
  type ThreadPriority,
} from './heartbeat-types.ts';
import { monotonicMs, monotonicNs, PromiseWords } from './promise-words.ts';

export type { Endpoint, Goodbye, HeartbeatRole, HeartbeatTuning } from './heartbeat-types.ts';

/** How long the thread may take to start and to stop, milliseconds. */
const THREAD_START_MS_MAX = 10_000;
const THREAD_STOP_MS_MAX = 1000;
/**
 * The heartbeat thread keeps little, so its collections are short; rare ones are better still. V8 fills
 * a third of this between two.
 */
const YOUNG_GENERATION_MB = 24;
/** How often the main thread shows the heartbeat thread that it runs. */
const MAIN_RAN_PERIOD_MS = 250;

export interface HeartbeatOptions {
  readonly role: HeartbeatRole;
  /** Primary: where to listen, port 0 for any. Backup: whom to dial. */
  readonly endpoint: Endpoint;
  readonly generation: Generation;
  /** Backup: the instance whose promises are given, null while it holds no image. */
  readonly instance?: Instance | null;
  /** Primary: the instance whose promises count, null while there is none. */
  readonly partner?: Instance | null;
  readonly tuning?: Partial<HeartbeatTuning>;
  /** Shared words that outlive this thread: promises made through them still stand. */
  readonly words?: PromiseWords;
  /** The peer's state changed; `unknown` is never reported. */
  readonly onVerdict: (verdict: Verdict) => void;
  /** Something was observed that may explain a later verdict; for the log. */
  readonly onSignal?: (signal: Signal) => void;
  /** Primary: a promise raised the time until which output may be released. */
  readonly onPromised?: (instance: Instance, promiseMs: number, sentAtMs: number) => void;
  /** The peer knows a newer generation than ours: the register must be read. */
  readonly onNewerGeneration?: (generation: Generation, text: string) => void;
  /** The thread ended without being told to: no promises come or go any more. */
  readonly onFailed: (error: RomulusError) => void;
}

/** Heartbeats under way. Made by `startHeartbeat`. */
export class Heartbeat {
  readonly words: PromiseWords;
  readonly #worker: Worker;
  readonly #options: HeartbeatOptions;
  readonly #mainRanTimer: NodeJS.Timeout;
  readonly #partnerRequests = new Map<number, () => void>();
  #requestCount = 0;
  #partner: Instance | null;
  #port = 0;
  #priority: ThreadPriority = 'none';
  #loopDescriptors: readonly number[] = [];
  #stopping: Promise<void> | null = null;
  #ended = false;

  constructor(worker: Worker, words: PromiseWords, options: HeartbeatOptions) {
    this.#worker = worker;
    this.words = words;
    this.#options = options;
    this.#partner = options.partner ?? null;
    this.#mainRanTimer = setInterval(() => {
      words.noteMainRan(monotonicNs());
    }, MAIN_RAN_PERIOD_MS);
    this.#mainRanTimer.unref();
  }

  /** Primary: the port it listens on. */
  get port(): number {
    return this.#port;
  }

  /** What the heartbeat thread could get of the scheduler. */
  get priority(): ThreadPriority {
    return this.#priority;
  }

  /** Primary: the instance whose promises count. */
  get partner(): Instance | null {
    return this.#partner;
  }

  /**
   * Primary: from now on only this instance's promises count. What the last one promised is
   * forgotten at once; promises of the new one count when the promise resolves.
   */
  async setPartner(partner: Instance | null): Promise<void> {
    this.words.barHeld();
    this.#partner = partner;
    this.#requestCount += 1;
    const requestId = this.#requestCount;
    await new Promise<void>((resolve) => {
      this.#partnerRequests.set(requestId, resolve);
      this.#order({ kind: 'setPartner', partner, requestId });
      if (this.#ended) this.#partnerRequests.delete(requestId);
      if (this.#ended) resolve();
    });
    // A later call has barred the word for its own partner, and will open it.
    if (requestId === this.#requestCount && !this.#ended) this.words.resetHeld();
  }

  /** Backup: which instance answers and promises; null: none does. */
  setInstance(instance: Instance | null): void {
    this.#order({ kind: 'setInstance', instance });
  }

  /** Frames carry this generation from now on, and older ones are refused. */
  setGeneration(generation: Generation): void {
    this.#order({ kind: 'setGeneration', generation });
  }

  /** The bulk link to the peer was made, or ended; `how` completes "link ...". */
  noteLink(state: 'open' | 'closed', how: string): void {
    this.#order({ kind: 'link', state, text: how, atMs: monotonicMs() });
  }

  /** Something of the peer's was read from the bulk link just now. */
  noteLinkHeard(): void {
    this.words.noteLinkHeard(monotonicNs());
  }

  /** Takes a probe's or a voter's word into account. */
  addSignal(signal: Signal): void {
    this.#order({ kind: 'signal', signal });
  }

  /** Says goodbye and ends the thread, with its sockets. Idempotent. */
  async stop(goodbye: Goodbye = { reason: 'shutdown', text: 'stopped' }): Promise<void> {
    this.#stopping ??= this.#stop(goodbye);
    await this.#stopping;
  }

  /** Resolves when the thread is at work. For `startHeartbeat`. */
  async start(): Promise<void> {
    this.words.noteMainRan(monotonicNs());
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(threadError(`did not start within ${THREAD_START_MS_MAX} ms`));
      }, THREAD_START_MS_MAX);
      const fail = (error: RomulusError): void => {
        clearTimeout(timer);
        reject(error);
      };
      let ready = false;
      this.#worker.on('message', (report: HeartbeatReport) => {
        if (report.kind === 'ready') {
          clearTimeout(timer);
          ready = true;
          this.#port = report.port;
          this.#priority = report.priority;
          this.#loopDescriptors = report.loopDescriptors;
          resolve();
        } else if (report.kind === 'failed' && !ready) fail(fromErrorJson(report.error));
        else this.#take(report);
      });
      this.#worker.on('error', (error) => {
        if (ready) this.#end(toRomulusError(error));
        else fail(toRomulusError(error));
      });
      this.#worker.on('exit', (code) => {
        closeLoopDescriptors(this.#loopDescriptors);
        const error = threadError(`ended with code ${code}`);
        if (ready) this.#end(error);
        else fail(error);
      });
    });
  }

  /** Ends the thread at once. For `startHeartbeat`, when starting failed. */
  async abandon(): Promise<void> {
    this.#ended = true;
    clearInterval(this.#mainRanTimer);
    await this.#worker.terminate();
  }

  #take(report: HeartbeatReport): void {
    switch (report.kind) {
      case 'verdict':
        // What was on its way when we stopped is of no interest any more.
        if (this.#stopping === null) this.#options.onVerdict(report.verdict);
        return;
      case 'signal':
        this.#options.onSignal?.(report.signal);
        return;
      case 'promised':
        if (report.instance !== this.#partner) return;
        this.#options.onPromised?.(report.instance, report.promiseMs, report.sentAtMs);
        return;
      case 'newerGeneration':
        this.#options.onNewerGeneration?.(report.generation, report.text);
        return;
      case 'partnerSet':
        this.#partnerRequests.get(report.requestId)?.();
        this.#partnerRequests.delete(report.requestId);
        return;
      case 'failed':
        this.#end(fromErrorJson(report.error));
        return;
      case 'ready':
        return;
      default:
        unreachable(report, 'report of the heartbeat thread');
    }
  }

  #order(order: HeartbeatOrder): void {
    if (!this.#ended && this.#stopping === null) this.#worker.postMessage(order);
  }

  async #stop(goodbye: Goodbye): Promise<void> {
    clearInterval(this.#mainRanTimer);
    if (this.#ended) return;
    const exited = once(this.#worker, 'exit');
    this.#worker.postMessage({ kind: 'stop', goodbye } satisfies HeartbeatOrder);
    const timer = setTimeout(() => {
      void this.#worker.terminate();
    }, THREAD_STOP_MS_MAX);
    await exited;
    clearTimeout(timer);
  }

  #end(error: RomulusError): void {
    if (this.#ended) return;
    this.#ended = true;
    clearInterval(this.#mainRanTimer);
    for (const resolve of this.#partnerRequests.values()) resolve();
    this.#partnerRequests.clear();
    if (this.#stopping === null) this.#options.onFailed(error);
  }
}

/**
 * Starts the heartbeat thread. Resolves when it listens (primary) or dials (backup).
 * @throws {RomulusError} ERR_TRANSPORT_ADDRESS_IN_USE, ERR_TRANSPORT_LISTEN, ERR_HOST_NOT_BUILT,
 *   ERR_INTERNAL_HEARTBEAT_THREAD.
 */
export async function startHeartbeat(options: HeartbeatOptions): Promise<Heartbeat> {
  const words = options.words ?? new PromiseWords();
  const data: HeartbeatWorkerData = {
    role: options.role,
    endpoint: options.endpoint,
    tuning: {
      intervalMs: HEARTBEAT_INTERVAL_MS,
      promiseMs: DEFAULT_PROMISE_MS,
      margin: DEFAULT_PROMISE_MARGIN,
      phiDead: PHI_DEAD,
      mainStallMsMax: MAIN_STALL_MS_MAX,
      ...options.tuning,
    },
    generation: options.generation,
    instance: options.instance ?? null,
    partner: options.partner ?? null,
    words: words.buffer,
  };
  // From this thread: what starts the pool shares its descriptors with it, and that thread has its own.
  if (options.role === 'backup') learnPool();
  learnPipes();
  const url = workerUrl('./heartbeat-worker', import.meta.url);
  const worker = new Worker(url, {
    workerData: data,
    name: 'romulus-heartbeat',
    // No loader of the main thread's is needed there, and each would cost start-up time.
    execArgv: [],
    resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB },
  });
  const heartbeat = new Heartbeat(worker, words, options);
  try {
    await heartbeat.start();
  } catch (error) {
    await heartbeat.abandon();
    throw error;
  }
  return heartbeat;
}

function threadError(what: string): RomulusError {
  return new RomulusError('ERR_INTERNAL_HEARTBEAT_THREAD', `the heartbeat thread ${what}`, {
    remedy: 'This is a defect in Romulus: please report it with the log.',
  });
}
