/**
 * The primary's state machine: events and time in, effects out.
 *
 * Rules it keeps, whatever is lost, late, repeated or out of order:
 *
 * - Nothing of the guest is heard before the register says that this instance runs.
 * - Output is held from the final checkpoint's boundary *before* pairing is asked for, and from
 *   the moment of asking leaves only acknowledged, and only while a promise of that instance holds.
 * - Only acknowledgements and promises of the one instance on the one current link count.
 * - Output opens again only after the register said that this instance runs alone.
 * - The register out of reach changes nothing: held stays held, and asking goes on.
 * - Whoever loses the register loses the guest: output closed first, then the guest fenced.
 * - A backup that falls too far behind is left behind, and not taken back at once.
 *
 *     connecting -> unprotected <-> syncing -> protected <-> backlogged
 *                        ^                          |  ^
 *                        +-------- severed <--------+  | resume        any -> fenced, stopped
 *                                     +----------------+
 *
 * It does not know how a checkpoint is captured or sent. Events and effects: `primary-types.ts`;
 * what they share: `primary-context.ts`. What is done about them: `primary-register.ts` (its
 * answers), `primary-backups.ts` (who come and go), `primary-backlog.ts` (who do not keep up),
 * `primary-epochs.ts` (images and checkpoints), `primary-roles.ts` (changes of role), `primary-end.ts`.
 */
import { assert, unreachable } from '../base/assert.ts';
import { NO_GENERATION } from '../base/units.ts';
import {
  advanceSevered,
  handleHello,
  handleLinkClosed,
  handlePeerDead,
  handleReady,
  handleSyncFailed,
} from './primary-backups.ts';
import {
  dropTooFarBehind,
  dropUnanswering,
  restedAtMs,
  tooFarBehindAtMs,
  welcomeRested,
} from './primary-backlog.ts';
import { PrimaryContext } from './primary-context.ts';
import { advanceShutdown, handleGuestLost, handleShutdown } from './primary-end.ts';
import {
  checkpointDueMs,
  handleAcknowledged,
  handleSkipped,
  handleSyncRound,
  handleTaken,
  takeCheckpointWhenDue,
} from './primary-epochs.ts';
import { handleRegisterAnswer, tickRegister } from './primary-register.ts';
import { becomeUnprotected } from './primary-roles.ts';
import { answerUntilMs, isOver, linkOf, nameOf } from './primary-state.ts';
import type {
  PrimaryEffect,
  PrimaryEvent,
  PrimaryEventOf as EventOf,
  PrimaryOptions,
  PrimaryStatus,
} from './primary-types.ts';

/** See the head of this file. One instance per guest and engine; `step` is the only way in. */
export class Primary {
  readonly #context: PrimaryContext;
  /** What was said of a skipped checkpoint, until one is taken again. */
  #skippedWhy: string | null = null;

  constructor(options: PrimaryOptions) {
    this.#context = new PrimaryContext(options);
  }

  get status(): PrimaryStatus {
    const { state, why, word, flow } = this.#context;
    return {
      state: nameOf(state, flow.pacer.isBacklogged),
      why,
      isProtected: state.name === 'paired' || state.name === 'severed',
      word,
      generation: word?.generation ?? NO_GENERATION,
      partner: word?.partner ?? null,
      takenEpoch: flow.takenEpoch,
      acknowledgedEpoch: flow.acknowledgedEpoch,
      releasedEpoch: flow.releasedEpoch,
      appliedEpoch: flow.appliedEpoch,
      intervalMs: flow.pacer.intervalMs,
      effectiveIntervalMs: flow.pacer.effectiveIntervalMs,
      minIntervalMs: flow.pacer.minIntervalMs,
      earlyCheckpoints: flow.earlyCount,
      skippedCheckpoints: flow.skippedCount,
    };
  }

  /**
   * Takes one event and says what is to be done, in order.
   * @throws {RangeError} for `setInterval` and `setMinInterval` with what is no interval.
   */
  step(event: PrimaryEvent, nowMs: number): readonly PrimaryEffect[] {
    const context = this.#context;
    assert(nowMs >= context.nowMs, 'time never goes backward');
    context.nowMs = nowMs;
    context.outbox.begin(event.kind === 'timer');
    this.#handle(event);
    if (!isOver(context.state)) this.#tick();
    return context.outbox.end(isOver(context.state) ? [] : this.#deadlinesMs(), nowMs);
  }

  #handle(event: PrimaryEvent): void {
    const context = this.#context;
    switch (event.kind) {
      case 'start':
        context.emit({ kind: 'holdOutput' });
        context.report('reading the register');
        context.emit(...context.register.read(context.nowMs));
        return;
      case 'startPromoted':
        assert(event.word.runner === context.options.instance, 'promoted under its own name');
        context.word = event.word;
        return becomeUnprotected(context, 'promoted; no backup yet');
      case 'registerAnswer':
        return handleRegisterAnswer(context, event);
      case 'backupHello':
        return handleHello(context, event);
      case 'backupReady':
        return handleReady(context, event.linkId, event.instance);
      case 'linkClosed':
        return handleLinkClosed(context, event.linkId, event.why);
      case 'syncRoundDone':
        return handleSyncRound(context, event.linkId, event.dirtyLeft);
      case 'syncFailed':
        return handleSyncFailed(context, event.linkId, event.why);
      case 'checkpointTaken':
        return this.#handleTaken(event);
      case 'checkpointSkipped':
        return this.#handleSkipped(event);
      case 'acknowledged':
        return handleAcknowledged(context, event);
      case 'promised':
        if (context.flow.promised(event)) context.release();
        return;
      case 'applied':
        if (linkOf(context.state)?.linkId === event.linkId)
          context.flow.applied(event.epoch, context.nowMs);
        return;
      case 'outputWaiting':
        return context.flow.pacer.outputWaiting();
      case 'queueLevel':
        return this.#handleQueueLevel(event);
      case 'peerVerdict':
        if (event.verdict === 'dead') handlePeerDead(context, event.why);
        return;
      case 'guestLost':
        return handleGuestLost(context, event.why);
      case 'setInterval':
        return context.flow.pacer.setInterval(event.intervalMs);
      case 'setMinInterval':
        return context.flow.pacer.setMinInterval(event.minIntervalMs);
      case 'shutdown':
        return handleShutdown(context, event.why);
      case 'timer':
        return;
      default:
        return unreachable(event, 'event');
    }
  }

  #handleTaken(event: EventOf<'checkpointTaken'>): void {
    if (this.#context.why === this.#skippedWhy) this.#context.report('checkpoints go on');
    this.#skippedWhy = null;
    handleTaken(this.#context, event);
  }

  #handleSkipped({ why }: EventOf<'checkpointSkipped'>): void {
    handleSkipped(this.#context);
    // A machine that stands is skipped at every interval, maybe for days: said once.
    const text = `a checkpoint was skipped: ${why}`;
    if (text === this.#skippedWhy) return;
    this.#skippedWhy = text;
    this.#context.report(text);
  }

  #handleQueueLevel({ bytes }: EventOf<'queueLevel'>): void {
    const { flow, state } = this.#context;
    const hasChanged = flow.pacer.queueLevel(bytes);
    if (hasChanged && state.name === 'paired') this.#context.report(flow.pacer.text);
  }

  #tick(): void {
    const context = this.#context;
    tickRegister(context);
    dropTooFarBehind(context);
    dropUnanswering(context);
    advanceShutdown(context);
    advanceSevered(context);
    welcomeRested(context);
    takeCheckpointWhenDue(context);
  }

  #deadlinesMs(): (number | null)[] {
    const { state, mayGoSolo, register, flow, shutdownUntilMs } = this.#context;
    const mayAskSolo = state.name === 'severed' && mayGoSolo && !register.isBusy;
    return [
      register.deadlineMs,
      answerUntilMs(state, flow.overdueAtMs),
      tooFarBehindAtMs(this.#context),
      restedAtMs(this.#context),
      checkpointDueMs(this.#context),
      shutdownUntilMs,
      mayAskSolo ? state.graceUntilMs : null,
    ];
  }
}
