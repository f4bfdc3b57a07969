/**
 * The far end of a process that a drill asks over IPC: one answer to each question, or the error. When
 * its parent is gone, it ends.
 */
import { toRomulusError } from '../base/errors.ts';

/** A question with its number. */
export type Numbered<Question> = Question & { readonly id: number };

/** What comes back: the answer, or what went wrong. */
export type Response = { readonly id: number } & (
  | { readonly ok: true; readonly answer: unknown }
  | { readonly ok: false; readonly error: ReturnType<ReturnType<typeof toRomulusError>['toJSON']> }
);

/** Answers every question of the parent process from now on; it asks what the answerer knows. */
export function answerQuestions(answer: (question: never) => Promise<unknown>): void {
  const reply = (response: Response): void => {
    process.send?.(response);
  };
  process.on('message', (request: Numbered<object>) => {
    answer(request as never).then(
      (value) => reply({ id: request.id, ok: true, answer: value }),
      (error: unknown) =>
        reply({ id: request.id, ok: false, error: toRomulusError(error).toJSON() }),
    );
  });
  // The terminal's interrupt reaches us too; the drill decides when the evidence is no longer needed.
  process.on('SIGINT', () => undefined);
  process.on('disconnect', () => process.exit(0));
}
