/**
 * The test guest's control line (its second serial port, `test-guest/programs/control`): one command
 * at a time, answered by lines and then `= ok` or `= bad WHY`.
 */
import { RomulusError } from '../../base/errors.ts';
import type { SerialLine } from './serial-line.ts';

/** Longest wait for an answer; a check of all memory takes about a second. */
export const CONTROL_WAIT_MS = 30_000;
const READY_WAIT_MS = 60_000;
const PING_MS = 1000;

/** Asks the test guest. */
export class ControlLine {
  readonly #line: SerialLine;
  #busy: Promise<unknown> = Promise.resolve();

  constructor(line: SerialLine) {
    this.#line = line;
  }

  /**
   * Waits until the guest answers; a guest that just starts reads nothing yet.
   * @throws {RomulusError} ERR_TIMEOUT_SERIAL
   */
  async ready(): Promise<void> {
    const deadlineMs = performance.now() + READY_WAIT_MS;
    for (;;) {
      try {
        await this.command('ping', { withinMs: PING_MS });
        return;
      } catch (error) {
        if (performance.now() > deadlineMs) throw error;
        if (!this.#line.connected) await new Promise((resolve) => setTimeout(resolve, PING_MS));
      }
    }
  }

  /**
   * Gives a command and returns the lines of its answer.
   * @throws {RomulusError} ERR_GUEST_COMMAND when the guest refuses, ERR_TIMEOUT_SERIAL.
   */
  command(text: string, options: { readonly withinMs?: number } = {}): Promise<string[]> {
    const answer = this.#busy.then(() => this.#ask(text, options.withinMs ?? CONTROL_WAIT_MS));
    this.#busy = answer.catch(() => undefined);
    return answer;
  }

  async #ask(text: string, withinMs: number): Promise<string[]> {
    const { lines } = this.#line;
    const after = lines.length;
    // An empty line first: half a command that a predecessor left is ended by it.
    this.#line.write(`\n${text}\n`);
    const end = await this.#line.waitFor(
      `an answer to ${text}`,
      (line) => line === '= ok' || line.startsWith('= bad'),
      { withinMs, after },
    );
    if (end.text !== '= ok')
      throw new RomulusError(
        'ERR_GUEST_COMMAND',
        `the guest answered ${text}: ${end.text.slice(2)}`,
        {
          remedy: 'See test-guest/README.md for its commands.',
          details: { answer: lines.slice(after).map((line) => line.text) },
        },
      );
    return lines.slice(after, lines.indexOf(end, after)).map((line) => line.text);
  }
}
