/** The drill's end of the world process: typed questions over IPC, each with a bounded wait. */
import { fileURLToPath } from 'node:url';
import { fromErrorJson, RomulusError } from '../base/errors.ts';
import type { Child, Stage } from './children.ts';
import type { WorldAnswers, WorldQuestion, WorldRequest, WorldResponse } from './world-process.ts';

const WORLD_PROCESS_PATH = fileURLToPath(
  new URL('../../dist/drill/world-process.js', import.meta.url),
);
/** Longest wait for an answer; the record of a long drill is tens of megabytes. */
const ANSWER_WAIT_MS = 30_000;

/** A running world. */
export class WorldHandle {
  readonly child: Child;
  readonly #waiting = new Map<number, (response: WorldResponse) => void>();
  #nextId = 1;

  constructor(stage: Stage) {
    this.child = stage.start({
      name: 'world',
      command: process.execPath,
      args: [WORLD_PROCESS_PATH],
      output: 'ipc',
    });
    this.child.process.on('message', (message) => {
      const response = message as WorldResponse;
      this.#waiting.get(response.id)?.(response);
      this.#waiting.delete(response.id);
    });
  }

  /**
   * Asks one thing.
   * @throws {RomulusError} what the world answered with, ERR_TIMEOUT_DRILL, ERR_HOST_NODE_GONE
   */
  async ask<Question extends WorldQuestion>(
    question: Question,
  ): Promise<WorldAnswers[Question['ask']]> {
    const id = this.#nextId;
    this.#nextId += 1;
    const answered = new Promise<WorldResponse>((resolve) => this.#waiting.set(id, resolve));
    const request: WorldRequest = { ...question, id };
    this.child.process.send(request);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(this.#silent(question.ask)), ANSWER_WAIT_MS);
    });
    const gone = this.child.gone.then((how) => Promise.reject(this.#gone(question.ask, how)));
    try {
      const response = await Promise.race([answered, late, gone]);
      if (!response.ok) throw fromErrorJson(response.error);
      return response.answer as WorldAnswers[Question['ask']];
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(id);
      gone.catch(() => undefined);
    }
  }

  #silent(ask: string): RomulusError {
    return new RomulusError('ERR_TIMEOUT_DRILL', `the world did not answer "${ask}"`, {
      remedy: `Read ${this.child.logFile}.`,
    });
  }

  #gone(ask: string, how: string): RomulusError {
    return new RomulusError('ERR_HOST_NODE_GONE', `the world ended (${how}) before "${ask}"`, {
      remedy: `Read ${this.child.logFile}.`,
    });
  }
}
