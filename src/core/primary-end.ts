/** How the primary's work ends: the guest is gone, or the node is shut down. */
import type { PrimaryContext } from './primary-context.ts';
import { becomeSevered, takeLeave } from './primary-roles.ts';
import { isOver, mayBePaired } from './primary-state.ts';

export function handleGuestLost(primary: PrimaryContext, what: string): void {
  if (isOver(primary.state)) return;
  const why = `the guest is gone: ${what}`;
  primary.emit({ kind: 'closeOutput' });
  takeLeave(primary, 'guest-lost', what);
  primary.state = { name: 'stopped' };
  primary.report(why);
  primary.emit({ kind: 'finish', reason: 'guest-lost', why });
}

/** The first time counts; a later word on why may still be said. */
export function handleShutdown(primary: PrimaryContext, why: string | undefined): void {
  primary.shutdownWhy = why ?? primary.shutdownWhy;
  primary.shutdownUntilMs ??= primary.nowMs + primary.options.limits.shutdownMs;
}

/**
 * A clean shutdown goes on alone first, so that no backup promotes a guest that was not lost;
 * when the register does not answer in time it leaves all the same.
 */
export function advanceShutdown(primary: PrimaryContext): void {
  const { state, shutdownUntilMs, shutdownWhy } = primary;
  if (shutdownUntilMs === null || state.name === 'stopped') return;
  const isPaired = mayBePaired(state) || state.name === 'severed';
  if (isPaired && primary.mayGoSolo && primary.nowMs < shutdownUntilMs) {
    // The link stays: it carries the goodbye once the register has answered.
    if (state.name !== 'paired') return;
    primary.farewellLinkId = state.link.linkId;
    return becomeSevered(primary, state.partner, { why: 'shutting down', isHopeless: true });
  }
  // Alone by the register: what was held for an image that will not be finished may leave.
  if (state.name === 'syncing' && !isPaired) primary.emit({ kind: 'openOutput' });
  const why = isPaired ? `${shutdownWhy} while paired in the register` : shutdownWhy;
  takeLeave(primary, 'shutdown', why);
  primary.state = { name: 'stopped' };
  primary.report(why);
  primary.emit({ kind: 'finish', reason: 'shutdown', why });
}
