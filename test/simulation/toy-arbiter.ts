/**
 * The one word, behind a network: requests may be late (even after their sender died), lost, or
 * carried out without the answer ever arriving. The word itself changes one request at a time.
 */
import type { RegisterAnswer, RegisterRequest } from '../../src/core/register-client.ts';
import {
  describeWord,
  isTransition,
  type RegisterWord,
  sameWord,
} from '../../src/core/register.ts';
import type { Rules } from './rules.ts';
import { Violation, type World } from './world.ts';

export class ToyArbiter {
  word: RegisterWord | null = null;
  changes = 0;
  /** Nodes that cannot reach the arbiter now. */
  readonly cutOff = new Set<string>();
  /** Longest way of a request or an answer, in milliseconds. */
  delayMsMax = 2;
  lossProbability = 0;
  readonly #world: World;
  readonly #rules: Rules;

  constructor(world: World, rules: Rules) {
    this.#world = world;
    this.#rules = rules;
  }

  ask(node: string, request: RegisterRequest, answer: (answer: RegisterAnswer) => void): void {
    const world = this.#world;
    if (this.cutOff.has(node) && world.random.chance(0.7)) {
      const { requestId } = request;
      world.after(world.between(0.2, 5), () =>
        answer({ kind: 'registerAnswer', requestId, outcome: 'unreachable', why: 'cut off' }),
      );
      return;
    }
    if (this.#isLost(node)) return;
    world.after(this.#wayMs(), () => {
      const reply = this.#carryOut(node, request);
      if (!this.#isLost(node)) world.after(this.#wayMs(), () => answer(reply));
    });
  }

  #isLost(node: string): boolean {
    return this.cutOff.has(node) || this.#world.random.chance(this.lossProbability);
  }

  #wayMs(): number {
    // Mostly quick, seldom as slow as it may be: late requests are where the danger is.
    const { random } = this.#world;
    return random.chance(0.2)
      ? this.#world.between(0.05, this.delayMsMax)
      : this.#world.between(0.05, 0.8);
  }

  #carryOut(node: string, request: RegisterRequest): RegisterAnswer {
    const { requestId } = request;
    if (request.kind === 'readRegister') {
      return { kind: 'registerAnswer', requestId, outcome: 'read', word: this.word };
    }
    const won = !this.#rules.compareAndSet || sameWord(this.word, request.expected);
    if (won) {
      if (this.#rules.compareAndSet && !isTransition(this.word, request.next)) {
        throw new Violation(
          `no rule leads from ${describeWord(this.word)} to ${describeWord(request.next)}`,
        );
      }
      this.#world.trace(
        'reg',
        () => `${describeWord(this.word)} -> ${describeWord(request.next)} by ${node}`,
      );
      this.word = request.next;
      this.changes += 1;
    }
    return { kind: 'registerAnswer', requestId, outcome: 'changed', won, word: this.word };
  }
}
