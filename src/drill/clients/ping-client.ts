/** `ping` against the guest: what an ordinary person looks at to see whether a machine is there. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { Histogram } from '../../base/histogram.ts';
import { nowMs } from '../../engine/clock.ts';
import { AnswerRecord } from './answer-record.ts';

/** Time between echo requests. */
const PING_PERIOD_S = 0.02;
/** It ends by itself after that, whoever forgot it. */
const DEADLINE_S = 3600;
const ANSWER = /icmp_seq=(\d+) .*time=([\d.]+) ms/;

/** What came of it. */
export interface PingOutcome {
  readonly answered: number;
  readonly rttMs: { readonly p50: number; readonly p99: number };
  /** From the strike on. */
  readonly gapMs: number;
}

/** A ping that runs until it is ended. */
export class PingClient {
  readonly #process: ChildProcess;
  readonly #record = new AnswerRecord();
  readonly #rttMs = new Histogram();

  constructor(address: string) {
    const args = ['-n', '-i', String(PING_PERIOD_S), '-w', String(DEADLINE_S), address];
    this.#process = spawn('ping', args, { stdio: ['ignore', 'pipe', 'ignore'] });
    // A ping that cannot be started answers nothing, which the outcome says.
    this.#process.on('error', () => undefined);
    const { stdout } = this.#process;
    if (stdout !== null)
      createInterface({ input: stdout }).on('line', (line) => this.#handle(line));
  }

  finish(fromMs: number, untilMs: number): PingOutcome {
    this.#process.kill('SIGKILL');
    const { p50, p99 } = this.#rttMs.summary();
    return {
      answered: this.#record.count,
      rttMs: { p50, p99 },
      gapMs: this.#record.longestGapMs(fromMs, untilMs),
    };
  }

  #handle(line: string): void {
    const roundTripMs = ANSWER.exec(line)?.[2];
    if (roundTripMs === undefined) return;
    this.#record.note(nowMs());
    this.#rttMs.record(Number(roundTripMs));
  }
}
