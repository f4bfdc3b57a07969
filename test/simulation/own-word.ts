/**
 * What a node without an arbiter has: its own word in its own state directory. It outlives the
 * engine and nobody else changes it, so a change from it, or from a newer word that the peer told
 * of, wins (src/arbiters/none.ts).
 */
import type { RegisterAnswer, RegisterRequest } from '../../src/core/register-client.ts';
import { type RegisterWord, sameWord } from '../../src/core/register.ts';
import type { World } from './world.ts';

export class OwnWord {
  #word: RegisterWord | null = null;
  readonly #world: World;

  constructor(world: World) {
    this.#world = world;
  }

  ask(request: RegisterRequest, answer: (answer: RegisterAnswer) => void): void {
    const { requestId } = request;
    const read = request.kind === 'readRegister';
    const won = !read && this.#isFrom(request.expected);
    if (!read && won) this.#word = request.next;
    const word = this.#word;
    this.#world.after(0.1, () =>
      answer(
        read
          ? { kind: 'registerAnswer', requestId, outcome: 'read', word }
          : { kind: 'registerAnswer', requestId, outcome: 'changed', won, word },
      ),
    );
  }

  #isFrom(expected: RegisterWord | null): boolean {
    const isNewer = (expected?.generation ?? 0) > (this.#word?.generation ?? 0);
    return isNewer || sameWord(expected, this.#word);
  }
}
