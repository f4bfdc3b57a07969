/**
 * Goal: however an arbiter loses, delays and repeats, what the client settles on is true.
 *
 * The arbiter of the model carries out every request that reaches it, at once or much later (a
 * request outlives the wait for it), and the answer may be lost.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import {
  type RegisterAnswer,
  RegisterClient,
  type RegisterRequest,
} from '../../src/core/register-client.ts';
import {
  pair,
  promote,
  type RegisterWord,
  sameWord,
  solo,
  startAlone,
} from '../../src/core/register.ts';

const ANSWER_MS = 100;
const RETRY_MS = 10;

class Arbiter {
  word: RegisterWord | null;
  readonly history: (RegisterWord | null)[];

  constructor(word: RegisterWord | null) {
    this.word = word;
    this.history = [word];
  }

  carryOut(request: RegisterRequest): RegisterAnswer {
    const { requestId } = request;
    if (request.kind === 'readRegister') {
      return { kind: 'registerAnswer', requestId, outcome: 'read', word: this.word };
    }
    const won = sameWord(this.word, request.expected);
    if (won) this.#set(request.next);
    return { kind: 'registerAnswer', requestId, outcome: 'changed', won, word: this.word };
  }

  rival(next: RegisterWord): void {
    this.#set(next);
  }

  #set(next: RegisterWord): void {
    this.word = next;
    this.history.push(next);
  }
}

type Fate = 'answered' | 'answer lost' | 'refused' | 'lost' | 'carried out late' | 'rival first';
const fates = fc.array(
  fc.constantFrom<Fate>(
    'answered',
    'answer lost',
    'refused',
    'lost',
    'carried out late',
    'rival first',
  ),
  { maxLength: 12 },
);

describe('register client', () => {
  it('says won only if the change was made, lost only if it never can be', () => {
    fc.assert(
      fc.property(fates, (story) => {
        const paired = pair(startAlone('a#1'), 'b#1');
        const wanted = promote(paired);
        const arbiter = new Arbiter(paired);
        const client = new RegisterClient({ answerMs: ANSWER_MS, retryMs: RETRY_MS });
        const late: RegisterRequest[] = [];
        let nowMs = 0;
        let requests = client.change(paired, wanted, nowMs);
        const plan = [...story];
        for (let round = 0; client.isBusy && round < 200; round += 1) {
          const [request] = requests;
          let step: ReturnType<RegisterClient['tick']>;
          if (request === undefined) {
            nowMs = Math.max(nowMs, client.deadlineMs ?? nowMs);
            step = client.tick(nowMs);
          } else {
            const fate = plan.shift() ?? 'answered';
            if (fate === 'rival first' && sameWord(arbiter.word, paired))
              arbiter.rival(solo(paired));
            if (fate === 'carried out late') late.push(request);
            const isCarriedOut =
              fate === 'answered' || fate === 'answer lost' || fate === 'rival first';
            const reply = isCarriedOut ? arbiter.carryOut(request) : null;
            const { requestId } = request;
            nowMs += 1;
            if (fate === 'refused') {
              step = client.answer(
                { kind: 'registerAnswer', requestId, outcome: 'unreachable', why: 'EIO' },
                nowMs,
              );
            } else if (reply === null || fate === 'answer lost') {
              nowMs += ANSWER_MS;
              step = client.tick(nowMs);
            } else {
              step = client.answer(reply, nowMs);
            }
          }
          requests = step.requests;
          if (step.outcome?.kind === 'won') expect(arbiter.history).toContainEqual(wanted);
          if (step.outcome?.kind === 'lost') {
            // Late requests of ours can do no harm any more.
            for (const request of late) arbiter.carryOut(request);
            expect(arbiter.history).not.toContainEqual(wanted);
          }
        }
        expect(client.isBusy).toBe(false);
      }),
    );
  });

  it('takes no notice of answers to what it does not wait for', () => {
    const client = new RegisterClient({ answerMs: ANSWER_MS, retryMs: RETRY_MS });
    const stale: RegisterAnswer = {
      kind: 'registerAnswer',
      requestId: 1,
      outcome: 'read',
      word: startAlone('a#1'),
    };
    expect(client.answer(stale, 0)).toEqual({ outcome: null, requests: [] });
    client.read(1);
    client.tick(1 + ANSWER_MS);
    expect(client.answer(stale, 150).outcome).toBeNull();
    expect(client.isBusy).toBe(true);
  });

  it('counts an answer from a stale replica as none', () => {
    const client = new RegisterClient({ answerMs: ANSWER_MS, retryMs: RETRY_MS });
    const first = startAlone('a#1');
    const second = pair(first, 'b#1');
    client.read(0);
    client.answer({ kind: 'registerAnswer', requestId: 1, outcome: 'read', word: second }, 1);
    client.read(2);
    const { outcome } = client.answer(
      { kind: 'registerAnswer', requestId: 2, outcome: 'read', word: first },
      3,
    );
    expect(outcome).toMatchObject({ kind: 'outOfReach' });
    expect(client.isBusy).toBe(true);
  });

  it('waits longer between attempts, up to a bound', () => {
    const client = new RegisterClient({ answerMs: ANSWER_MS, retryMs: RETRY_MS });
    let requests = client.read(0);
    let nowMs = 0;
    const pausesMs: number[] = [];
    for (let attempt = 0; attempt < 8; attempt += 1) {
      const { requestId } = requests[0] ?? { requestId: -1 };
      client.answer(
        { kind: 'registerAnswer', requestId, outcome: 'unreachable', why: 'EIO' },
        nowMs,
      );
      const untilMs = client.deadlineMs ?? 0;
      pausesMs.push(untilMs - nowMs);
      nowMs = untilMs;
      requests = client.tick(nowMs).requests;
    }
    expect(pausesMs).toEqual([10, 20, 40, 80, 160, 160, 160, 160]);
  });

  it('never takes back a change that was asked for', () => {
    const client = new RegisterClient({ answerMs: ANSWER_MS, retryMs: RETRY_MS });
    client.change(null, startAlone('a#1'), 0);
    expect(() => client.cancelRead()).toThrow(AssertionError);
    expect(() => client.read(1)).toThrow(AssertionError);
  });
});
