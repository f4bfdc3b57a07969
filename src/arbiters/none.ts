/**
 * No arbiter: the word is this process's own, and a change of it has no competitor.
 *
 * That keeps no second copy from running. Who may act when the two sides lose sight of each other
 * is then decided beforehand, by `--on-silence`, in the state machines (core/register.ts,
 * OnSilence); this word only gives them the same book-keeping as with an arbiter.
 */
import { assert } from '../base/assert.ts';
import { type RegisterWord, sameWord } from '../core/register.ts';
import type { Arbiter, CompareAndSetResult } from './arbiter.ts';

/** A word that nobody else sees. */
export class NoArbiter implements Arbiter {
  readonly name = 'none';
  #word: RegisterWord | null = null;

  async read(): Promise<RegisterWord | null> {
    return await Promise.resolve(this.#word);
  }

  async compareAndSet(
    expected: RegisterWord | null,
    next: RegisterWord,
  ): Promise<CompareAndSetResult> {
    assert(
      next.generation === (expected?.generation ?? 0) + 1,
      'every change of the word adds one to the generation',
    );
    const won = sameWord(this.#word, expected);
    if (won) this.#word = next;
    return await Promise.resolve({ won, word: this.#word });
  }

  async close(): Promise<void> {
    await Promise.resolve();
  }
}
