/**
 * The primary's states, and what can be told from a state alone. `primary.ts` moves between them.
 */
import { unreachable } from '../base/assert.ts';
import type { Epoch } from '../base/units.ts';
import type { LinkId, PrimaryLimits, PrimaryStateName } from './primary-types.ts';
import type { Instance } from './register.ts';

/** One connection of one backup node. */
export interface BackupLink {
  readonly linkId: LinkId;
  readonly node: string;
}

/** A backup that was welcomed and makes room for its image. */
export interface Prospect extends BackupLink {
  readonly plan: 'full' | 'changed';
  readonly untilMs: number;
}

/** Where a synchronisation stands. Output is open in the first two phases, held in the others. */
export type SyncPhase =
  | { readonly kind: 'rounds'; readonly round: number }
  /** Little is left: the final checkpoint is wanted as soon as one may be taken. */
  | { readonly kind: 'settled' }
  | { readonly kind: 'capturing' }
  | { readonly kind: 'awaiting'; readonly epoch: Epoch; readonly untilMs: number }
  /** The register was asked, so the word may name the backup from here on. */
  | { readonly kind: 'pairing' };

/** `paired` is reported as protected or backlogged; the others by their own names. */
export type PrimaryState =
  | { readonly name: 'connecting' }
  | { readonly name: 'unprotected'; readonly prospect: Prospect | null }
  | SyncingState
  | { readonly name: 'paired'; readonly link: BackupLink; readonly partner: Instance }
  | {
      readonly name: 'severed';
      readonly partner: Instance;
      /** Until when the partner may resume before the register is asked to let us go on alone. */
      readonly graceUntilMs: number;
      /** How the partner was lost, in words. */
      readonly why: string;
      /** It lives, and did not keep up. */
      readonly fellBehind: boolean;
    }
  | { readonly name: 'fenced' }
  | { readonly name: 'stopped' };

export interface SyncingState {
  readonly name: 'syncing';
  readonly link: BackupLink;
  readonly instance: Instance;
  readonly phase: SyncPhase;
}

/** The one link whose events count, or null. */
export function linkOf(state: PrimaryState): BackupLink | null {
  switch (state.name) {
    case 'unprotected':
      return state.prospect;
    case 'syncing':
    case 'paired':
      return state.link;
    case 'connecting':
    case 'severed':
    case 'fenced':
    case 'stopped':
      return null;
    default:
      return unreachable(state, 'state');
  }
}

/** True once the word may name a backup as partner: output then needs acknowledgement and promise. */
export function mayBePaired(state: PrimaryState): boolean {
  return state.name === 'paired' || (state.name === 'syncing' && state.phase.kind === 'pairing');
}

/** Nothing changes any more: the right to run is lost, or the guest or the engine has ended. */
export function isOver(state: PrimaryState): boolean {
  return state.name === 'fenced' || state.name === 'stopped';
}

/** True when the next checkpoint should be taken as soon as it is due. */
export function wantsCheckpoint(state: PrimaryState): boolean {
  return state.name === 'paired' || (state.name === 'syncing' && state.phase.kind === 'settled');
}

/** Until when the backup must have answered what it was sent last, in milliseconds. */
export function answerUntilMs(state: PrimaryState, overdueAtMs: number | null): number | null {
  if (state.name === 'unprotected') return state.prospect?.untilMs ?? null;
  if (state.name === 'syncing' && state.phase.kind === 'awaiting') return state.phase.untilMs;
  return state.name === 'paired' ? overdueAtMs : null;
}

/** The state as people know it. */
export function nameOf(state: PrimaryState, isBacklogged: boolean): PrimaryStateName {
  if (state.name !== 'paired') return state.name;
  return isBacklogged ? 'backlogged' : 'protected';
}

/** What follows a round of a synchronisation that left so many pages dirty. */
export function afterRound(
  round: number,
  dirtyLeft: number,
  limits: Pick<PrimaryLimits, 'syncSettledPages' | 'syncRounds'>,
): Extract<SyncPhase, { kind: 'rounds' | 'settled' }> {
  const isSettled = dirtyLeft <= limits.syncSettledPages || round + 1 >= limits.syncRounds;
  return isSettled ? { kind: 'settled' } : { kind: 'rounds', round: round + 1 };
}
