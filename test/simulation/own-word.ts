/**
 * What a node without an arbiter has: its own word in its own state directory. It outlives the
 * engine, nobody else changes it, so every change from a word as new as this one wins.
 */
import type { RegisterAnswer, RegisterRequest } from '../../src/core/register-client.ts';
import type { RegisterWord } from '../../src/core/register.ts';
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
    const won = !read && request.next.generation > (this.#word?.generation ?? 0);
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
}
