/**
 * What becomes of a backup that introduces itself, given who is there already.
 *
 * A guest has one backup. The same node dialling again is not a second one: its old link is dead,
 * whether or not that was noticed. While the register is not settled nobody can be told what to
 * do, so one backup may wait for that; and so may one that is given no image yet.
 */
import { unreachable } from '../base/assert.ts';
import type { LinkId } from './primary-types.ts';
import { linkOf, type PrimaryState } from './primary-state.ts';
import { guestMismatch, notRunning, type Refusal, secondBackup } from './refusals.ts';
import type { BackupHello } from './resync.ts';

export type Reception =
  | { readonly kind: 'refuse'; readonly refusal: Refusal }
  /** `replaces`: an older link of the same node that waited, to be dropped. */
  | { readonly kind: 'wait'; readonly replaces: LinkId | null }
  /** The node is here already, over a link that must be dead: give that up, then ask again. */
  | { readonly kind: 'replace' }
  | { readonly kind: 'welcome' };

export function receive(
  hello: BackupHello,
  state: PrimaryState,
  waiting: BackupHello | null,
  { why, isResting }: { readonly why: string; readonly isResting: boolean },
): Reception {
  if (!hello.descriptorMatches) return { kind: 'refuse', refusal: guestMismatch(hello.node) };
  switch (state.name) {
    case 'fenced':
    case 'stopped':
      return { kind: 'refuse', refusal: notRunning(why) };
    case 'connecting':
    case 'severed':
      return behind(hello, waiting);
    case 'unprotected':
    case 'syncing':
    case 'paired': {
      const current = linkOf(state);
      // Who waits already has its turn when the rest is over, though that was not noticed yet.
      if (current === null)
        return isResting || waiting !== null ? behind(hello, waiting) : { kind: 'welcome' };
      return current.node === hello.node
        ? { kind: 'replace' }
        : { kind: 'refuse', refusal: secondBackup(hello.node, current.node) };
    }
    default:
      return unreachable(state, 'state');
  }
}

/** It waits, unless another one does. */
function behind(hello: BackupHello, waiting: BackupHello | null): Reception {
  if (waiting === null || waiting.linkId === hello.linkId) return { kind: 'wait', replaces: null };
  return waiting.node === hello.node
    ? { kind: 'wait', replaces: waiting.linkId }
    : { kind: 'refuse', refusal: secondBackup(hello.node, waiting.node) };
}
