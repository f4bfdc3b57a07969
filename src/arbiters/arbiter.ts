/**
 * The arbiter: keeps the one word that says who may run (core/register.ts), outside both nodes,
 * and changes it only from exactly the word the caller expects.
 *
 * An implementation must make `compareAndSet` atomic against every other member, wherever it
 * runs, and must answer or fail within `ARBITER_TIMEOUT_MS`. A failure leaves open whether the
 * change was made: the caller reads the word again (core/register-client.ts).
 */
import type { RegisterWord } from '../core/register.ts';

/** Longest wait for one answer, milliseconds, unless told otherwise. */
export const ARBITER_TIMEOUT_MS = 2000;

/** What became of an attempt to change the word. */
export interface CompareAndSetResult {
  /** True when this very call made the change. */
  readonly won: boolean;
  /** The word as it stands: the caller's when it won. */
  readonly word: RegisterWord | null;
}

export interface Arbiter {
  /** As it was configured: `file:/path`, `none`. */
  readonly name: string;
  /**
   * The word as it stands, null when there is none yet.
   * @throws {RomulusError} ERR_ARBITER_UNREACHABLE within a bounded time, ERR_ARBITER_PERMISSION,
   *   ERR_ARBITER_CORRUPT when what is there is not a word.
   */
  read(): Promise<RegisterWord | null>;
  /**
   * A change to this word will most likely be asked for in a moment: does beforehand what nobody
   * else can see. Never fails; without it a change only takes longer.
   */
  prepare(next: RegisterWord): void;
  /**
   * Changes the word from `expected` to `next`, whose generation must be one higher.
   * @throws {RomulusError} as `read`; after ERR_ARBITER_UNREACHABLE the change may have been made.
   */
  compareAndSet(expected: RegisterWord | null, next: RegisterWord): Promise<CompareAndSetResult>;
  /** Lets go of the arbiter; the word stays. Idempotent. */
  close(): Promise<void>;
}
