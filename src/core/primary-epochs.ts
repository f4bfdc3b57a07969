/**
 * The primary's course from image to image: rounds of a synchronisation, checkpoints when they are
 * due, and what follows when one was taken, skipped or acknowledged.
 */
import { assert } from '../base/assert.ts';
import { dropAndLose } from './primary-backups.ts';
import type { PrimaryContext } from './primary-context.ts';
import { afterRound, linkOf, type SyncingState, wantsCheckpoint } from './primary-state.ts';
import type { LinkId, PrimaryEventOf } from './primary-types.ts';
import { pair } from './register.ts';

type Acknowledged = PrimaryEventOf<'acknowledged'>;

export function handleSyncRound(primary: PrimaryContext, linkId: LinkId, dirtyLeft: number): void {
  const { state } = primary;
  if (state.name !== 'syncing' || state.link.linkId !== linkId) return;
  if (state.phase.kind !== 'rounds') return;
  const phase = afterRound(state.phase.round, dirtyLeft, primary.options.limits);
  primary.state = { ...state, phase };
  if (phase.kind === 'rounds') primary.emit({ kind: 'syncRound', linkId, round: phase.round });
}

/** When a checkpoint is to be asked for, in milliseconds; null while none is wanted. */
export function checkpointDueMs(primary: PrimaryContext): number | null {
  const isWanted = wantsCheckpoint(primary.state) && primary.shutdownUntilMs === null;
  return isWanted ? primary.flow.dueAtMs : null;
}

export function takeCheckpointWhenDue(primary: PrimaryContext): void {
  const { state, flow, nowMs } = primary;
  const dueAtMs = checkpointDueMs(primary);
  if (dueAtMs === null || nowMs < dueAtMs) return;
  const epoch = flow.ask(nowMs);
  if (state.name === 'paired') {
    primary.emit({ kind: 'takeCheckpoint', epoch, completesBase: false });
  } else {
    assert(state.name === 'syncing', 'a checkpoint is wanted');
    primary.state = { ...state, phase: { kind: 'capturing' } };
    // Holding must begin before the guest runs on past this epoch's boundary.
    primary.emit({ kind: 'holdOutput' }, { kind: 'takeCheckpoint', epoch, completesBase: true });
  }
}

export function handleTaken(
  primary: PrimaryContext,
  event: PrimaryEventOf<'checkpointTaken'>,
): void {
  const { state, flow, nowMs, options } = primary;
  const { epoch, framesSent } = event;
  flow.take(event, nowMs);
  if (state.name === 'syncing' && state.phase.kind === 'capturing') {
    const untilMs = nowMs + options.limits.acknowledgeMs;
    primary.state = { ...state, phase: { kind: 'awaiting', epoch, untilMs } };
    // Still alone by the register, so what was made up to the boundary needs no promise.
    primary.emit({
      kind: 'releaseOutput',
      throughEpoch: epoch,
      framesThrough: framesSent,
      untilMs: Number.POSITIVE_INFINITY,
    });
  } else if (state.name === 'unprotected' || state.name === 'syncing') {
    // Asked for by a synchronisation that has since been given up.
    primary.emit(flow.abandon());
  }
}

/** The checkpoint asked for was not taken; that of a synchronisation is asked for again. */
export function handleSkipped(primary: PrimaryContext): void {
  const { state, flow } = primary;
  flow.skip();
  if (state.name !== 'syncing' || state.phase.kind !== 'capturing') return;
  primary.state = { ...state, phase: { kind: 'settled' } };
  primary.emit({ kind: 'openOutput' });
}

export function handleAcknowledged(primary: PrimaryContext, event: Acknowledged): void {
  const { state, flow } = primary;
  if (linkOf(state)?.linkId !== event.linkId) return;
  if (event.epoch > flow.takenEpoch) {
    const why = `it acknowledged epoch ${event.epoch}, which is not taken`;
    return dropAndLose(primary, { why, isHopeless: false });
  }
  if (state.name === 'syncing' && state.instance === event.instance) {
    const { phase } = state;
    if (phase.kind === 'awaiting' && phase.epoch === event.epoch) askToPair(primary, state, event);
    if (phase.kind !== 'pairing') return;
  } else if (state.name !== 'paired' || state.partner !== event.instance) {
    return;
  }
  primary.emit(...flow.acknowledge(event, primary.nowMs));
}

function askToPair(primary: PrimaryContext, state: SyncingState, event: Acknowledged): void {
  const { word, register, flow, nowMs } = primary;
  assert(word !== null && !register.isBusy, 'alone and settled');
  primary.lastImage = state.instance;
  primary.state = { ...state, phase: { kind: 'pairing' } };
  // From asking on the word may name the backup, so even what was made before the boundary, and
  // is not yet written, waits for a promise.
  primary.emit(flow.begin(event), { kind: 'holdOutput' });
  primary.emit(...register.change(word, pair(word, state.instance), nowMs));
  primary.release();
}
