/**
 * The primary's half of the heartbeats: listens, sends a heartbeat to every connected backup at
 * each beat, and takes the answers: as signs of life, and, from the partner, as promises.
 *
 * A promise counts from when the heartbeat that it answers was *sent*, by our own record of that;
 * the instant echoed in the answer must be the same and is not used otherwise. It counts only if
 * the instance is the one that the register names, and if the heartbeat was of the present
 * generation.
 *
 * Several connections may exist for a while: a backup that redials before its old connection is
 * known to be dead, a second backup that the engine is about to refuse. Judged is the newest
 * connection of the partner; while there is none, the first that answers, until it ends.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { RomulusError } from '../base/errors.ts';
import type { Generation } from '../base/units.ts';
import type { Message } from '../codec/messages.ts';
import { heldUntilMs } from '../core/promise.ts';
import type { Instance } from '../core/register.ts';
import { HeartbeatSocket } from './heartbeat-socket.ts';
import type { Endpoint, Goodbye, HeartbeatReport, HeartbeatTuning } from './heartbeat-types.ts';
import { PeerJudge } from './peer-judge.ts';
import { monotonicMs, monotonicNs, type PromiseWords } from './promise-words.ts';

/** Connections at most; the oldest that never answered gives way. */
const CONNECTIONS_MAX = 8;
/** Heartbeats whose instant of sending is remembered; an answer to an older one is not counted. */
const BEATS_REMEMBERED = 1024;
const NS_PER_MS = 1e6;

interface Beat {
  readonly seq: number;
  readonly sentAtNs: bigint;
  readonly generation: Generation;
}

interface Connection {
  /** Grows with every connection. */
  readonly id: number;
  readonly socket: HeartbeatSocket;
  instance: Instance | null;
}

export interface PrimaryHeartOptions {
  readonly endpoint: Endpoint;
  readonly tuning: HeartbeatTuning;
  readonly generation: Generation;
  readonly partner: Instance | null;
  readonly words: PromiseWords;
  readonly report: (report: HeartbeatReport) => void;
}

/** Sends heartbeats and holds promises. Made by `startPrimaryHeart`. */
export class PrimaryHeart {
  readonly judge: PeerJudge;
  readonly #options: PrimaryHeartOptions;
  readonly #server: Server;
  readonly #connections = new Set<Connection>();
  readonly #beats = new Map<number, Beat>();
  #connectionCount = 0;
  #seq = 0;
  #generation: Generation;
  #partner: Instance | null;
  #judged: Connection | null = null;
  /** Until when the main thread knows of a held promise. */
  #toldUntilNs = 0n;

  constructor(server: Server, options: PrimaryHeartOptions) {
    this.#options = options;
    this.#server = server;
    this.#generation = options.generation;
    this.#partner = options.partner;
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
    server.on('connection', (socket) => {
      this.#accept(socket);
    });
  }

  /** The port it listens on. */
  get port(): number {
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  /** From now on only this instance's promises count, and only its answers are life. */
  setPartner(partner: Instance | null): void {
    this.#toldUntilNs = 0n;
    if (partner === this.#partner) return;
    this.#partner = partner;
    // The instance may be known already: it was synchronised before it became the partner.
    if (this.#judged !== null && this.#judged.instance === partner) return;
    this.#judged = null;
    this.judge.forgetPeer(monotonicMs());
  }

  setGeneration(generation: Generation): void {
    this.#generation = generation;
  }

  /** Says goodbye, closes everything. */
  stop(goodbye: Goodbye): void {
    this.#server.close();
    for (const { socket } of this.#connections) {
      socket.send({ kind: 'goodbye', ...goodbye }, this.#generation);
      socket.end('closed by us');
    }
    this.#connections.clear();
  }

  /** Sends a heartbeat; to be called once an interval. */
  beat(): void {
    if (this.#mainHangs()) return;
    this.#seq += 1;
    const beat = { seq: this.#seq, sentAtNs: monotonicNs(), generation: this.#generation };
    this.#beats.set(this.#seq % BEATS_REMEMBERED, beat);
    for (const { socket } of this.#connections) {
      const { seq, sentAtNs } = beat;
      socket.send({ kind: 'heartbeat', seq, sentAtNs }, this.#generation);
    }
  }

  #mainHangs(): boolean {
    const silentNs = monotonicNs() - this.#options.words.mainRanAtNs();
    return Number(silentNs) > this.#options.tuning.mainStallMsMax * NS_PER_MS;
  }

  #accept(socket: Socket): void {
    if (this.#connections.size >= CONNECTIONS_MAX) this.#makeRoom();
    this.#connectionCount += 1;
    const connection: Connection = {
      id: this.#connectionCount,
      instance: null,
      socket: new HeartbeatSocket(socket, {
        onMessage: (message, generation) => {
          this.#handle(connection, message, generation);
        },
        onClose: (how, byUs) => {
          this.#connections.delete(connection);
          if (this.#judged !== connection || byUs) return;
          this.#judged = null;
          this.judge.connectionClosed('heartbeat', how, monotonicMs());
        },
      }),
    };
    this.#connections.add(connection);
  }

  #makeRoom(): void {
    for (const connection of this.#connections) {
      if (connection === this.#judged) continue;
      this.#connections.delete(connection);
      connection.socket.destroy();
      return;
    }
  }

  #handle(connection: Connection, message: Message, generation: Generation): void {
    switch (message.kind) {
      case 'heartbeatReply':
        this.#handleReply(connection, message);
        return;
      case 'goodbye':
        if (this.#judged === connection) this.judge.goodbye(message, monotonicMs());
        return;
      case 'error':
        // A node of a newer generation does not answer us: there is another word in the register.
        if (generation > this.#generation) {
          this.#options.report({ kind: 'newerGeneration', generation, text: message.message });
        }
        connection.socket.end('closed by us');
        return;
      default:
        throw new RomulusError(
          'ERR_PROTOCOL_UNEXPECTED',
          `a backup sent "${message.kind}" on the heartbeat connection`,
          { remedy: 'Check that the two nodes run compatible versions.' },
        );
    }
  }

  #handleReply(connection: Connection, reply: Message & { kind: 'heartbeatReply' }): void {
    const instance = reply.instance === '' ? null : reply.instance;
    connection.instance = instance;
    const beat = this.#beats.get(reply.seq % BEATS_REMEMBERED);
    // An answer to nothing we remember is old, or made up: neither life nor promise.
    if (beat?.seq !== reply.seq || beat.sentAtNs !== reply.sentAtNs) return;
    if (this.#partner !== null && instance !== this.#partner) return;
    if (!this.#judges(connection)) return;
    const heard = this.judge.heartbeatHeard(monotonicMs());
    this.#options.words.noteBeatHeard(monotonicNs(), heard);
    if (instance === null || instance !== this.#partner) return;
    if (reply.promiseUs === 0 || beat.generation !== this.#generation) return;
    this.#holdPromise(instance, reply.promiseUs / 1000, beat);
  }

  /** Whether this connection is the one to judge by; a partner's newer one replaces its older. */
  #judges(connection: Connection): boolean {
    if (this.#judged === connection) return true;
    const replaces =
      this.#judged === null || (this.#partner !== null && connection.id > this.#judged.id);
    if (!replaces) return this.#partner !== null;
    this.#judged = connection;
    this.judge.connectionOpened('heartbeat', monotonicMs());
    return true;
  }

  #holdPromise(instance: Instance, promiseMs: number, beat: Beat): void {
    const { margin } = this.#options.tuning;
    // The length alone is converted: as a number of ms since boot it would lose nanoseconds.
    const lengthMs = Math.max(0, heldUntilMs(0, promiseMs, margin));
    const untilNs = beat.sentAtNs + BigInt(Math.floor(lengthMs * NS_PER_MS));
    if (!this.#options.words.raiseHeld(untilNs)) return;
    // Each report wakes the main thread: half a promise is early enough for the next.
    const halfNs = BigInt(Math.floor(lengthMs / 2)) * BigInt(NS_PER_MS);
    if (this.#toldUntilNs > monotonicNs() + halfNs) return;
    this.#toldUntilNs = untilNs;
    const sentAtMs = Number(beat.sentAtNs) / NS_PER_MS;
    this.#options.report({ kind: 'promised', instance, promiseMs, sentAtMs });
  }
}

/**
 * Starts listening and beating.
 * @throws {RomulusError} ERR_TRANSPORT_ADDRESS_IN_USE, ERR_TRANSPORT_LISTEN.
 */
export async function startPrimaryHeart(options: PrimaryHeartOptions): Promise<PrimaryHeart> {
  const server = createServer();
  const { host, port } = options.endpoint;
  await new Promise<void>((resolve, reject) => {
    const fail = (error: NodeJS.ErrnoException): void => {
      reject(listenError(error, options.endpoint));
    };
    server.once('error', fail);
    server.listen(port, host, () => {
      server.off('error', fail);
      // Accepting may fail for want of descriptors; the backup dials again.
      server.on('error', () => {});
      resolve();
    });
  });
  return new PrimaryHeart(server, options);
}

function listenError(error: NodeJS.ErrnoException, { host, port }: Endpoint): RomulusError {
  const inUse = error.code === 'EADDRINUSE';
  return new RomulusError(
    inUse ? 'ERR_TRANSPORT_ADDRESS_IN_USE' : 'ERR_TRANSPORT_LISTEN',
    `cannot listen for heartbeats on ${host}:${port}: ${inUse ? 'it is in use' : error.message}`,
    {
      remedy: inUse
        ? 'Choose another port with --heartbeat-listen, or stop what listens there.'
        : 'Check that the address belongs to this host and that the port may be used.',
      cause: error,
      details: { host, port, reason: error.code },
    },
  );
}
