/**
 * The backup's half of the heartbeats: dials the primary, answers each heartbeat with a promise
 * not to promote, and judges the primary by what it hears.
 *
 * A promise is put into the shared word before it is sent. While the word is sealed, because the
 * main thread is asking the register, heartbeats are answered without one.
 *
 * When the connection closes it dials again at once: not to go on, but to learn more. A primary
 * that was killed has a kernel that refuses, and closed plus refused is a verdict within
 * milliseconds. Later attempts come at growing distances.
 */
import { connect, type Socket } from 'node:net';
import { RomulusError } from '../base/errors.ts';
import type { Generation } from '../base/units.ts';
import type { Message } from '../codec/messages.ts';
import type { Instance } from '../core/register.ts';
import { HeartbeatSocket } from './heartbeat-socket.ts';
import type { Endpoint, Goodbye, HeartbeatReport, HeartbeatTuning } from './heartbeat-types.ts';
import { PeerJudge } from './peer-judge.ts';
import { monotonicMs, monotonicNs, type PromiseWords } from './promise-words.ts';

/** How long one attempt to connect may take, milliseconds. */
const DIAL_TIMEOUT_MS = 1000;
/** Distance of the second attempt from the first; it doubles from there. */
const REDIAL_MS_MIN = 1;
const REDIAL_MS_MAX = 100;
const NS_PER_MS = 1e6;

export interface BackupHeartOptions {
  readonly endpoint: Endpoint;
  readonly tuning: HeartbeatTuning;
  readonly generation: Generation;
  readonly instance: Instance | null;
  readonly words: PromiseWords;
  readonly report: (report: HeartbeatReport) => void;
}

/** Answers heartbeats and suspects their sender. */
export class BackupHeart {
  readonly judge: PeerJudge;
  readonly #options: BackupHeartOptions;
  readonly #promiseNs: bigint;
  readonly #promiseUs: number;
  #generation: Generation;
  #instance: Instance | null;
  #connection: HeartbeatSocket | null = null;
  #dialing: Socket | null = null;
  #redialTimer: NodeJS.Timeout | null = null;
  #redialMs = 0;
  #stopped = false;

  constructor(options: BackupHeartOptions) {
    this.#options = options;
    this.#generation = options.generation;
    this.#instance = options.instance;
    this.#promiseUs = Math.round(options.tuning.promiseMs * 1000);
    this.#promiseNs = BigInt(this.#promiseUs) * 1000n;
    this.judge = new PeerJudge({
      startedAtMs: monotonicMs(),
      intervalMs: options.tuning.intervalMs,
      phiDead: options.tuning.phiDead,
      onVerdict: (verdict) => {
        options.report({ kind: 'verdict', verdict });
      },
      onSignal: (signal) => {
        options.report({ kind: 'signal', signal });
      },
    });
    this.#dial();
  }

  /** Whose promises are given from now on; null: none are. */
  setInstance(instance: Instance | null): void {
    this.#instance = instance;
  }

  setGeneration(generation: Generation): void {
    this.#generation = generation;
  }

  /** Says goodbye, closes everything. */
  stop(goodbye: Goodbye): void {
    this.#stopped = true;
    if (this.#redialTimer !== null) clearTimeout(this.#redialTimer);
    this.#dialing?.destroy();
    this.#connection?.send({ kind: 'goodbye', ...goodbye }, this.#generation);
    this.#connection?.end('closed by us');
    this.#connection = null;
  }

  #dial(): void {
    if (this.#stopped) return;
    const { host, port } = this.#options.endpoint;
    const socket = connect({ host, port });
    this.#dialing = socket;
    let failure = 'timeout';
    const timer = setTimeout(() => {
      socket.destroy();
    }, DIAL_TIMEOUT_MS);
    const onError = (error: NodeJS.ErrnoException): void => {
      failure = error.code ?? 'unknown';
    };
    const onClose = (): void => {
      clearTimeout(timer);
      this.#dialing = null;
      this.#dialFailed(failure);
    };
    socket.once('error', onError);
    socket.once('close', onClose);
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.off('error', onError);
      socket.off('close', onClose);
      this.#dialing = null;
      this.#connected(socket);
    });
  }

  #connected(socket: Socket): void {
    this.judge.connectionOpened('heartbeat', monotonicMs());
    const connection = new HeartbeatSocket(socket, {
      onMessage: (message, generation) => {
        this.#handle(connection, message, generation);
      },
      onClose: (how, byUs) => {
        if (this.#connection === connection) this.#connection = null;
        if (this.#stopped) return;
        if (!byUs) this.judge.connectionClosed('heartbeat', how, monotonicMs());
        this.#redial();
      },
    });
    this.#connection = connection;
  }

  #dialFailed(reason: string): void {
    if (this.#stopped) return;
    if (reason === 'ECONNREFUSED') this.judge.redialRefused(monotonicMs());
    else if (reason === 'ECONNRESET') {
      this.judge.connectionClosed('heartbeat', 'reset', monotonicMs());
    } else this.judge.redialUnreachable(reason, monotonicMs());
    this.#redial();
  }

  /** At once the first time, then at growing distances until a heartbeat is heard. */
  #redial(): void {
    const delayMs = this.#redialMs;
    this.#redialMs = Math.min(Math.max(delayMs * 2, REDIAL_MS_MIN), REDIAL_MS_MAX);
    if (delayMs === 0) {
      this.#dial();
      return;
    }
    this.#redialTimer = setTimeout(() => {
      this.#dial();
    }, delayMs);
  }

  #handle(connection: HeartbeatSocket, message: Message, generation: Generation): void {
    switch (message.kind) {
      case 'heartbeat':
        this.#answer(connection, message, generation);
        return;
      case 'goodbye':
        this.judge.goodbye(message, monotonicMs());
        return;
      case 'error':
        if (generation > this.#generation) {
          this.#options.report({ kind: 'newerGeneration', generation, text: message.message });
        }
        connection.end('closed by us');
        return;
      default:
        throw new RomulusError(
          'ERR_PROTOCOL_UNEXPECTED',
          `the primary sent "${message.kind}" on the heartbeat connection`,
          { remedy: 'Check that the two nodes run compatible versions.' },
        );
    }
  }

  #answer(
    connection: HeartbeatSocket,
    heartbeat: Message & { kind: 'heartbeat' },
    generation: Generation,
  ): void {
    if (generation < this.#generation) {
      connection.send(
        {
          kind: 'error',
          code: 'ERR_FENCED_GENERATION',
          message: `generation ${generation} is over, the present one is ${this.#generation}`,
          remedy: 'Read the register; whom it does not name as runner must not run.',
        },
        this.#generation,
      );
      connection.end('closed by us: it is of an older generation');
      return;
    }
    this.#redialMs = 0;
    const heard = this.judge.heartbeatHeard(monotonicMs());
    this.#options.words.noteBeatHeard(monotonicNs(), heard);
    if (this.#mainHangs()) return;
    const promises =
      this.#instance !== null && this.#options.words.extendPromise(monotonicNs() + this.#promiseNs);
    connection.send(
      {
        kind: 'heartbeatReply',
        seq: heartbeat.seq,
        sentAtNs: heartbeat.sentAtNs,
        promiseUs: promises ? this.#promiseUs : 0,
        instance: this.#instance ?? '',
      },
      generation,
    );
  }

  #mainHangs(): boolean {
    const silentNs = monotonicNs() - this.#options.words.mainRanAtNs();
    return Number(silentNs) > this.#options.tuning.mainStallMsMax * NS_PER_MS;
  }
}
