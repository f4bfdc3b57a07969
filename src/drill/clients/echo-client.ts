/**
 * One connection for the whole drill to the guest's echo server (`test-guest/services/echo.c`). Numbers
 * go out at a steady pace, whether or not answers come; each answer must carry the next number, and as
 * many answered before as that number says. A machine that forgot, repeated or invented something, or a
 * connection that broke, shows.
 */
import { Histogram } from '../../base/histogram.ts';
import { nowMs } from '../../engine/clock.ts';
import { AnswerRecord } from './answer-record.ts';
import { type Target, TcpStreams } from './tcp-streams.ts';

/** Time between numbers. */
export const ECHO_PERIOD_MS = 10;
/** Numbers on the way at most; beyond it the client waits. */
const UNANSWERED_MAX = 4096;
const NUMBER_BYTES = 8;
const ANSWER_BYTES = 2 * NUMBER_BYTES;

/** How the connection fared. */
export interface EchoOutcome {
  readonly sent: number;
  readonly answered: number;
  /** What was wrong with the connection or an answer; null when nothing was. */
  readonly complaint: string | null;
  readonly rttMs: { readonly p50: number; readonly p99: number };
  /** From the strike on. */
  readonly gapMs: number;
}

/** The client; it begins at once. */
export class EchoClient {
  readonly #streams: TcpStreams;
  readonly #stream: { write(data: Uint8Array): void };
  readonly #timer: NodeJS.Timeout;
  readonly #record = new AnswerRecord();
  readonly #rttMs = new Histogram();
  /** When each number went out, by its number modulo the size. */
  readonly #sentAtMs = new Float64Array(UNANSWERED_MAX);
  #sent = 0;
  #rest: Buffer = Buffer.alloc(0);
  #complaint: string | null = null;

  constructor(target: Target) {
    this.#streams = new TcpStreams(target);
    this.#stream = this.#streams.openStream({
      onData: (data) => this.#handleData(data),
      onClose: () => this.#complain('the connection broke'),
    });
    this.#timer = setInterval(() => this.#send(), ECHO_PERIOD_MS);
  }

  get answered(): number {
    return this.#record.count;
  }

  /** Answers since an instant, milliseconds of CLOCK_MONOTONIC. */
  answeredSince(fromMs: number): number {
    return this.#record.countSince(fromMs);
  }

  /** Sends no more. */
  stop(): void {
    clearInterval(this.#timer);
  }

  get allAnswered(): boolean {
    return this.answered === this.#sent;
  }

  /** Hangs up and says how it went; `fromMs` is when the strike fell. */
  finish(fromMs: number, untilMs: number): EchoOutcome {
    this.stop();
    this.#streams.close();
    if (this.#record.overflowed) this.#complain('more was answered than could be recorded');
    const { p50, p99 } = this.#rttMs.summary();
    return {
      sent: this.#sent,
      answered: this.answered,
      complaint: this.#complaint,
      rttMs: { p50, p99 },
      gapMs: this.#record.longestGapMs(fromMs, untilMs),
    };
  }

  #send(): void {
    if (this.#complaint !== null || this.#sent - this.answered >= UNANSWERED_MAX) return;
    const number = Buffer.alloc(NUMBER_BYTES);
    number.writeBigUInt64BE(BigInt(this.#sent));
    this.#sentAtMs[this.#sent % UNANSWERED_MAX] = nowMs();
    this.#sent += 1;
    this.#stream.write(number);
  }

  #handleData(data: Buffer): void {
    const atMs = nowMs();
    this.#rest = this.#rest.byteLength === 0 ? data : Buffer.concat([this.#rest, data]);
    while (this.#rest.byteLength >= ANSWER_BYTES) {
      const number = this.#rest.readBigUInt64BE(0);
      const answeredBefore = this.#rest.readBigUInt64BE(NUMBER_BYTES);
      const expected = BigInt(this.answered);
      if (number !== expected || answeredBefore !== expected)
        this.#complain(`answer ${expected} was ${number}, after ${answeredBefore} others`);
      this.#rttMs.record(atMs - (this.#sentAtMs[this.answered % UNANSWERED_MAX] ?? atMs));
      this.#record.note(atMs);
      this.#rest = this.#rest.subarray(ANSWER_BYTES);
    }
  }

  #complain(text: string): void {
    this.#complaint ??= text;
  }
}
