/**
 * Backups that come and go: how one that dials is received, what becomes of one that is lost, and
 * how a partner out of touch is waited for, resumed, or left behind.
 */
import { assert, unreachable } from '../base/assert.ts';
import type { PrimaryContext } from './primary-context.ts';
import {
  becomePaired,
  becomeSevered,
  becomeUnprotected,
  type Loss,
  welcomeImage,
} from './primary-roles.ts';
import { linkOf } from './primary-state.ts';
import type { LinkId } from './primary-types.ts';
import { receive } from './reception.ts';
import { instanceReused, onlyPartnerMayResume } from './refusals.ts';
import { type Instance, isInstance, solo } from './register.ts';
import { type BackupHello, resumeFrom } from './resync.ts';

/** A backup introduced itself. */
export function handleHello(primary: PrimaryContext, hello: BackupHello): void {
  const { linkId, node } = hello;
  const { state, waitingHello, why: stateWhy, rest, nowMs } = primary;
  const isResting = nowMs < rest.untilMs;
  const reception = receive(hello, state, waitingHello, { why: stateWhy, isResting });
  switch (reception.kind) {
    case 'refuse':
      return primary.refuse(linkId, reception.refusal);
    case 'welcome':
      return welcomeImage(primary, hello);
    case 'replace':
      dropAndLose(primary, { why: `${node} dialled again`, isHopeless: false });
      return handleHello(primary, hello);
    case 'wait':
      if (reception.replaces !== null) {
        const why = `${node} dialled again`;
        primary.emit({ kind: 'dropLink', linkId: reception.replaces, why });
      }
      primary.waitingHello = hello;
      if (state.name === 'unprotected' && waitingHello?.node !== node)
        primary.report(resting(node, rest.untilMs - nowMs));
      return advanceSevered(primary);
    default:
      return unreachable(reception, 'reception');
  }
}

function resting(node: string, restMs: number): string {
  const waits = `${node} is given an image in ${Math.ceil(restMs / 1000)} s`;
  return `${waits}: the backup did not keep up`;
}

/** A welcomed backup has room for its image. */
export function handleReady(primary: PrimaryContext, linkId: LinkId, instance: Instance): void {
  const { state, options } = primary;
  if (state.name !== 'unprotected' || state.prospect?.linkId !== linkId) return;
  const { node, plan } = state.prospect;
  // A name used before would let old acknowledgements count for the new image.
  if (!isInstance(instance) || instance === options.instance || instance === primary.lastImage) {
    primary.refuse(linkId, instanceReused(instance));
    primary.state = { name: 'unprotected', prospect: null };
    return;
  }
  const link = { linkId, node };
  primary.state = { name: 'syncing', link, instance, phase: { kind: 'rounds', round: 0 } };
  primary.report(`giving ${instance} an image; unprotected until it is complete`);
  primary.emit({ kind: 'startSync', linkId, plan });
}

export function handleLinkClosed(primary: PrimaryContext, linkId: LinkId, why: string): void {
  if (primary.waitingHello?.linkId === linkId) primary.waitingHello = null;
  if (linkOf(primary.state)?.linkId === linkId) loseBackup(primary, { why, isHopeless: false });
}

export function handleSyncFailed(primary: PrimaryContext, linkId: LinkId, why: string): void {
  const { state } = primary;
  if (state.name === 'syncing' && state.link.linkId === linkId)
    dropAndLose(primary, { why, isHopeless: false });
}

export function handlePeerDead(primary: PrimaryContext, why: string): void {
  const { state } = primary;
  if (state.name === 'severed') {
    primary.state = { ...state, graceUntilMs: primary.nowMs };
    advanceSevered(primary);
  } else if (linkOf(state) !== null) {
    dropAndLose(primary, { why, isHopeless: true });
  }
}

/** Gives the current link up. */
export function dropAndLose(primary: PrimaryContext, loss: Loss): void {
  const link = linkOf(primary.state);
  assert(link !== null, 'a link to drop');
  primary.emit({ kind: 'dropLink', linkId: link.linkId, why: loss.why });
  loseBackup(primary, loss);
}

function loseBackup(primary: PrimaryContext, loss: Loss): void {
  const { state } = primary;
  const { why, fellBehind = false } = loss;
  switch (state.name) {
    case 'unprotected':
      primary.state = { name: 'unprotected', prospect: null };
      return primary.report(`the backup took no image: ${why}`);
    case 'syncing':
      if (state.phase.kind === 'pairing') {
        return becomeSevered(primary, state.instance, loss);
      }
      if (fellBehind) primary.rest.begin(primary.nowMs);
      // Pairing was not asked for, so nobody can have been promoted.
      return becomeUnprotected(primary, `the backup was lost while syncing: ${why}`);
    case 'paired':
      return becomeSevered(primary, state.partner, loss);
    case 'connecting':
    case 'severed':
    case 'fenced':
    case 'stopped':
      return;
    default:
      return unreachable(state, 'state');
  }
}

/** Resume, wait, or ask to go on alone: whichever the register and the clock allow. */
export function advanceSevered(primary: PrimaryContext): void {
  const { state, register, word, waitingHello: hello, nowMs } = primary;
  if (state.name !== 'severed' || register.isBusy) return;
  const { partner, graceUntilMs } = state;
  assert(word !== null && word.partner === partner, 'severed from the partner in the word');
  // Too far behind already, it would only be left again.
  const isTooLate =
    primary.mayGoSolo && nowMs >= (primary.flow.tooFarBehindAtMs ?? Number.POSITIVE_INFINITY);
  const canResume = hello !== null && !isTooLate;
  const fromEpoch = canResume ? resumeFrom(hello, partner, primary.imageFacts) : null;
  if (hello !== null && fromEpoch !== null && primary.shutdownUntilMs === null) {
    const { linkId, node } = hello;
    primary.waitingHello = null;
    const { generation } = word;
    primary.emit({ kind: 'welcome', linkId, plan: 'resume', fromEpoch, generation });
    return becomePaired(primary, { linkId, node }, partner, `resumed from epoch ${fromEpoch}`);
  }
  if (!primary.mayGoSolo) {
    if (hello === null) return;
    primary.waitingHello = null;
    return primary.refuse(hello.linkId, onlyPartnerMayResume(partner));
  }
  // A backup that cannot resume proves that the partner's image is not coming back by this way.
  if (hello !== null || nowMs >= graceUntilMs || primary.shutdownUntilMs !== null) {
    primary.report(`${primary.why}; asking the register to go on alone`);
    primary.emit(...register.change(word, solo(word), nowMs));
  }
}
