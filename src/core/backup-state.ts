/**
 * The backup's states. `backup.ts` moves between them.
 */
import type { LinkId } from './primary-types.ts';
import type { Instance, RegisterWord } from './register.ts';

/** The one connection whose events count. */
export interface PrimaryLink {
  readonly linkId: LinkId;
  /** Null once the primary has answered our hello. */
  readonly welcomeUntilMs: number | null;
}

/** How far a promotion has come; each step begins only when the one before is certain. */
export type PromotionStep =
  | { readonly kind: 'sealing'; readonly requestId: number }
  | { readonly kind: 'waiting'; readonly untilMs: number }
  | { readonly kind: 'loading'; readonly untilMs: number }
  | { readonly kind: 'asking' }
  | { readonly kind: 'draining' }
  | { readonly kind: 'starting' };

/** `backup.ts` moves between them; `backup-types.ts` says what each means. */
export type BackupState =
  | { readonly name: 'empty' }
  | { readonly name: 'syncing'; readonly instance: Instance | null; readonly isBaseDone: boolean }
  | { readonly name: 'following' }
  | { readonly name: 'suspecting'; readonly askAgainAtMs: number | null }
  | {
      readonly name: 'promoting';
      readonly from: RegisterWord | null;
      readonly to: RegisterWord;
      readonly step: PromotionStep;
    }
  | { readonly name: 'running' }
  | { readonly name: 'lost' }
  | { readonly name: 'stopped' };

/** Why the primary is suspected, and so what may call the suspicion off. */
export type Suspicion =
  /** Signs: a sign of life, or a new link, calls it off. */
  | 'signs'
  /** The primary itself said that its guest is gone. */
  | 'certain'
  /** An operator insists, whatever the register says. */
  | 'forced';

/** How far the promotion has come, or null when there is none. */
export function stepOf(state: BackupState): PromotionStep['kind'] | null {
  return state.name === 'promoting' ? state.step.kind : null;
}

/** Suspecting, or promoting with the image as it was: nothing is done yet that cannot be undone. */
export function mayTurnBack(state: BackupState): boolean {
  const step = stepOf(state);
  return state.name === 'suspecting' || step === 'sealing' || step === 'waiting';
}

/** Nothing changes any more. */
export function isOver(state: BackupState): boolean {
  return state.name === 'running' || state.name === 'stopped';
}
