/**
 * The test guest's control line (its second serial port, `test-guest/programs/control`): one command
 * at a time behind a number, answered by lines and then `= NUMBER ok` or `= NUMBER bad WHY`.
 */
import { RomulusError } from '../../base/errors.ts';
import type { SerialLine } from './serial-line.ts';

/** Longest wait for an answer; a check of all memory takes about a second. */
export const CONTROL_WAIT_MS = 60_000;
const READY_WAIT_MS = 60_000;
const PING_MS = 1000;

/** Asks the test guest. */
export class ControlLine {
  readonly #line: SerialLine;
  #busy: Promise<unknown> = Promise.resolve();
  #count = 0;
  #answered = false;

  constructor(line: SerialLine) {
    this.#line = line;
  }

  /**
   * Gives a command and returns the lines of its answer; the first waits until the guest listens.
   * @throws {RomulusError} ERR_GUEST_COMMAND when the guest refuses, ERR_TIMEOUT_SERIAL.
   */
  command(text: string, withinMs = CONTROL_WAIT_MS): Promise<string[]> {
    const answer = this.#busy.then(async () => {
      await this.#listens();
      return await this.#ask(text, withinMs);
    });
    this.#busy = answer.catch(() => undefined);
    return answer;
  }

  /** A guest that just starts reads nothing yet, and loses what it was sent. */
  async #listens(): Promise<void> {
    const deadlineMs = performance.now() + READY_WAIT_MS;
    while (!this.#answered)
      try {
        await this.#ask('ping', PING_MS);
        this.#answered = true;
      } catch (error) {
        if (performance.now() > deadlineMs) throw error;
        if (!this.#line.connected) await new Promise((resolve) => setTimeout(resolve, PING_MS));
      }
  }

  async #ask(text: string, withinMs: number): Promise<string[]> {
    const { lines } = this.#line;
    const after = lines.length;
    this.#count += 1;
    const end = `= ${this.#count} `;
    // An empty line first: half a command that was left there is ended by it.
    this.#line.write(`\n${this.#count} ${text}\n`);
    const last = await this.#line.waitFor(`an answer to ${text}`, (line) => line.startsWith(end), {
      withinMs,
      after,
    });
    const answer = lines.slice(after, lines.indexOf(last, after)).map((line) => line.text);
    if (last.text !== `${end}ok`)
      throw new RomulusError(
        'ERR_GUEST_COMMAND',
        `the guest answered ${text}: ${last.text.slice(end.length)}`,
        { remedy: 'See test-guest/README.md for its commands.', details: { answer } },
      );
    return answer.filter((line) => !line.startsWith('= '));
  }
}
