/**
 * The primary's changes of role, each with the effects that belong to it, in their order: output
 * opens only alone by the register, and closes before the guest is fenced.
 */
import { assert } from '../base/assert.ts';
import type { PrimaryContext } from './primary-context.ts';
import { type BackupLink, linkOf } from './primary-state.ts';
import { describeWord, type Instance, type RegisterWord } from './register.ts';
import { type BackupHello, planImage } from './resync.ts';

/** Alone by the register: output passes. Whoever waited is welcomed next, unless it fell behind. */
export function becomeUnprotected(primary: PrimaryContext, why: string): void {
  const { word, register, flow, options } = primary;
  assert(word?.runner === options.instance, 'the register says that we run');
  const { state } = primary;
  if (state.name === 'severed' && state.fellBehind) primary.rest.begin(primary.nowMs);
  assert(word.partner === null && !register.isBusy, 'alone, and certain of it');
  primary.state = { name: 'unprotected', prospect: null };
  primary.emit(flow.stopListening(), { kind: 'openOutput' }, flow.abandon());
  primary.report(why);
}

/** Tells a backup how it will get its image. */
export function welcomeImage(primary: PrimaryContext, hello: BackupHello): void {
  const { state, word, options, nowMs } = primary;
  assert(state.name === 'unprotected' && word !== null, 'alone by the register');
  const { linkId, node } = hello;
  const { plan, fromEpoch } = planImage(hello, primary.imageFacts);
  const untilMs = nowMs + options.limits.prepareMs;
  primary.state = { name: 'unprotected', prospect: { linkId, node, plan, untilMs } };
  primary.emit({ kind: 'welcome', linkId, plan, fromEpoch, generation: word.generation });
}

export function becomePaired(
  primary: PrimaryContext,
  link: BackupLink,
  partner: Instance,
  why: string,
): void {
  const { word, flow } = primary;
  assert(word?.partner === partner, 'the register names the partner');
  assert(flow.promiser === partner, 'only its promises count');
  primary.state = { name: 'paired', link, partner };
  flow.expect(primary.nowMs);
  const { generation } = word;
  primary.emit({ kind: 'announcePaired', linkId: link.linkId, generation, instance: partner });
  primary.report(why);
  primary.release();
}

/** How a backup was lost. */
export interface Loss {
  readonly why: string;
  /** The partner is not worth waiting for. */
  readonly isHopeless: boolean;
  readonly fellBehind?: boolean;
}

/** Out of touch. */
export function becomeSevered(primary: PrimaryContext, partner: Instance, loss: Loss): void {
  const { why, isHopeless, fellBehind = false } = loss;
  const graceMs = isHopeless ? 0 : primary.options.limits.reconnectGraceMs;
  const graceUntilMs = primary.nowMs + graceMs;
  primary.state = { name: 'severed', partner, graceUntilMs, why, fellBehind };
  primary.report(primary.mayGoSolo ? why : `${why}; output stays held until ${partner} is back`);
}

/** The right to run is lost to whoever this word names. */
export function becomeFenced(primary: PrimaryContext, word: RegisterWord | null): void {
  const why = `the register says ${describeWord(word)}`;
  primary.word = word;
  primary.emit({ kind: 'closeOutput' });
  // Another engine that speaks for this same instance runs this same guest: leave it alone.
  if (word?.runner !== primary.options.instance) primary.emit({ kind: 'fenceGuest', why });
  takeLeave(primary, 'fenced', why);
  primary.state = { name: 'fenced' };
  primary.report(why);
}

/** Says goodbye to whoever is connected; nobody's promises count from now on. */
export function takeLeave(
  primary: PrimaryContext,
  reason: 'shutdown' | 'guest-lost' | 'fenced',
  text: string,
): void {
  const { waitingHello, flow } = primary;
  const linkId = linkOf(primary.state)?.linkId ?? primary.farewellLinkId;
  if (linkId !== null) primary.emit({ kind: 'sayGoodbye', linkId, reason, text });
  if (waitingHello !== null)
    primary.emit({ kind: 'sayGoodbye', linkId: waitingHello.linkId, reason, text });
  primary.farewellLinkId = null;
  primary.waitingHello = null;
  primary.emit(flow.stopListening());
}
