/** Clients of a machine, on a host of their own: ping, redis-benchmark, a long download. */
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { runHelper } from '../../src/drill/qemu/command.ts';
import { GUEST_ADDRESS } from '../../src/drill/hosts/two-hosts.ts';
import type { RunningGuest } from '../../test/support/qemu/start-guest.ts';
import { percentile } from './result.ts';

/**
 * No multiple of an epoch's length: an epoch that ends early for an answer would put the next regular
 * one just where the next question comes, and half of all questions would meet a machine that stands.
 */
const PING_PERIOD_S = 0.07;
const ANSWER = /time=([\d.]+) ms/;
const REDIS_CLIENTS = 50;
const REWRITE_WAIT_MS = 30_000;
const REWRITE_POLL_MS = 100;
/** Enough to tell how many to ask for. */
const REDIS_TRIAL_REQUESTS = 500;
const REDIS_LINE = /^"SET","([\d.]+)"/m;
const REWRITING = /^aof_rewrite_(?:in_progress|scheduled):1/m;
const BULK_PORT = 5001;
/** The guest's server needs a moment to listen. */
const LISTEN_MS = 1500;

/** Round trips of an idle path. */
export interface PingTimes {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly lost: number;
  /** Answers that came again. */
  readonly twice: number;
}

/** Clients that are run by `launcher`. */
export class NetClients {
  readonly #launcher: readonly string[];
  readonly #machine: RunningGuest;

  constructor(launcher: readonly string[], machine: RunningGuest) {
    this.#launcher = launcher;
    this.#machine = machine;
  }

  /** Pings the guest for so long. */
  async ping(seconds: number): Promise<PingTimes> {
    const count = Math.round(seconds / PING_PERIOD_S);
    const words = [
      '-n',
      '-i',
      String(PING_PERIOD_S),
      '-c',
      String(count),
      '-w',
      String(2 * seconds),
    ];
    const text = await this.#run('ping', [...words, GUEST_ADDRESS]);
    const answers = text.split('\n').filter((line) => ANSWER.test(line));
    const firsts = answers.filter((line) => !line.includes('DUP!'));
    const times = firsts.map((line) => Number(ANSWER.exec(line)?.[1]));
    return {
      p50Ms: percentile(times, 0.5),
      p99Ms: percentile(times, 0.99),
      lost: count - times.length,
      twice: answers.length - firsts.length,
    };
  }

  /** SETs a second that the guest's redis does for 50 clients, over about so long. */
  async redisSetsPerSecond(seconds: number): Promise<number> {
    await this.#shortenRedisFile();
    const trial = await this.#redis(REDIS_TRIAL_REQUESTS);
    return await this.#redis(Math.max(REDIS_TRIAL_REQUESTS, Math.round(trial * seconds)));
  }

  /** Megabytes a second that the guest sends over one connection, for so long. */
  async bulkMbPerSecond(seconds: number): Promise<number> {
    await this.#machine.command(`bulk ${BULK_PORT}`);
    await sleep(LISTEN_MS);
    const script = `exec cat < /dev/tcp/${GUEST_ADDRESS}/${BULK_PORT}`;
    const { command, args } = this.#launched('bash', ['-c', script]);
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    let bytes = 0;
    let firstMs = Number.NaN;
    const gone = new Promise<void>((resolve) => {
      child.once('exit', () => resolve());
      child.once('error', () => resolve());
    });
    child.stdout.on('data', (data: Buffer) => {
      if (Number.isNaN(firstMs)) firstMs = performance.now();
      else bytes += data.byteLength;
    });
    await Promise.race([sleep(seconds * 1000), gone]);
    const lastMs = performance.now();
    child.kill('SIGKILL');
    await gone;
    return bytes / 1e3 / (lastMs - firstMs);
  }

  /** Redis keeps every SET that it was ever told, and would fill a small disk. */
  async #shortenRedisFile(): Promise<void> {
    const ask = (words: readonly string[]): Promise<string> =>
      this.#run('redis-cli', ['-h', GUEST_ADDRESS, ...words]);
    await ask(['bgrewriteaof']);
    const deadlineMs = performance.now() + REWRITE_WAIT_MS;
    while (REWRITING.test(await ask(['info', 'persistence']))) {
      if (performance.now() > deadlineMs)
        throw new Error('redis does not end writing its file anew');
      await sleep(REWRITE_POLL_MS);
    }
  }

  async #redis(requests: number): Promise<number> {
    const text = await this.#run(
      'redis-benchmark',
      `-h ${GUEST_ADDRESS} -t set -c ${REDIS_CLIENTS} -n ${requests} --csv`.split(' '),
    );
    return Number(REDIS_LINE.exec(text)?.[1]);
  }

  #run(program: string, args: readonly string[]): Promise<string> {
    const launched = this.#launched(program, args);
    return runHelper(launched.command, launched.args);
  }

  #launched(program: string, args: readonly string[]): { command: string; args: string[] } {
    const [command = program, ...words] = [...this.#launcher, program, ...args];
    return { command, args: words };
  }
}
