/** Carries the core's questions to the arbiter and its answers back. */
import { toRomulusError } from '../base/errors.ts';
import type { Arbiter } from '../arbiters/arbiter.ts';
import type { RegisterAnswer, RegisterRequest } from '../core/register-client.ts';

/** Asks; `answer` is called exactly once, later. */
export function answerRegister(
  arbiter: Arbiter,
  request: RegisterRequest,
  answer: (answer: RegisterAnswer) => void,
): void {
  const { requestId } = request;
  const asking: Promise<RegisterAnswer> =
    request.kind === 'readRegister'
      ? arbiter
          .read()
          .then((word) => ({ kind: 'registerAnswer', requestId, outcome: 'read', word }) as const)
      : arbiter
          .compareAndSet(request.expected, request.next)
          .then(
            ({ won, word }) =>
              ({ kind: 'registerAnswer', requestId, outcome: 'changed', won, word }) as const,
          );
  asking
    .catch(
      (error: unknown): RegisterAnswer => ({
        kind: 'registerAnswer',
        requestId,
        outcome: 'unreachable',
        why: toRomulusError(error).message,
      }),
    )
    .then(answer)
    // What the state machine throws is a defect: it must end the process, not vanish here.
    .catch((error: unknown) =>
      queueMicrotask(() => {
        throw error;
      }),
    );
}
