/**
 * Asks the arbiter until an answer is certain.
 *
 * One goal at a time: read the word, or change it. An answer may be late, lost, or lost after the
 * change was made. So a change that was once asked is never taken back; when no answer comes the
 * word is read again: it says what we wanted (we won), or what it said before (we ask again, and a
 * late first request can then do no harm, since both ask for the same), or something else (we lost).
 *
 * Asking goes on for as long as the goal stands, with a growing pause between; what must wait
 * meanwhile is the caller's business (held output stays held, no role changes). Answers that name
 * an older generation than one already seen come from a stale replica and count as none.
 *
 * Pure: emits requests as effects, is told of answers and of time.
 */
import { assert, unreachable } from '../base/assert.ts';
import { describeWord, isTransition, type RegisterWord, sameWord } from './register.ts';

/** Questions to the arbiter. Both machines ask the same way. */
export type RegisterRequest =
  | { readonly kind: 'readRegister'; readonly requestId: number }
  | {
      readonly kind: 'changeRegister';
      readonly requestId: number;
      readonly expected: RegisterWord | null;
      readonly next: RegisterWord;
    };

/** The arbiter's answer, or that none came. Both machines are told the same way. */
export type RegisterAnswer = {
  readonly kind: 'registerAnswer';
  readonly requestId: number;
} & (
  | { readonly outcome: 'read'; readonly word: RegisterWord | null }
  | { readonly outcome: 'changed'; readonly won: boolean; readonly word: RegisterWord | null }
  | { readonly outcome: 'unreachable'; readonly why: string }
);

/** What became of the goal, once that is certain; or that the arbiter is out of reach for now. */
export type RegisterOutcome =
  | { readonly kind: 'read'; readonly word: RegisterWord | null }
  | { readonly kind: 'won'; readonly word: RegisterWord }
  | { readonly kind: 'lost'; readonly word: RegisterWord | null }
  | { readonly kind: 'outOfReach'; readonly why: string };

type Goal =
  | { readonly kind: 'read' }
  | {
      readonly kind: 'change';
      readonly expected: RegisterWord | null;
      readonly next: RegisterWord;
    };

/** The pause between attempts stops doubling at this many times its first value. */
const RETRY_FACTOR_MAX = 16;

export class RegisterClient {
  readonly #answerMs: number;
  readonly #retryMs: number;
  #goal: Goal | null = null;
  /** The one request whose answer counts, or null while pausing between two. */
  #pendingId: number | null = null;
  #nextId = 1;
  #deadlineMs: number | null = null;
  #retryFactor = 1;
  #seenGeneration = 0;

  constructor(options: { readonly answerMs: number; readonly retryMs: number }) {
    assert(options.answerMs > 0 && options.retryMs > 0, 'waits for the register are bounded');
    this.#answerMs = options.answerMs;
    this.#retryMs = options.retryMs;
  }

  get isBusy(): boolean {
    return this.#goal !== null;
  }

  /** The change asked for and not yet settled: the word may say either. */
  get unsettled(): { readonly expected: RegisterWord | null; readonly next: RegisterWord } | null {
    return this.#goal?.kind === 'change' ? this.#goal : null;
  }

  /** When `tick` has something to do, in milliseconds, or null. */
  get deadlineMs(): number | null {
    return this.#deadlineMs;
  }

  read(nowMs: number): RegisterRequest[] {
    assert(this.#goal === null, 'the register is asked one thing at a time');
    this.#begin({ kind: 'read' });
    return [this.#askRead(nowMs)];
  }

  change(expected: RegisterWord | null, next: RegisterWord, nowMs: number): RegisterRequest[] {
    assert(this.#goal === null, 'the register is asked one thing at a time');
    assert(
      isTransition(expected, next),
      `no transition leads from ${describeWord(expected)} to ${describeWord(next)}`,
    );
    const goal: Goal = { kind: 'change', expected, next };
    this.#begin(goal);
    return [this.#askChange(goal, nowMs)];
  }

  /** Gives up a goal of reading, which has no consequence. A change cannot be given up. */
  cancelRead(): void {
    assert(this.#goal === null || this.#goal.kind === 'read', 'a change once asked stays asked');
    this.#settle();
  }

  /** Takes an answer; answers to any but the latest request are ignored. */
  answer(
    answer: RegisterAnswer,
    nowMs: number,
  ): { readonly outcome: RegisterOutcome | null; readonly requests: RegisterRequest[] } {
    const goal = this.#goal;
    if (goal === null || answer.requestId !== this.#pendingId) {
      return { outcome: null, requests: [] };
    }
    if (answer.outcome === 'unreachable') return this.#pause(answer.why, nowMs);
    if (answer.outcome === 'changed' && answer.won && goal.kind === 'change') {
      this.#seenGeneration = goal.next.generation;
      this.#settle();
      return { outcome: { kind: 'won', word: goal.next }, requests: [] };
    }
    const generation = answer.word?.generation ?? 0;
    if (generation < this.#seenGeneration) {
      return this.#pause(
        `the arbiter answered generation ${generation} after ${this.#seenGeneration}`,
        nowMs,
      );
    }
    this.#seenGeneration = generation;
    switch (goal.kind) {
      case 'read':
        this.#settle();
        return { outcome: { kind: 'read', word: answer.word }, requests: [] };
      case 'change':
        if (sameWord(answer.word, goal.next)) {
          this.#settle();
          return { outcome: { kind: 'won', word: goal.next }, requests: [] };
        }
        if (sameWord(answer.word, goal.expected)) {
          if (answer.outcome === 'changed') {
            return this.#pause('the arbiter refused a change from the word it holds', nowMs);
          }
          return { outcome: null, requests: [this.#askChange(goal, nowMs)] };
        }
        this.#settle();
        return { outcome: { kind: 'lost', word: answer.word }, requests: [] };
      default:
        return unreachable(goal, 'goal');
    }
  }

  /** Notices answers that did not come and asks again when it is time. */
  tick(nowMs: number): {
    readonly outcome: RegisterOutcome | null;
    readonly requests: RegisterRequest[];
  } {
    if (this.#goal === null || this.#deadlineMs === null || nowMs < this.#deadlineMs) {
      return { outcome: null, requests: [] };
    }
    if (this.#pendingId !== null) {
      return this.#pause(`the arbiter did not answer within ${this.#answerMs} ms`, nowMs);
    }
    return { outcome: null, requests: [this.#askRead(nowMs)] };
  }

  #begin(goal: Goal): void {
    this.#goal = goal;
    this.#retryFactor = 1;
  }

  #settle(): void {
    this.#goal = null;
    this.#pendingId = null;
    this.#deadlineMs = null;
  }

  #pause(
    why: string,
    nowMs: number,
  ): { readonly outcome: RegisterOutcome; readonly requests: RegisterRequest[] } {
    this.#pendingId = null;
    this.#deadlineMs = nowMs + this.#retryMs * this.#retryFactor;
    this.#retryFactor = Math.min(this.#retryFactor * 2, RETRY_FACTOR_MAX);
    return { outcome: { kind: 'outOfReach', why }, requests: [] };
  }

  #askRead(nowMs: number): RegisterRequest {
    return { kind: 'readRegister', requestId: this.#ask(nowMs) };
  }

  #askChange(goal: Goal & { kind: 'change' }, nowMs: number): RegisterRequest {
    const { expected, next } = goal;
    return { kind: 'changeRegister', requestId: this.#ask(nowMs), expected, next };
  }

  #ask(nowMs: number): number {
    const requestId = this.#nextId;
    this.#nextId += 1;
    this.#pendingId = requestId;
    this.#deadlineMs = nowMs + this.#answerMs;
    return requestId;
  }
}
