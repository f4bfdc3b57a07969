/**
 * The backup's doubts about the primary: what raises them, what calls them off, and what the
 * register's answers make of them. What an answer proves is in `suspicion.ts`.
 */
import { assert, unreachable } from '../base/assert.ts';
import type { BackupContext } from './backup-context.ts';
import { acknowledge } from './backup-image.ts';
import { becomeLost, becomeSuspecting, dropLink } from './backup-link.ts';
import { drain } from './backup-promotion.ts';
import { isOver, mayTurnBack, type Suspicion } from './backup-state.ts';
import type { BackupEventOf as EventOf } from './backup-types.ts';
import type { RegisterAnswer, RegisterOutcome } from './register-client.ts';
import { describeWord, type RegisterWord } from './register.ts';
import { conclude } from './suspicion.ts';

/** The failure detector took the primary for dead. */
export function handleDead(backup: BackupContext, why: string): void {
  const { name } = backup.state;
  backup.death = { why, linkId: backup.link?.linkId ?? null };
  if (name === 'following') return suspect(backup, why, 'signs');
  if (name === 'empty' || name === 'syncing' || name === 'lost') {
    dropLink(backup, 'ERR_TIMEOUT_PRIMARY', why);
  }
}

function suspect(backup: BackupContext, why: string, suspicion: Suspicion): void {
  if (!backup.mustHold) return becomeSuspecting(backup, why, suspicion);
  dropLink(backup, 'ERR_TIMEOUT_PRIMARY', why);
  backup.report(`${why}; not promoting by itself (--on-silence hold)`);
}

/** The failure detector heard of the primary again. */
export function handleAlive(backup: BackupContext, why: string): void {
  const { state, image } = backup;
  backup.death = null;
  if (!mayTurnBack(state) || backup.suspicion !== 'signs') return;
  if (state.name === 'suspecting') backup.register.cancelRead();
  backup.become({ name: 'following' }, `the primary is alive: ${why}`);
  if (state.name === 'promoting') backup.emit({ kind: 'unsealPromises' });
  if (image !== null) acknowledge(backup, image);
}

export function handleGoodbye(backup: BackupContext, event: EventOf<'goodbye'>): void {
  const { name } = backup.state;
  if (!backup.isCurrent(event.linkId)) return;
  const why = `the primary said goodbye (${event.reason}): ${event.text}`;
  if (event.reason === 'guest-lost') {
    if (name === 'following') suspect(backup, why, 'certain');
    return;
  }
  // It left on purpose, or others run: either way our image is not the one to go on from.
  if (name === 'following' || name === 'suspecting') {
    if (name === 'suspecting') backup.register.cancelRead();
    becomeLost(backup, why);
  }
}

/** An operator insists on a promotion. */
export function handleForced(backup: BackupContext): void {
  const { state, image } = backup;
  const { name } = state;
  if (image === null || (name !== 'following' && !mayTurnBack(state) && name !== 'lost')) {
    return backup.report(`${backup.why}; cannot promote by force now`);
  }
  backup.suspicion = 'forced';
  if (name === 'promoting') return;
  if (name === 'suspecting') backup.register.cancelRead();
  backup.become({ name: 'suspecting', askAgainAtMs: null }, 'an operator insists');
  backup.emit(...backup.register.read(backup.nowMs));
}

export function handleRegisterAnswer(backup: BackupContext, event: RegisterAnswer): void {
  if (isOver(backup.state)) return;
  const { outcome, requests } = backup.register.answer(event, backup.nowMs);
  backup.emit(...requests);
  if (outcome !== null) handleOutcome(backup, outcome);
}

/** Notices answers that did not come, and asks again when it is time. */
export function tickRegister(backup: BackupContext): void {
  const { outcome, requests } = backup.register.tick(backup.nowMs);
  backup.emit(...requests);
  if (outcome !== null) handleOutcome(backup, outcome);
}

/** Reads the register again once the pause before that is over. */
export function readAgainWhenDue(backup: BackupContext): void {
  const { state } = backup;
  if (state.name !== 'suspecting') return;
  if (state.askAgainAtMs === null || backup.nowMs < state.askAgainAtMs) return;
  backup.state = { name: 'suspecting', askAgainAtMs: null };
  backup.emit(...backup.register.read(backup.nowMs));
}

function handleOutcome(backup: BackupContext, outcome: RegisterOutcome): void {
  switch (outcome.kind) {
    case 'outOfReach':
      return backup.report(`the arbiter is out of reach: ${outcome.why}; no role changes`);
    case 'read':
      return evaluate(backup, outcome.word);
    case 'won':
      return drain(backup, outcome.word);
    case 'lost':
      backup.noteGeneration(outcome.word);
      return becomeLost(backup, `the register says ${describeWord(outcome.word)}`);
    default:
      return unreachable(outcome, 'outcome');
  }
}

function evaluate(backup: BackupContext, word: RegisterWord | null): void {
  const { image, state, options, suspicion } = backup;
  assert(image !== null && state.name === 'suspecting', 'suspects only with an image');
  const conclusion = conclude(word, {
    instance: image.instance,
    runner: backup.runner,
    pairedWord: backup.pairedWord,
    generation: backup.generation,
    isForced: suspicion === 'forced',
    isShared: options.onSilence === 'arbiter',
  });
  backup.noteGeneration(word);
  const text = `the register says ${describeWord(word)}`;
  switch (conclusion.kind) {
    case 'promote':
      if (suspicion === 'forced') {
        backup.report(`${text}; promoting by force: unprotected output may be lost`);
      }
      return backup.seal(conclusion.from, conclusion.to);
    case 'outdated':
      return readAgain(backup, options.limits.registerRetryMs, `${text}, which is outdated`);
    case 'notYet':
      return readAgain(backup, options.limits.registerAnswerMs, `${text}: not paired yet`);
    case 'lost':
      return becomeLost(backup, text);
    default:
      return unreachable(conclusion, 'conclusion');
  }
}

function readAgain(backup: BackupContext, pauseMs: number, why: string): void {
  backup.become({ name: 'suspecting', askAgainAtMs: backup.nowMs + pauseMs }, why);
}
