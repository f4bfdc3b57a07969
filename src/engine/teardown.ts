/**
 * What a role has made, undone in the opposite order. Every step is taken, whatever became of the one
 * before, and waited for only so long: a machine that does not answer must neither keep a thread of
 * ours alive nor a user who has said stop.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { RomulusError, toRomulusError } from '../base/errors.ts';

/** How long one step may take, milliseconds: longer than any wait for QEMU that it consists of. */
export const TEARDOWN_STEP_MS = 30_000;

interface Step {
  readonly what: string;
  readonly undo: () => unknown;
}

/** Steps that are still to be taken. */
export class Teardown {
  readonly #log: Pick<Logger, 'error'>;
  readonly #stepMs: number;
  readonly #steps: Step[] = [];

  constructor(log: Pick<Logger, 'error'>, stepMs: number = TEARDOWN_STEP_MS) {
    this.#log = log;
    this.#stepMs = stepMs;
  }

  /** Adds what is to be undone; `what` completes "cannot undo: ...". */
  push(what: string, undo: () => unknown): void {
    this.#steps.push({ what, undo });
  }

  /** Takes all steps. Gives the first failure; the others are in the log. */
  async run(): Promise<RomulusError | null> {
    let first: RomulusError | null = null;
    for (const step of this.#steps.splice(0).toReversed()) {
      const failure = await this.#take(step);
      if (failure === null) continue;
      this.#log.error({ error: failure.toJSON() }, `cannot undo: ${step.what}`);
      first ??= failure;
    }
    return first;
  }

  async #take({ what, undo }: Step): Promise<RomulusError | null> {
    const ended = new AbortController();
    try {
      const late = sleep(this.#stepMs, 'late', { ref: false, signal: ended.signal });
      // Settled by the abort below; nobody waits for it then.
      late.catch(() => undefined);
      if ((await Promise.race([Promise.resolve(undo()), late])) !== 'late') return null;
      return new RomulusError('ERR_TIMEOUT_TEARDOWN', `${what} took over ${this.#stepMs} ms`, {
        remedy: 'See the log above for what does not answer; end this process if it stays.',
      });
    } catch (error) {
      return toRomulusError(error);
    } finally {
      ended.abort();
    }
  }
}
