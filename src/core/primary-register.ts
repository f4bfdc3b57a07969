/**
 * What the register's answers mean for the primary: whether it runs at all, alone or paired, or
 * has lost the right to.
 */
import { assert, unreachable } from '../base/assert.ts';
import { advanceSevered } from './primary-backups.ts';
import type { PrimaryContext } from './primary-context.ts';
import { becomeFenced, becomePaired, becomeSevered, becomeUnprotected } from './primary-roles.ts';
import { isOver } from './primary-state.ts';
import type { RegisterAnswer, RegisterOutcome } from './register-client.ts';
import { type RegisterWord, solo, startAlone } from './register.ts';

export function handleRegisterAnswer(primary: PrimaryContext, event: RegisterAnswer): void {
  if (isOver(primary.state)) return;
  const asked = primary.register.unsettled;
  const { outcome, requests } = primary.register.answer(event, primary.nowMs);
  primary.emit(...requests);
  if (outcome !== null) handleOutcome(primary, outcome, asked?.next ?? null);
}

/** Notices answers that did not come, and asks again when it is time. */
export function tickRegister(primary: PrimaryContext): void {
  const asked = primary.register.unsettled;
  const { outcome, requests } = primary.register.tick(primary.nowMs);
  primary.emit(...requests);
  if (outcome !== null) handleOutcome(primary, outcome, asked?.next ?? null);
}

function handleOutcome(
  primary: PrimaryContext,
  outcome: RegisterOutcome,
  asked: RegisterWord | null,
): void {
  switch (outcome.kind) {
    case 'outOfReach':
      return primary.report(`the arbiter is out of reach: ${outcome.why}; no role changes`);
    case 'read':
      return evaluate(primary, outcome.word);
    case 'won':
      primary.word = outcome.word;
      if (asked?.partner === null) return becomeUnprotected(primary, whyAlone(primary));
      return paired(primary, outcome.word);
    case 'lost':
      if (primary.state.name === 'connecting') return evaluate(primary, outcome.word);
      return becomeFenced(primary, outcome.word);
    default:
      return unreachable(outcome, 'outcome');
  }
}

/** What was lost stays the reason for as long as nothing else happens. */
function whyAlone({ state }: PrimaryContext): string {
  return state.name === 'severed' ? `alone by the register: ${state.why}` : 'alone by the register';
}

/** Only while connecting: what the word means for a guest that runs here already. */
function evaluate(primary: PrimaryContext, word: RegisterWord | null): void {
  const { register, nowMs } = primary;
  const { instance } = primary.options;
  primary.word = word;
  if (word === null) {
    primary.emit(...register.change(null, startAlone(instance), nowMs));
  } else if (word.runner !== instance) {
    becomeFenced(primary, word);
  } else if (word.partner !== null && !primary.mayGoSolo) {
    const why = 'paired before the engine started again';
    becomeSevered(primary, word.partner, { why, isHopeless: true });
  } else {
    primary.emit(...register.change(word, solo(word), nowMs));
  }
}

function paired(primary: PrimaryContext, word: RegisterWord): void {
  const { state } = primary;
  assert(word.partner !== null, 'paired with somebody');
  if (state.name === 'syncing') {
    primary.rest.paired(primary.nowMs);
    becomePaired(primary, state.link, word.partner, 'paired');
  } else {
    // The link broke while the register was asked; whether to resume or to go on alone is
    // decided like after any other break.
    assert(state.name === 'severed', 'asked to pair while syncing');
    advanceSevered(primary);
  }
}
