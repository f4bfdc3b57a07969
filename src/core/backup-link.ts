/**
 * The backup's link to the primary: how it begins, how it is lost or dropped, and what that makes
 * of an image that is not whole yet, or of a primary that was judged dead already.
 */
import type { ErrorCode } from '../base/errors.ts';
import type { BackupContext } from './backup-context.ts';
import type { Suspicion } from './backup-state.ts';
import type { LinkId } from './primary-types.ts';
import { promote } from './register.ts';

export function handleLinkUp(backup: BackupContext, linkId: LinkId): void {
  const { name } = backup.state;
  if (name === 'running' || name === 'promoting') {
    const { why } = backup;
    return backup.emit({ kind: 'dropLink', linkId, code: 'ERR_TRANSPORT_BUSY', why });
  }
  if (backup.link !== null) dropLink(backup, 'ERR_TRANSPORT_REPLACED', 'dialled again');
  backup.link = { linkId, welcomeUntilMs: backup.nowMs + backup.options.limits.welcomeMs };
  const { image } = backup;
  // What a machine was loaded from can be continued or patched no more.
  const isOfUse = image !== null && !image.isLoaded;
  const holds = isOfUse ? { instance: image.instance, epoch: image.receivedEpoch } : null;
  backup.emit({ kind: 'sendHello', linkId, holds });
}

export function loseLink(backup: BackupContext, why: string): void {
  const { state, death } = backup;
  backup.link = null;
  backup.emit({ kind: 'discardPartialEpoch' });
  if (state.name === 'syncing') {
    giveUpImage(backup);
    backup.become({ name: 'empty' }, `no whole image: ${why}`);
  } else if (state.name === 'following' && death !== null && !backup.mustHold) {
    // Nothing has spoken for it since, so no new verdict will come.
    becomeSuspecting(backup, `${death.why}, and the link is gone: ${why}`, 'signs');
  }
}

export function dropLink(
  backup: BackupContext,
  code: ErrorCode,
  why: string,
  remedy?: string,
): void {
  if (backup.link === null) return;
  const { linkId } = backup.link;
  backup.emit({
    kind: 'dropLink',
    linkId,
    code,
    why,
    ...(remedy !== undefined && { remedy }),
  });
  loseLink(backup, why);
}

/** The image is no longer one that may run. Whatever was promised for it stays promised. */
export function giveUpImage(backup: BackupContext): void {
  backup.image = null;
  backup.pairedWord = null;
  if (backup.state.name === 'suspecting') backup.register.cancelRead();
  backup.emit({ kind: 'promiseAs', instance: null });
}

/** The image may not run; it may still serve as a base for changed pages. */
export function becomeLost(backup: BackupContext, why: string): void {
  const wasSealed = backup.state.name === 'promoting';
  backup.pairedWord = null;
  backup.become({ name: 'lost' }, why);
  backup.emit({ kind: 'promiseAs', instance: null });
  if (wasSealed) backup.emit({ kind: 'unsealPromises' });
  dropLink(backup, 'ERR_FENCED_BACKUP', why);
}

/** The primary seems dead: asks the register, or begins a promotion where there is none to ask. */
export function becomeSuspecting(backup: BackupContext, why: string, suspicion: Suspicion): void {
  const { options, pairedWord } = backup;
  backup.suspicion = suspicion;
  backup.become({ name: 'suspecting', askAgainAtMs: null }, why);
  if (options.onSilence === 'arbiter') {
    backup.emit(...backup.register.read(backup.nowMs));
  } else if (pairedWord !== null) {
    backup.seal(pairedWord, promote(pairedWord));
  } else {
    backup.report(`${why}; not promoting, since we were never told that we are paired`);
  }
}
