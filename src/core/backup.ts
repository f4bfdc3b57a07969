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
 * `backup-types.ts`.
 */
import { assert, unreachable } from '../base/assert.ts';
import type { ErrorCode } from '../base/errors.ts';
import { type Generation, NO_EPOCH, NO_GENERATION } from '../base/units.ts';
import {
  type BackupState,
  isOver,
  mayTurnBack,
  type PrimaryLink,
  type PromotionStep,
  stepOf,
  type Suspicion,
} from './backup-state.ts';
import type {
  BackupEffect,
  BackupEvent,
  BackupOptions,
  BackupStateName,
  BackupStatus,
} from './backup-types.ts';
import { HeldImage } from './held-image.ts';
import { Outbox } from './outbox.ts';
import type { LinkId } from './primary-types.ts';
import { RegisterClient, type RegisterOutcome } from './register-client.ts';
import {
  describeWord,
  type Instance,
  isInstance,
  promote,
  type RegisterWord,
  sameWord,
} from './register.ts';
import { conclude } from './suspicion.ts';

/** A promise still holds at the instant it ends: we wake this much later, in milliseconds. */
const PAST_MS = 0.001;

type EventOf<Kind extends BackupEvent['kind']> = Extract<BackupEvent, { kind: Kind }>;

/** See the head of this file. One instance per node and guest; `step` is the only way in. */
export class Backup {
  readonly #options: BackupOptions;
  readonly #register: RegisterClient;
  /** No backup promotes itself (--on-silence hold). */
  readonly #mustHold: boolean;
  readonly #outbox = new Outbox<BackupEffect>();
  #state: BackupState = { name: 'empty' };
  #why = 'not started';
  #link: PrimaryLink | null = null;
  /** The whole image held, or null while there is none or it is torn. */
  #image: HeldImage | null = null;
  /** The primary's instance, as it introduced itself. */
  #runner: Instance | null = null;
  /** Highest generation heard of. */
  #generation: Generation = NO_GENERATION;
  /** The word under which the image held was paired, once we were told. */
  #pairedWord: RegisterWord | null = null;
  #suspicion: Suspicion = 'signs';
  /** Why the primary is dead by the verdict that stands, and since which link. */
  #death: { readonly why: string; readonly linkId: LinkId | null } | null = null;
  #nextSealId = 1;
  #nowMs = Number.NEGATIVE_INFINITY;

  constructor(options: BackupOptions) {
    assert(options.promiseMs > 0, 'a promise lasts some time');
    this.#options = options;
    this.#mustHold = options.onSilence === 'hold';
    const { registerAnswerMs: answerMs, registerRetryMs: retryMs } = options.limits;
    this.#register = new RegisterClient({ answerMs, retryMs });
  }

  get status(): BackupStatus {
    return {
      state: this.#state.name,
      why: this.#why,
      instance: this.#image?.instance ?? null,
      generation: this.#generation,
      isPaired: this.#pairedWord !== null,
      acknowledgedEpoch: this.#image?.acknowledgedEpoch ?? NO_EPOCH,
      receivedEpoch: this.#image?.receivedEpoch ?? NO_EPOCH,
      appliedEpoch: this.#image?.appliedEpoch ?? NO_EPOCH,
    };
  }

  /** Takes one event and says what is to be done, in order. */
  step(event: BackupEvent, nowMs: number): readonly BackupEffect[] {
    assert(nowMs >= this.#nowMs, 'time never goes backward');
    this.#nowMs = nowMs;
    this.#outbox.begin(event.kind === 'timer');
    if (this.#state.name !== 'stopped') this.#handle(event);
    if (!isOver(this.#state)) this.#tick();
    return this.#outbox.end(isOver(this.#state) ? [] : this.#deadlinesMs(), nowMs);
  }

  #handle(event: BackupEvent): void {
    switch (event.kind) {
      case 'start':
        return this.#become({ name: 'empty' }, 'waiting for the primary');
      case 'linkUp':
        return this.#handleLinkUp(event.linkId);
      case 'linkClosed':
        if (this.#isCurrent(event.linkId)) this.#loseLink(event.why);
        return;
      case 'welcome':
        return this.#handleWelcome(event);
      case 'imagePrepared':
        return this.#handlePrepared(event.linkId, event.instance);
      case 'imageFailed':
        if (!this.#isCurrent(event.linkId) || this.#state.name !== 'syncing') return;
        return this.#dropLink('ERR_HOST_IMAGE', `this host cannot hold the image: ${event.why}`);
      case 'baseEnd':
        return this.#handleBaseEnd(event.linkId, event.complete);
      case 'epochReceived':
        return this.#handleEpoch(event);
      case 'epochApplied':
        if (this.#image?.instance === event.instance) this.#image.applied(event.epoch);
        return;
      case 'applyFailed':
        if (this.#image?.instance === event.instance) this.#loseImage(event.why);
        return;
      case 'paired':
        return this.#handlePaired(event);
      case 'verdict':
        return event.verdict === 'dead'
          ? this.#handleDead(event.why)
          : this.#handleAlive(event.why);
      case 'goodbye':
        return this.#handleGoodbye(event);
      case 'promisesSealed':
        return this.#handleSealed(event.requestId, event.untilMs);
      case 'registerAnswer': {
        if (isOver(this.#state)) return;
        const { outcome, requests } = this.#register.answer(event, this.#nowMs);
        this.#emit(...requests);
        if (outcome !== null) this.#handleOutcome(outcome);
        return;
      }
      case 'guestStarted':
        return this.#handleStarted();
      case 'guestStartFailed':
        if (stepOf(this.#state) !== 'starting') return;
        return this.#becomeLost(`named in the register, but no guest started: ${event.why}`);
      case 'promoteForced':
        return this.#handleForced();
      case 'shutdown':
        return this.#handleShutdown();
      case 'timer':
        return;
      default:
        return unreachable(event, 'event');
    }
  }

  // ---- the link and the image

  #handleLinkUp(linkId: LinkId): void {
    const { name } = this.#state;
    if (name === 'running' || name === 'promoting') {
      return this.#emit({ kind: 'dropLink', linkId, code: 'ERR_TRANSPORT_BUSY', why: this.#why });
    }
    if (this.#link !== null) this.#dropLink('ERR_TRANSPORT_REPLACED', 'dialled again');
    this.#link = { linkId, welcomeUntilMs: this.#nowMs + this.#options.limits.welcomeMs };
    const image = this.#image;
    const holds = image === null ? null : { instance: image.instance, epoch: image.receivedEpoch };
    this.#emit({ kind: 'sendHello', linkId, holds });
  }

  #handleWelcome(event: EventOf<'welcome'>): void {
    if (!this.#isCurrent(event.linkId) || this.#link?.welcomeUntilMs === null) return;
    if (event.generation < this.#generation) {
      return this.#dropLink(
        'ERR_FENCED_OLD_GENERATION',
        `${event.runner} speaks for generation ${event.generation}, we know ${this.#generation}`,
      );
    }
    const { name } = this.#state;
    if (name === 'promoting' || name === 'running') return;
    if (this.#death?.linkId === event.linkId) {
      // Sent before its sender was judged dead, for all we know; a new link would prove more.
      return this.#dropLink('ERR_TIMEOUT_PRIMARY', this.#death.why);
    }
    this.#link = { linkId: event.linkId, welcomeUntilMs: null };
    this.#generation = event.generation;
    this.#runner = event.runner;
    if (event.plan === 'resume') return this.#resume(event);
    // A primary that gives a new image runs alone by the register: the old image may go.
    this.#giveUpImage();
    this.#become(
      { name: 'syncing', instance: null, isBaseDone: false },
      `${event.runner} gives us ${event.plan === 'full' ? 'a new image' : 'the changed pages'}`,
    );
    this.#emit({ kind: 'prepareImage', linkId: event.linkId, plan: event.plan });
  }

  #resume(event: EventOf<'welcome'>): void {
    const image = this.#image;
    const { name } = this.#state;
    if (image === null || (name !== 'following' && name !== 'suspecting' && name !== 'lost')) {
      return this.#dropLink('ERR_PROTOCOL_RESUME', 'nothing here to resume');
    }
    if (event.fromEpoch > image.receivedEpoch + 1) {
      return this.#dropLink('ERR_PROTOCOL_EPOCH_GAP', `resumed only from ${event.fromEpoch} on`);
    }
    // It answered on a link made after it was taken for dead.
    if (name === 'suspecting') this.#register.cancelRead();
    if (name === 'lost') this.#emit({ kind: 'promiseAs', instance: image.instance });
    this.#become({ name: 'following' }, `resumed at epoch ${image.receivedEpoch}`);
    this.#acknowledge(image);
  }

  #handlePrepared(linkId: LinkId, instance: Instance): void {
    if (!this.#isCurrent(linkId) || this.#state.name !== 'syncing') return;
    if (this.#state.instance !== null) return;
    assert(isInstance(instance) && instance !== this.#runner, `not an instance: ${instance}`);
    this.#state = { ...this.#state, instance };
    this.#emit({ kind: 'promiseAs', instance }, { kind: 'sendReady', linkId, instance });
  }

  #handleBaseEnd(linkId: LinkId, complete: boolean): void {
    if (!this.#isCurrent(linkId) || this.#state.name !== 'syncing') return;
    if (!complete || this.#state.instance === null) {
      return this.#dropLink('ERR_INTEGRITY_BASE', 'the base image came incomplete');
    }
    this.#state = { ...this.#state, isBaseDone: true };
  }

  #handleEpoch(event: EventOf<'epochReceived'>): void {
    const state = this.#state;
    const isWanted =
      this.#isCurrent(event.linkId) &&
      (state.name === 'syncing' || state.name === 'following' || mayTurnBack(this.#state));
    if (!isWanted) return this.#emit({ kind: 'discardPartialEpoch' });
    if (!event.intact || event.epoch < 1) {
      this.#emit({ kind: 'discardPartialEpoch' });
      return this.#dropLink('ERR_INTEGRITY_EPOCH', `epoch ${event.epoch} came damaged`);
    }
    if (state.name === 'syncing') {
      const { instance, isBaseDone } = state;
      if (instance === null || !isBaseDone) {
        this.#emit({ kind: 'discardPartialEpoch' });
        return this.#dropLink('ERR_PROTOCOL_ORDER', 'an epoch came before the base image');
      }
      this.#image = new HeldImage(instance, event.epoch);
      this.#become({ name: 'following' }, `the image is whole at epoch ${event.epoch}`);
    } else if (this.#image === null || event.epoch > this.#image.receivedEpoch + 1) {
      this.#emit({ kind: 'discardPartialEpoch' });
      return this.#dropLink('ERR_PROTOCOL_EPOCH_GAP', `epoch ${event.epoch} came too early`);
    } else if (event.epoch <= this.#image.receivedEpoch) {
      // The image never moves backward; saying again what we hold costs nothing.
      this.#emit({ kind: 'discardPartialEpoch' });
      return this.#acknowledge(this.#image);
    } else {
      this.#image.received(event.epoch);
    }
    this.#acknowledge(this.#image);
    this.#emit({ kind: 'apply', instance: this.#image.instance, epoch: event.epoch });
  }

  /** Says what is held, and promises; but not while we may be asking for what is not ours yet. */
  #acknowledge(image: HeldImage): void {
    const { name } = this.#state;
    if (this.#link?.welcomeUntilMs !== null) return;
    if (name !== 'following' && name !== 'suspecting') return;
    image.acknowledged();
    this.#emit({
      kind: 'acknowledge',
      linkId: this.#link.linkId,
      instance: image.instance,
      epoch: image.acknowledgedEpoch,
      promiseMs: this.#options.promiseMs,
    });
  }

  #handlePaired({ linkId, generation, instance }: EventOf<'paired'>): void {
    const runner = this.#runner;
    if (!this.#isCurrent(linkId) || this.#image?.instance !== instance) return;
    if (generation < this.#generation || runner === null) return;
    this.#generation = generation;
    this.#pairedWord = { generation, runner, partner: instance };
    if (this.#state.name === 'following') this.#reportNow('paired');
  }

  #loseLink(why: string): void {
    this.#link = null;
    this.#emit({ kind: 'discardPartialEpoch' });
    if (this.#state.name === 'syncing') {
      this.#giveUpImage();
      this.#become({ name: 'empty' }, `no whole image: ${why}`);
    } else if (this.#state.name === 'following' && this.#death !== null && !this.#mustHold) {
      // Nothing has spoken for it since, so no new verdict will come.
      this.#suspect(`${this.#death.why}, and the link is gone: ${why}`, 'signs');
    }
  }

  #dropLink(code: ErrorCode, why: string): void {
    if (this.#link === null) return;
    this.#emit({ kind: 'dropLink', linkId: this.#link.linkId, code, why });
    this.#loseLink(why);
  }

  /** The image is no longer one that may run. Whatever was promised for it stays promised. */
  #giveUpImage(): void {
    this.#image = null;
    this.#pairedWord = null;
    if (this.#state.name === 'suspecting') this.#register.cancelRead();
    this.#emit({ kind: 'promiseAs', instance: null });
  }

  #loseImage(why: string): void {
    const text = `the image cannot be trusted: ${why}`;
    const step = stepOf(this.#state);
    // What was asked of the register stays asked; without an image there is nothing to start.
    if (step === 'asking') {
      this.#image = null;
      return this.#reportNow(text);
    }
    if (step === 'draining' || step === 'starting') {
      this.#image = null;
      return this.#becomeLost(`the register names this node, but ${text}`);
    }
    const wasSealed = step !== null;
    this.#giveUpImage();
    if (wasSealed) this.#emit({ kind: 'unsealPromises' });
    this.#dropLink('ERR_INTEGRITY_IMAGE', text);
    this.#become({ name: 'empty' }, text);
  }

  // ---- suspicion

  #handleDead(why: string): void {
    const { name } = this.#state;
    this.#death = { why, linkId: this.#link?.linkId ?? null };
    if (name === 'following') return this.#suspect(why, 'signs');
    if (name === 'empty' || name === 'syncing' || name === 'lost') {
      this.#dropLink('ERR_TIMEOUT_PRIMARY', why);
    }
  }

  #suspect(why: string, suspicion: Suspicion): void {
    if (this.#mustHold) {
      this.#dropLink('ERR_TIMEOUT_PRIMARY', why);
      return this.#reportNow(`${why}; not promoting by itself (--on-silence hold)`);
    }
    this.#suspicion = suspicion;
    this.#become({ name: 'suspecting', askAgainAtMs: null }, why);
    if (this.#options.onSilence === 'arbiter') {
      this.#emit(...this.#register.read(this.#nowMs));
    } else if (this.#pairedWord !== null) {
      this.#seal(this.#pairedWord, promote(this.#pairedWord));
    } else {
      this.#reportNow(`${why}; not promoting, since we were never told that we are paired`);
    }
  }

  #handleAlive(why: string): void {
    this.#death = null;
    if (!mayTurnBack(this.#state) || this.#suspicion !== 'signs') return;
    const wasSealed = this.#state.name === 'promoting';
    if (this.#state.name === 'suspecting') this.#register.cancelRead();
    this.#become({ name: 'following' }, `the primary is alive: ${why}`);
    if (wasSealed) this.#emit({ kind: 'unsealPromises' });
    if (this.#image !== null) this.#acknowledge(this.#image);
  }

  #handleGoodbye(event: EventOf<'goodbye'>): void {
    if (!this.#isCurrent(event.linkId)) return;
    const why = `the primary said goodbye (${event.reason}): ${event.text}`;
    if (event.reason === 'guest-lost') {
      if (this.#state.name === 'following') this.#suspect(why, 'certain');
      return;
    }
    // It left on purpose, or others run: either way our image is not the one to go on from.
    if (this.#state.name === 'following' || this.#state.name === 'suspecting') {
      if (this.#state.name === 'suspecting') this.#register.cancelRead();
      this.#becomeLost(why);
    }
  }

  #handleForced(): void {
    const { name } = this.#state;
    if (
      this.#image === null ||
      (name !== 'following' && !mayTurnBack(this.#state) && name !== 'lost')
    ) {
      return this.#reportNow(`${this.#why}; cannot promote by force now`);
    }
    this.#suspicion = 'forced';
    if (name === 'promoting') return;
    if (name === 'suspecting') this.#register.cancelRead();
    this.#become({ name: 'suspecting', askAgainAtMs: null }, 'an operator insists');
    this.#emit(...this.#register.read(this.#nowMs));
  }

  #handleOutcome(outcome: RegisterOutcome): void {
    switch (outcome.kind) {
      case 'outOfReach':
        return this.#reportNow(`the arbiter is out of reach: ${outcome.why}; no role changes`);
      case 'read':
        return this.#evaluate(outcome.word);
      case 'won':
        return this.#drain(outcome.word);
      case 'lost':
        this.#noteGeneration(outcome.word);
        return this.#becomeLost(`the register says ${describeWord(outcome.word)}`);
      default:
        return unreachable(outcome, 'outcome');
    }
  }

  #evaluate(word: RegisterWord | null): void {
    const image = this.#image;
    assert(image !== null && this.#state.name === 'suspecting', 'suspects only with an image');
    const conclusion = conclude(word, {
      instance: image.instance,
      runner: this.#runner,
      pairedWord: this.#pairedWord,
      generation: this.#generation,
      isForced: this.#suspicion === 'forced',
      isShared: this.#options.onSilence === 'arbiter',
    });
    this.#noteGeneration(word);
    const text = `the register says ${describeWord(word)}`;
    switch (conclusion.kind) {
      case 'promote':
        if (this.#suspicion === 'forced') {
          this.#reportNow(`${text}; promoting by force: unprotected output may be lost`);
        }
        return this.#seal(conclusion.from, conclusion.to);
      case 'outdated':
        return this.#readAgain(this.#options.limits.registerRetryMs, `${text}, which is outdated`);
      case 'notYet':
        return this.#readAgain(this.#options.limits.registerAnswerMs, `${text}: not paired yet`);
      case 'lost':
        return this.#becomeLost(text);
      default:
        return unreachable(conclusion, 'conclusion');
    }
  }

  #readAgain(pauseMs: number, why: string): void {
    this.#become({ name: 'suspecting', askAgainAtMs: this.#nowMs + pauseMs }, why);
  }

  #noteGeneration(word: RegisterWord | null): void {
    if (word !== null && word.generation > this.#generation) this.#generation = word.generation;
  }

  // ---- promotion

  #seal(from: RegisterWord | null, to: RegisterWord): void {
    const requestId = this.#nextSealId;
    this.#nextSealId += 1;
    const step: PromotionStep = { kind: 'sealing', requestId };
    this.#become(
      { name: 'promoting', from, to, step },
      `${this.#why}; waiting for our promises to run out`,
    );
    this.#emit({ kind: 'sealPromises', requestId });
  }

  #handleSealed(requestId: number, untilMs: number): void {
    if (this.#state.name !== 'promoting' || this.#state.step.kind !== 'sealing') return;
    if (this.#state.step.requestId !== requestId) return;
    this.#state = { ...this.#state, step: { kind: 'waiting', untilMs } };
  }

  #ask(): void {
    assert(this.#state.name === 'promoting', 'promoting');
    const { from, to } = this.#state;
    this.#dropLink('ERR_TRANSPORT_PROMOTING', this.#why);
    this.#state = { ...this.#state, step: { kind: 'asking' } };
    this.#reportNow(`asking the register for ${describeWord(to)}`);
    this.#emit(...this.#register.change(from, to, this.#nowMs));
  }

  #drain(word: RegisterWord): void {
    assert(this.#state.name === 'promoting' && sameWord(word, this.#state.to), 'what was asked');
    this.#generation = word.generation;
    if (this.#image === null) {
      return this.#becomeLost('the register names this node, but its image is lost');
    }
    this.#state = { ...this.#state, step: { kind: 'draining' } };
    this.#reportNow(`won ${describeWord(word)}; draining to epoch ${this.#image.receivedEpoch}`);
  }

  #handleStarted(): void {
    if (this.#state.name !== 'promoting' || this.#state.step.kind !== 'starting') return;
    const image = this.#image;
    assert(image !== null && image.appliedEpoch === image.receivedEpoch, 'drained');
    assert(image.acknowledgedEpoch <= image.appliedEpoch, 'nothing acknowledged is left behind');
    const { to } = this.#state;
    this.#become({ name: 'running' }, `promoted at epoch ${image.appliedEpoch}`);
    const { instance, appliedEpoch: epoch } = image;
    this.#emit({ kind: 'openOutput' }, { kind: 'becomePrimary', instance, word: to, epoch });
  }

  // ---- states and time

  /** The image may not run; it may still serve as a base for changed pages. */
  #becomeLost(why: string): void {
    const wasSealed = this.#state.name === 'promoting';
    this.#pairedWord = null;
    this.#become({ name: 'lost' }, why);
    this.#emit({ kind: 'promiseAs', instance: null });
    if (wasSealed) this.#emit({ kind: 'unsealPromises' });
    this.#dropLink('ERR_FENCED_BACKUP', why);
  }

  #handleShutdown(): void {
    if (this.#state.name === 'running') return;
    this.#dropLink('ERR_TRANSPORT_SHUTDOWN', 'shut down');
    this.#emit({ kind: 'promiseAs', instance: null });
    this.#become({ name: 'stopped' }, 'shut down');
    this.#emit({ kind: 'finish', why: 'shut down' });
  }

  #tick(): void {
    const { outcome, requests } = this.#register.tick(this.#nowMs);
    this.#emit(...requests);
    if (outcome !== null) this.#handleOutcome(outcome);
    const welcomeUntilMs = this.#link?.welcomeUntilMs ?? null;
    if (welcomeUntilMs !== null && this.#nowMs >= welcomeUntilMs) {
      this.#dropLink('ERR_TIMEOUT_WELCOME', 'the primary did not answer our hello');
    }
    const state = this.#state;
    if (state.name === 'suspecting') {
      if (state.askAgainAtMs === null || this.#nowMs < state.askAgainAtMs) return;
      this.#state = { name: 'suspecting', askAgainAtMs: null };
      this.#emit(...this.#register.read(this.#nowMs));
    } else if (state.name === 'promoting') {
      this.#advancePromotion(state.step);
    }
  }

  #advancePromotion(step: PromotionStep): void {
    // Strictly after: at the very instant a promise ends, it still holds.
    if (step.kind === 'waiting' && this.#nowMs > step.untilMs) return this.#ask();
    const image = this.#image;
    if (step.kind !== 'draining' || image === null) return;
    if (image.appliedEpoch !== image.receivedEpoch) return;
    assert(this.#state.name === 'promoting', 'promoting');
    this.#state = { ...this.#state, step: { kind: 'starting' } };
    this.#reportNow(`starting the guest from epoch ${image.appliedEpoch}`);
    this.#emit({ kind: 'startGuest', instance: image.instance, epoch: image.appliedEpoch });
  }

  #deadlinesMs(): (number | null)[] {
    const state = this.#state;
    const step = state.name === 'promoting' ? state.step : null;
    return [
      this.#register.deadlineMs,
      this.#link?.welcomeUntilMs ?? null,
      state.name === 'suspecting' ? state.askAgainAtMs : null,
      step?.kind === 'waiting' ? step.untilMs + PAST_MS : null,
    ];
  }

  #isCurrent(linkId: LinkId): boolean {
    return this.#link?.linkId === linkId;
  }

  #become(state: BackupState, why: string): void {
    this.#state = state;
    this.#reportNow(why);
  }

  #reportNow(why: string): void {
    const state: BackupStateName = this.#state.name;
    this.#why = why;
    this.#emit({ kind: 'report', state, why });
  }

  #emit(...effects: readonly BackupEffect[]): void {
    this.#outbox.emit(...effects);
  }
}
