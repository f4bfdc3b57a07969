/**
 * The backup's state machine: events and time in, effects out.
 *
 * Rules it keeps, whatever is lost, late, repeated or out of order:
 *
 * - An image is one instance. It is whole from the epoch that completes its base on, moves only
 *   forward, gap-free, and is never patched: to be synced anew is to become another instance.
 * - An epoch is acknowledged once every byte of it is here and checked; applying comes after.
 * - It may ask to be promoted only from a word that names its own instance as partner, after it
 *   stopped promising and every promise made has run out.
 * - From asking until the answer is known it acknowledges and promises nothing, and what was once
 *   asked is asked until it is answered.
 * - The register is won before the guest starts, and the guest started before its output opens.
 *
 *     empty -> syncing -> following <-> suspecting -> promoting -> running
 *       ^         ^           |             |            |
 *       +---------+-----------+--- lost <---+------------+
 *
 * It holds no sockets, timers or clocks. The meaning of events and effects is in
 * `backup-types.ts`; what they share: `backup-context.ts`. What is done about them:
 * `backup-link.ts` (the link), `backup-image.ts` (the image and its epochs), `backup-suspicion.ts`
 * (is the primary dead?), `backup-promotion.ts` (taking over).
 */
import { assert, unreachable } from '../base/assert.ts';
import { NO_EPOCH } from '../base/units.ts';
import { BackupContext } from './backup-context.ts';
import {
  handleApplyFailed,
  handleBaseEnd,
  handleEpoch,
  handleImageFailed,
  handlePaired,
  handlePrepared,
  handleWelcome,
} from './backup-image.ts';
import { dropLink, handleLinkUp, loseLink } from './backup-link.ts';
import {
  advancePromotion,
  handleSealed,
  handleStarted,
  handleStartFailed,
  loadAtMs,
} from './backup-promotion.ts';
import { isOver } from './backup-state.ts';
import {
  handleAlive,
  handleDead,
  handleForced,
  handleGoodbye,
  handleRegisterAnswer,
  readAgainWhenDue,
  tickRegister,
} from './backup-suspicion.ts';
import type { BackupEffect, BackupEvent, BackupOptions, BackupStatus } from './backup-types.ts';

/** A promise still holds at the instant it ends: we wake this much later, in milliseconds. */
const PAST_MS = 0.001;

/** See the head of this file. One instance per node and guest; `step` is the only way in. */
export class Backup {
  readonly #context: BackupContext;

  constructor(options: BackupOptions) {
    this.#context = new BackupContext(options);
  }

  get status(): BackupStatus {
    const { state, why, image, generation, pairedWord } = this.#context;
    return {
      state: state.name,
      why,
      instance: image?.instance ?? null,
      generation,
      isPaired: pairedWord !== null,
      acknowledgedEpoch: image?.acknowledgedEpoch ?? NO_EPOCH,
      receivedEpoch: image?.receivedEpoch ?? NO_EPOCH,
      appliedEpoch: image?.appliedEpoch ?? NO_EPOCH,
    };
  }

  /** Takes one event and says what is to be done, in order. */
  step(event: BackupEvent, nowMs: number): readonly BackupEffect[] {
    const context = this.#context;
    assert(nowMs >= context.nowMs, 'time never goes backward');
    context.nowMs = nowMs;
    context.outbox.begin(event.kind === 'timer');
    if (context.state.name !== 'stopped') this.#handle(event);
    if (!isOver(context.state)) this.#tick();
    return context.outbox.end(isOver(context.state) ? [] : this.#deadlinesMs(), nowMs);
  }

  #handle(event: BackupEvent): void {
    const context = this.#context;
    switch (event.kind) {
      case 'start':
        return context.become({ name: 'empty' }, 'waiting for the primary');
      case 'linkUp':
        return handleLinkUp(context, event.linkId);
      case 'linkClosed':
        if (context.isCurrent(event.linkId)) loseLink(context, event.why);
        return;
      case 'welcome':
        return handleWelcome(context, event);
      case 'imagePrepared':
        return handlePrepared(context, event.linkId, event.instance);
      case 'imageFailed':
        return handleImageFailed(context, event);
      case 'baseEnd':
        return handleBaseEnd(context, event.linkId, event.complete);
      case 'epochReceived':
        return handleEpoch(context, event);
      case 'epochApplied':
        if (context.image?.instance === event.instance) context.image.applied(event.epoch);
        return;
      case 'applyFailed':
        return handleApplyFailed(context, event);
      case 'paired':
        return handlePaired(context, event);
      case 'verdict':
        return event.verdict === 'dead'
          ? handleDead(context, event.why)
          : handleAlive(context, event.why);
      case 'goodbye':
        return handleGoodbye(context, event);
      case 'promisesSealed':
        return handleSealed(context, event.requestId, event.untilMs);
      case 'registerAnswer':
        return handleRegisterAnswer(context, event);
      case 'guestStarted':
        return handleStarted(context);
      case 'guestStartFailed':
        return handleStartFailed(context, event.why);
      case 'promoteForced':
        return handleForced(context);
      case 'shutdown':
        return this.#handleShutdown();
      case 'timer':
        return;
      default:
        return unreachable(event, 'event');
    }
  }

  #handleShutdown(): void {
    const context = this.#context;
    if (context.state.name === 'running') return;
    dropLink(context, 'ERR_TRANSPORT_SHUTDOWN', 'shut down');
    context.emit({ kind: 'promiseAs', instance: null });
    context.become({ name: 'stopped' }, 'shut down');
    context.emit({ kind: 'finish', why: 'shut down' });
  }

  #tick(): void {
    const context = this.#context;
    tickRegister(context);
    const welcomeUntilMs = context.link?.welcomeUntilMs ?? null;
    if (welcomeUntilMs !== null && context.nowMs >= welcomeUntilMs) {
      dropLink(context, 'ERR_TIMEOUT_WELCOME', 'the primary did not answer our hello');
    }
    readAgainWhenDue(context);
    advancePromotion(context);
  }

  #deadlinesMs(): (number | null)[] {
    const { state, register, link } = this.#context;
    const step = state.name === 'promoting' ? state.step : null;
    return [
      register.deadlineMs,
      link?.welcomeUntilMs ?? null,
      state.name === 'suspecting' ? state.askAgainAtMs : null,
      step?.kind === 'waiting' ? loadAtMs(step.untilMs) : null,
      step?.kind === 'loading' ? step.untilMs + PAST_MS : null,
    ];
  }
}
