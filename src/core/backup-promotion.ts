/**
 * A promotion step by step, each begun only when the one before is certain: promises run out, the
 * register is asked, what was received is applied, the guest started, its output opened.
 *
 * One thing comes before it is certain, because it takes as long as the register does: the device
 * state goes into the waiting machine a little before the last promise ends. A machine that was
 * loaded can only be started or given up, so from then on no sign of life turns the promotion back;
 * the register alone can. Where no promise is left to wait for, nothing is loaded beforehand: that is
 * how silence ends, the primary may be alive and asking too, and an image not loaded stays one that can
 * be carried on.
 */
import { assert } from '../base/assert.ts';
import type { BackupContext } from './backup-context.ts';
import { becomeLost, dropLink } from './backup-link.ts';
import { stepOf } from './backup-state.ts';
import { describeWord, type RegisterWord, sameWord } from './register.ts';

/**
 * How long before the last promise ends the machine is loaded, milliseconds: what a machine with a
 * handful of devices takes for it on a busy host. The rest of the wait is left for signs of life.
 */
const LOAD_AHEAD_MS = 12;

/** Nothing is promised any more, nor was beyond this time. */
export function handleSealed(backup: BackupContext, requestId: number, untilMs: number): void {
  const { state } = backup;
  if (state.name !== 'promoting' || state.step.kind !== 'sealing') return;
  if (state.step.requestId !== requestId) return;
  backup.state = { ...state, step: { kind: 'waiting', untilMs } };
}

/** Goes on to the next step when its time has come. */
export function advancePromotion(backup: BackupContext): void {
  const { state, image } = backup;
  if (state.name !== 'promoting') return;
  const { step } = state;
  if (step.kind === 'waiting' || step.kind === 'loading') {
    // Strictly after: at the very instant a promise ends, it still holds.
    if (backup.nowMs > step.untilMs) return ask(backup);
    if (step.kind === 'waiting' && backup.nowMs >= loadAtMs(step.untilMs))
      load(backup, step.untilMs);
    return;
  }
  if (step.kind !== 'draining' || image === null) return;
  if (image.appliedEpoch !== image.receivedEpoch) return;
  backup.state = { ...state, step: { kind: 'starting' } };
  backup.report(`starting the guest from epoch ${image.appliedEpoch}`);
  backup.emit({ kind: 'startGuest', instance: image.instance, epoch: image.appliedEpoch });
}

/** When the machine is loaded, of promises that end then; both in milliseconds. */
export function loadAtMs(untilMs: number): number {
  return untilMs - LOAD_AHEAD_MS;
}

/** The link is given up: what it may still bring was never acknowledged, and has no place any more. */
function load(backup: BackupContext, untilMs: number): void {
  const { state, image } = backup;
  assert(state.name === 'promoting' && image !== null, 'promotes only with an image');
  dropLink(backup, 'ERR_TRANSPORT_PROMOTING', backup.why);
  backup.state = { ...state, step: { kind: 'loading', untilMs } };
  image.loaded();
  backup.emit({ kind: 'loadGuest', instance: image.instance, epoch: image.receivedEpoch });
}

function ask(backup: BackupContext): void {
  assert(backup.state.name === 'promoting', 'promoting');
  const { from, to } = backup.state;
  dropLink(backup, 'ERR_TRANSPORT_PROMOTING', backup.why);
  backup.state = { ...backup.state, step: { kind: 'asking' } };
  backup.report(`asking the register for ${describeWord(to)}`);
  backup.emit(...backup.register.change(from, to, backup.nowMs));
}

/** The register names this node: what was received is applied to the end. */
export function drain(backup: BackupContext, word: RegisterWord): void {
  const { state, image } = backup;
  assert(state.name === 'promoting' && sameWord(word, state.to), 'what was asked');
  backup.generation = word.generation;
  if (image === null) {
    return becomeLost(backup, 'the register names this node, but its image is lost');
  }
  backup.state = { ...state, step: { kind: 'draining' } };
  backup.report(`won ${describeWord(word)}; draining to epoch ${image.receivedEpoch}`);
}

export function handleStarted(backup: BackupContext): void {
  const { state, image } = backup;
  if (state.name !== 'promoting' || state.step.kind !== 'starting') return;
  assert(image !== null && image.appliedEpoch === image.receivedEpoch, 'drained');
  assert(image.acknowledgedEpoch <= image.appliedEpoch, 'nothing acknowledged is left behind');
  backup.become({ name: 'running' }, `promoted at epoch ${image.appliedEpoch}`);
  const { instance, appliedEpoch: epoch } = image;
  backup.emit({ kind: 'openOutput' }, { kind: 'becomePrimary', instance, word: state.to, epoch });
}

export function handleStartFailed(backup: BackupContext, why: string): void {
  if (stepOf(backup.state) !== 'starting') return;
  becomeLost(backup, `named in the register, but no guest started: ${why}`);
}
