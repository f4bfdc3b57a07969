/**
 * The backup's image, from the welcome that announces it to the epochs that carry it on: what is
 * acknowledged, what is refused, and when the image is lost.
 */
import { assert } from '../base/assert.ts';
import type { BackupContext } from './backup-context.ts';
import { becomeLost, dropLink, giveUpImage } from './backup-link.ts';
import { mayTurnBack, stepOf } from './backup-state.ts';
import type { BackupEventOf as EventOf } from './backup-types.ts';
import { HeldImage } from './held-image.ts';
import type { LinkId } from './primary-types.ts';
import { type Instance, isInstance } from './register.ts';

export function handleWelcome(backup: BackupContext, event: EventOf<'welcome'>): void {
  if (!backup.isCurrent(event.linkId) || backup.link?.welcomeUntilMs === null) return;
  if (event.generation < backup.generation) {
    return dropLink(
      backup,
      'ERR_FENCED_OLD_GENERATION',
      `${event.runner} speaks for generation ${event.generation}, we know ${backup.generation}`,
    );
  }
  const { name } = backup.state;
  if (name === 'promoting' || name === 'running') return;
  if (backup.death?.linkId === event.linkId) {
    // Sent before its sender was judged dead, for all we know; a new link would prove more.
    return dropLink(backup, 'ERR_TIMEOUT_PRIMARY', backup.death.why);
  }
  backup.link = { linkId: event.linkId, welcomeUntilMs: null };
  backup.generation = event.generation;
  backup.runner = event.runner;
  if (event.plan === 'resume') return resume(backup, event);
  if (event.plan === 'changed' && (backup.image === null || backup.image.isLoaded)) {
    return dropLink(backup, 'ERR_PROTOCOL_RESUME', 'nothing here to be patched');
  }
  // A primary that gives a new image runs alone by the register: the old image may go.
  giveUpImage(backup);
  backup.become(
    { name: 'syncing', instance: null, isBaseDone: false },
    `${event.runner} gives us ${event.plan === 'full' ? 'a new image' : 'the changed pages'}`,
  );
  backup.emit({ kind: 'prepareImage', linkId: event.linkId, plan: event.plan });
}

function resume(backup: BackupContext, event: EventOf<'welcome'>): void {
  const { image } = backup;
  const { name } = backup.state;
  const isHeld = image !== null && !image.isLoaded;
  if (!isHeld || (name !== 'following' && name !== 'suspecting' && name !== 'lost')) {
    return dropLink(backup, 'ERR_PROTOCOL_RESUME', 'nothing here to resume');
  }
  if (event.fromEpoch > image.receivedEpoch + 1) {
    const why = `resumed only from ${event.fromEpoch} on`;
    return dropLink(backup, 'ERR_PROTOCOL_EPOCH_GAP', why);
  }
  // It answered on a link made after it was taken for dead.
  if (name === 'suspecting') backup.register.cancelRead();
  if (name === 'lost') backup.emit({ kind: 'promiseAs', instance: image.instance });
  backup.become({ name: 'following' }, `resumed at epoch ${image.receivedEpoch}`);
  acknowledge(backup, image);
}

export function handlePrepared(backup: BackupContext, linkId: LinkId, instance: Instance): void {
  const { state } = backup;
  if (!backup.isCurrent(linkId) || state.name !== 'syncing') return;
  if (state.instance !== null) return;
  assert(isInstance(instance) && instance !== backup.runner, `not an instance: ${instance}`);
  backup.state = { ...state, instance };
  backup.emit({ kind: 'promiseAs', instance }, { kind: 'sendReady', linkId, instance });
}

export function handleImageFailed(backup: BackupContext, event: EventOf<'imageFailed'>): void {
  const { linkId, why, remedy } = event;
  if (!backup.isCurrent(linkId) || backup.state.name !== 'syncing') return;
  dropLink(backup, 'ERR_HOST_IMAGE', `this host cannot hold the image: ${why}`, remedy);
}

export function handleBaseEnd(backup: BackupContext, linkId: LinkId, complete: boolean): void {
  const { state } = backup;
  if (!backup.isCurrent(linkId) || state.name !== 'syncing') return;
  if (!complete || state.instance === null) {
    return dropLink(backup, 'ERR_INTEGRITY_BASE', 'the base image came incomplete');
  }
  backup.state = { ...state, isBaseDone: true };
}

export function handleEpoch(backup: BackupContext, event: EventOf<'epochReceived'>): void {
  const { state } = backup;
  const isWanted =
    backup.isCurrent(event.linkId) &&
    backup.image?.isLoaded !== true &&
    (state.name === 'syncing' || state.name === 'following' || mayTurnBack(state));
  if (!isWanted) return backup.emit({ kind: 'discardPartialEpoch' });
  if (!event.intact || event.epoch < 1) {
    backup.emit({ kind: 'discardPartialEpoch' });
    return dropLink(backup, 'ERR_INTEGRITY_EPOCH', `epoch ${event.epoch} came damaged`);
  }
  if (state.name === 'syncing') {
    const { instance, isBaseDone } = state;
    if (instance === null || !isBaseDone) {
      backup.emit({ kind: 'discardPartialEpoch' });
      return dropLink(backup, 'ERR_PROTOCOL_ORDER', 'an epoch came before the base image');
    }
    backup.image = new HeldImage(instance, event.epoch);
    backup.become({ name: 'following' }, `the image is whole at epoch ${event.epoch}`);
  } else if (backup.image === null || event.epoch > backup.image.receivedEpoch + 1) {
    backup.emit({ kind: 'discardPartialEpoch' });
    return dropLink(backup, 'ERR_PROTOCOL_EPOCH_GAP', `epoch ${event.epoch} came too early`);
  } else if (event.epoch <= backup.image.receivedEpoch) {
    // The image never moves backward; saying again what we hold costs nothing.
    backup.emit({ kind: 'discardPartialEpoch' });
    return acknowledge(backup, backup.image);
  } else {
    backup.image.received(event.epoch);
  }
  acknowledge(backup, backup.image);
  backup.emit({ kind: 'apply', instance: backup.image.instance, epoch: event.epoch });
}

/** Says what is held, and promises; but not while we may be asking for what is not ours yet. */
export function acknowledge(backup: BackupContext, image: HeldImage): void {
  const { name } = backup.state;
  if (backup.link?.welcomeUntilMs !== null) return;
  if (name !== 'following' && name !== 'suspecting') return;
  image.acknowledged();
  backup.emit({
    kind: 'acknowledge',
    linkId: backup.link.linkId,
    instance: image.instance,
    epoch: image.acknowledgedEpoch,
    promiseMs: backup.options.promiseMs,
  });
}

export function handlePaired(backup: BackupContext, event: EventOf<'paired'>): void {
  const { linkId, generation, instance } = event;
  const { runner } = backup;
  if (!backup.isCurrent(linkId) || backup.image?.instance !== instance) return;
  if (generation < backup.generation || runner === null) return;
  backup.generation = generation;
  backup.pairedWord = { generation, runner, partner: instance };
  if (backup.state.name === 'following') backup.report('paired');
}

/** The image of this instance can no longer be trusted. */
export function handleApplyFailed(backup: BackupContext, event: EventOf<'applyFailed'>): void {
  const { instance, code, why, remedy } = event;
  if (backup.image?.instance !== instance) return;
  const text = `the image cannot be trusted: ${why}`;
  const step = stepOf(backup.state);
  // What was asked of the register stays asked; without an image there is nothing to start.
  if (step === 'asking') {
    backup.image = null;
    return backup.report(text);
  }
  if (step === 'draining' || step === 'starting') {
    backup.image = null;
    return becomeLost(backup, `the register names this node, but ${text}`);
  }
  const wasSealed = step !== null;
  giveUpImage(backup);
  if (wasSealed) backup.emit({ kind: 'unsealPromises' });
  dropLink(backup, code, text, remedy);
  backup.become({ name: 'empty' }, text);
}
