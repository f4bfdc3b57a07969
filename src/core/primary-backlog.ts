/**
 * Backups that live and do not keep up: their disk or their link is slower than the guest makes changes.
 *
 * First epochs lengthen (`epoch-pacer.ts`). That does not help for ever: what is held waits for an
 * acknowledgement, so an epoch that grew too old ends the protection, by the same way as any other loss
 * of a backup: through the register. The guest itself is never held back. Whoever fell behind is given a
 * new image after a rest (`backlog-rest.ts`), which begins with the end of the protection; its greeting
 * waits until then.
 */
import { dropAndLose } from './primary-backups.ts';
import type { PrimaryContext } from './primary-context.ts';
import { welcomeImage } from './primary-roles.ts';
import { answerUntilMs } from './primary-state.ts';

/** Gives up who was silent too long about what it was sent. */
export function dropUnanswering(primary: PrimaryContext): void {
  const { state, flow, nowMs } = primary;
  const untilMs = answerUntilMs(state, flow.overdueAtMs);
  if (untilMs === null || nowMs < untilMs) return;
  // A prospect was sent nothing yet that it could have been too slow for.
  const fellBehind = state.name !== 'unprotected';
  dropAndLose(primary, { why: 'the backup did not answer in time', isHopeless: false, fellBehind });
}

/** When the oldest epoch will have waited too long for its acknowledgement; null: none waits. */
export function tooFarBehindAtMs({ state, flow, mayGoSolo }: PrimaryContext): number | null {
  // Who may not go on alone gains nothing by giving the backup up.
  return state.name === 'paired' && mayGoSolo ? flow.tooFarBehindAtMs : null;
}

/** Gives up who is too far behind: there is no use in waiting for it. */
export function dropTooFarBehind(primary: PrimaryContext): void {
  const { flow, nowMs, options } = primary;
  const atMs = tooFarBehindAtMs(primary);
  if (atMs === null || nowMs < atMs) return;
  const { backlogMs } = options.limits;
  const epoch = flow.acknowledgedEpoch + 1;
  const why = `the backup does not keep up: epoch ${epoch} was not acknowledged for ${backlogMs} ms`;
  dropAndLose(primary, { why, isHopeless: true, fellBehind: true });
}

/** When the greeting that waits is answered, in milliseconds; null: none waits for a rest to end. */
export function restedAtMs(primary: PrimaryContext): number | null {
  const { state, waitingHello, rest, shutdownUntilMs } = primary;
  if (waitingHello === null || shutdownUntilMs !== null) return null;
  return state.name === 'unprotected' && state.prospect === null ? rest.untilMs : null;
}

/** Takes back who waited for the rest to end. */
export function welcomeRested(primary: PrimaryContext): void {
  const { waitingHello: hello, nowMs } = primary;
  const atMs = restedAtMs(primary);
  if (hello === null || atMs === null || nowMs < atMs) return;
  primary.waitingHello = null;
  welcomeImage(primary, hello);
}
