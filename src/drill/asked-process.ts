/** The drill's end of a process that answers over IPC: typed questions, each with a bounded wait. */
import { fileURLToPath } from 'node:url';
import { fromErrorJson, RomulusError } from '../base/errors.ts';
import type { Numbered, Response } from './answer-questions.ts';
import type { Child, Stage } from './children.ts';

/** Longest wait for an answer; the record of a long drill is tens of megabytes. */
const ANSWER_WAIT_MS = 90_000;

/** How such a process is started. */
export interface AskedProcessOptions {
  readonly name: string;
  /** The built program, below `dist/drill`. */
  readonly program: string;
  /** What it is run by, such as `ip netns exec NAME`. */
  readonly launcher?: readonly string[];
}

/** A running process that answers. `Answers` has one key for each kind of question. */
export class AskedProcess<Question extends { readonly ask: keyof Answers & string }, Answers> {
  readonly child: Child;
  readonly #waiting = new Map<number, (response: Response) => void>();
  #nextId = 1;

  constructor(stage: Stage, options: AskedProcessOptions) {
    const program = new URL(`../../dist/drill/${options.program}`, import.meta.url);
    this.child = stage.start({
      name: options.name,
      launcher: options.launcher ?? [],
      command: process.execPath,
      args: [fileURLToPath(program)],
      output: 'ipc',
    });
    this.child.process.on('message', (message) => {
      const response = message as Response;
      this.#waiting.get(response.id)?.(response);
      this.#waiting.delete(response.id);
    });
  }

  /**
   * Asks one thing.
   * @throws {RomulusError} what was answered with, ERR_TIMEOUT_DRILL, ERR_HOST_NODE_GONE
   */
  async ask<Asked extends Question>(question: Asked): Promise<Answers[Asked['ask']]> {
    const id = this.#nextId;
    this.#nextId += 1;
    const answered = new Promise<Response>((resolve) => this.#waiting.set(id, resolve));
    const request: Numbered<Question> = { ...question, id };
    this.child.process.send(request);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(this.#silent(question.ask)), ANSWER_WAIT_MS);
    });
    const gone = this.child.gone.then((how) => Promise.reject(this.#gone(question.ask, how)));
    try {
      const response = await Promise.race([answered, late, gone]);
      if (!response.ok) throw fromErrorJson(response.error);
      return response.answer as Answers[Asked['ask']];
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(id);
      gone.catch(() => undefined);
    }
  }

  #silent(ask: string): RomulusError {
    return new RomulusError('ERR_TIMEOUT_DRILL', `${this.child.name} did not answer "${ask}"`, {
      remedy: `Read ${this.child.logFile}.`,
    });
  }

  #gone(ask: string, how: string): RomulusError {
    return new RomulusError(
      'ERR_HOST_NODE_GONE',
      `${this.child.name} ended (${how}) before "${ask}"`,
      { remedy: `Read ${this.child.logFile}.` },
    );
  }
}
