/**
 * The backup's side of the heartbeats: watches whoever welcomed us, one primary at a time, and keeps
 * the word of what was promised across them: a promise made to the last one still stands.
 */
import type { Logger } from 'pino';
import { toRomulusError } from '../base/errors.ts';
import { type Generation, NO_GENERATION } from '../base/units.ts';
import type { Instance } from '../core/register.ts';
import type { Verdict } from '../core/verdict.ts';
import { type Endpoint, type Heartbeat, startHeartbeat } from '../signals/heartbeat.ts';
import { PromiseWords } from '../signals/promise-words.ts';
import type { NodeConfig } from './config.ts';

/** Rest before heartbeats that ended, or could not be begun, are begun again. */
const AGAIN_MS = 500;

export interface PrimaryWatchOptions {
  readonly config: NodeConfig;
  readonly log: Logger;
  /** The primary's state changed. */
  readonly onVerdict: (verdict: Verdict) => void;
}

export class PrimaryWatch {
  /** What was promised until when; shared with the heartbeat thread. */
  readonly words = new PromiseWords();
  readonly #options: PrimaryWatchOptions;
  #heartbeat: Heartbeat | null = null;
  #watched: Endpoint | null = null;
  /** Settles when no start or stop of heartbeats is under way; never rejects. */
  #watching: Promise<void> = Promise.resolve();
  /** In whose name promises are made. */
  #promiser: Instance | null = null;
  #generation: Generation = NO_GENERATION;
  #link: { state: 'open' | 'closed'; text: string } = { state: 'closed', text: 'not made yet' };
  #closed = false;
  #againTimer: NodeJS.Timeout | undefined;

  constructor(options: PrimaryWatchOptions) {
    this.#options = options;
  }

  /**
   * Watches the primary behind this endpoint. One start at a time: a thread takes longer to come
   * up than a link to break and be welcomed again.
   */
  watch(endpoint: Endpoint): void {
    if (this.#watched?.host === endpoint.host && this.#watched.port === endpoint.port) return;
    this.#watched = endpoint;
    this.#watching = this.#watching
      .then(() => this.#start(endpoint))
      .catch((error: unknown) => {
        this.#options.log.error({ error: toRomulusError(error).toJSON() }, 'no heartbeats');
        this.#beginAgain(endpoint);
      });
  }

  /** Promises are made in this instance's name from now on; null: none are. */
  promiseAs(instance: Instance | null): void {
    this.#promiser = instance;
    this.#heartbeat?.setInstance(instance);
  }

  setGeneration(generation: Generation): void {
    if (generation === this.#generation) return;
    this.#generation = generation;
    this.#heartbeat?.setGeneration(generation);
  }

  /** The bulk link was made, ended, or could not be made: evidence about the primary. */
  noteLink(state: 'open' | 'closed', text: string): void {
    this.#link = { state, text };
    this.#heartbeat?.noteLink(state, text);
  }

  /** Ends the heartbeats. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#againTimer);
    await this.#watching;
    await this.#heartbeat?.stop();
    this.#heartbeat = null;
  }

  /** Without heartbeats nobody would notice the primary's death. */
  #beginAgain(endpoint: Endpoint): void {
    this.#againTimer = setTimeout(() => {
      if (this.#closed || this.#watched !== endpoint) return;
      this.#watched = null;
      this.watch(endpoint);
    }, AGAIN_MS);
  }

  async #start(endpoint: Endpoint): Promise<void> {
    const { config, log, onVerdict } = this.#options;
    const old = this.#heartbeat;
    this.#heartbeat = null;
    await old?.stop();
    if (this.#closed || this.#watched !== endpoint) return;
    const heartbeat = await startHeartbeat({
      role: 'backup',
      endpoint,
      generation: this.#generation,
      instance: this.#promiser,
      words: this.words,
      tuning: { intervalMs: config.heartbeatMs, promiseMs: config.promiseMs },
      onVerdict,
      onSignal: (signal) => log.debug({ signal: signal.source }, signal.text),
      onFailed: (error) => {
        log.fatal({ error: error.toJSON() }, 'heartbeats ended; they are begun again');
        this.#heartbeat = null;
        this.#beginAgain(endpoint);
      },
    });
    this.#heartbeat = heartbeat;
    heartbeat.setInstance(this.#promiser);
    heartbeat.setGeneration(this.#generation);
    // It welcomed us, so it lived. Without one sign of life nobody is ever missed, and a primary may
    // well have died while this thread came up.
    heartbeat.noteLinkHeard();
    heartbeat.noteLink(this.#link.state, this.#link.text);
  }
}
