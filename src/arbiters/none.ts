/**
 * No arbiter: the word is this node's own, in its state directory, and outlives its engine.
 *
 * That keeps no second copy from running. Who may act when the two sides lose sight of each other
 * is then decided beforehand, by `--on-silence`, in the state machines (core/register.ts,
 * OnSilence); this word only gives them the same book-keeping as with an arbiter. It must outlive
 * the engine all the same: a primary that once paired, started again, may not forget it.
 *
 * A node hears of newer words from its peer. A change from such a word wins, since nobody competes
 * for it here; a change from an older one, or from another of the same generation, loses.
 */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import { assert } from '../base/assert.ts';
import { isRegisterWord, type RegisterWord, sameWord } from '../core/register.ts';
import type { Arbiter, CompareAndSetResult } from './arbiter.ts';
import { corrupt, REGISTER_FILE_BYTES_MAX } from './register-file.ts';

/** A word that nobody else sees. */
export class NoArbiter implements Arbiter {
  readonly name = 'none';
  readonly #path: string | null;
  #word: RegisterWord | null = null;
  #isLoaded: boolean;

  /** @param path where the word is kept; without one it ends with the process. */
  constructor(path: string | null = null) {
    this.#path = path;
    this.#isLoaded = path === null;
  }

  async read(): Promise<RegisterWord | null> {
    return await Promise.resolve(this.#current());
  }

  prepare(): void {
    // One small file of our own: there is nothing to be gained.
  }

  async compareAndSet(
    expected: RegisterWord | null,
    next: RegisterWord,
  ): Promise<CompareAndSetResult> {
    assert(
      next.generation === (expected?.generation ?? 0) + 1,
      'every change of the word adds one to the generation',
    );
    const current = this.#current();
    const isNewer = (expected?.generation ?? 0) > (current?.generation ?? 0);
    const won = isNewer || sameWord(current, expected);
    if (won) {
      this.#save(next);
      this.#word = next;
    }
    return await Promise.resolve({ won, word: this.#word });
  }

  async close(): Promise<void> {
    await Promise.resolve();
  }

  #current(): RegisterWord | null {
    if (!this.#isLoaded && this.#path !== null) {
      this.#word = load(this.#path);
      this.#isLoaded = true;
    }
    return this.#word;
  }

  #save(word: RegisterWord): void {
    if (this.#path === null) return;
    // A power cut leaves the old word or the new one, never half of one.
    const temporary = `${this.#path}.new`;
    const file = openSync(temporary, 'w', 0o640);
    try {
      writeSync(file, `${JSON.stringify(word)}\n`);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, this.#path);
  }
}

function load(path: string): RegisterWord | null {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
  if (text.length > REGISTER_FILE_BYTES_MAX) throw corrupt(path, 'it is too long for a word');
  let word: unknown;
  try {
    word = JSON.parse(text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw corrupt(path, 'it is not JSON');
  }
  if (!isRegisterWord(word)) throw corrupt(path, 'it is not a word of a register');
  return { generation: word.generation, runner: word.runner, partner: word.partner };
}
