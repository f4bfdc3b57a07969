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
 *
 *     connecting -> unprotected <-> syncing -> protected <-> backlogged
 *                        ^                          |  ^
 *                        +-------- severed <--------+  | resume        any -> fenced, stopped
 *                                     +----------------+
 *
 * It does not know how a checkpoint is captured or sent. Events and effects: `primary-types.ts`.
 */
import { assert, unreachable } from '../base/assert.ts';
import { type Epoch, NO_GENERATION } from '../base/units.ts';
import { EpochFlow } from './epoch-flow.ts';
import { Outbox } from './outbox.ts';
import type {
  LinkId,
  PrimaryEffect,
  PrimaryEvent,
  PrimaryEventOf as EventOf,
  PrimaryOptions,
  PrimaryStatus,
} from './primary-types.ts';
import { receive } from './reception.ts';
import { type RegisterAnswer, RegisterClient, type RegisterOutcome } from './register-client.ts';
import {
  afterRound,
  answerUntilMs,
  type BackupLink,
  isOver,
  linkOf,
  mayBePaired,
  nameOf,
  type PrimaryState,
  type SyncingState,
  wantsCheckpoint,
} from './primary-state.ts';
import {
  describeWord,
  type Instance,
  isInstance,
  pair,
  type RegisterWord,
  solo,
  startAlone,
} from './register.ts';
import { instanceReused, onlyPartnerMayResume, type Refusal } from './refusals.ts';
import { type BackupHello, type ImageFacts, planImage, resumeFrom } from './resync.ts';

/** See the head of this file. One instance per guest and engine; `step` is the only way in. */
export class Primary {
  readonly #options: PrimaryOptions;
  readonly #register: RegisterClient;
  readonly #flow: EpochFlow;
  /** False when it is the backup's part to go on (--on-silence promote). */
  readonly #mayGoSolo: boolean;
  readonly #outbox = new Outbox<PrimaryEffect>();
  #state: PrimaryState = { name: 'connecting' };
  #why = 'not started';
  /** What the register said last for certain. */
  #word: RegisterWord | null = null;
  /** The one backup that may wait for the register to be settled. */
  #waitingHello: BackupHello | null = null;
  /** A link kept only to say goodbye on. */
  #farewellLinkId: LinkId | null = null;
  #lastImage: Instance | null = null;
  #shutdownUntilMs: number | null = null;
  #shutdownWhy = 'shut down';
  /** What was said of a skipped checkpoint, until one is taken again. */
  #skippedWhy: string | null = null;
  #nowMs = Number.NEGATIVE_INFINITY;

  constructor(options: PrimaryOptions) {
    assert(isInstance(options.instance), `not an instance: ${options.instance}`);
    this.#options = options;
    const { registerAnswerMs: answerMs, registerRetryMs: retryMs } = options.limits;
    this.#register = new RegisterClient({ answerMs, retryMs });
    this.#flow = new EpochFlow(options);
    this.#mayGoSolo = options.onSilence !== 'promote';
  }

  get status(): PrimaryStatus {
    return {
      state: nameOf(this.#state, this.#flow.pacer.isBacklogged),
      why: this.#why,
      isProtected: this.#state.name === 'paired' || this.#state.name === 'severed',
      word: this.#word,
      generation: this.#word?.generation ?? NO_GENERATION,
      partner: this.#word?.partner ?? null,
      takenEpoch: this.#flow.takenEpoch,
      acknowledgedEpoch: this.#flow.acknowledgedEpoch,
      releasedEpoch: this.#flow.releasedEpoch,
      appliedEpoch: this.#flow.appliedEpoch,
      intervalMs: this.#flow.pacer.intervalMs,
      effectiveIntervalMs: this.#flow.pacer.effectiveIntervalMs,
      skippedCheckpoints: this.#flow.skippedCount,
    };
  }

  /**
   * Takes one event and says what is to be done, in order.
   * @throws {RangeError} for `setInterval` with an interval that is not positive and finite.
   */
  step(event: PrimaryEvent, nowMs: number): readonly PrimaryEffect[] {
    assert(nowMs >= this.#nowMs, 'time never goes backward');
    this.#nowMs = nowMs;
    this.#outbox.begin(event.kind === 'timer');
    this.#handle(event);
    if (!isOver(this.#state)) this.#tick();
    return this.#outbox.end(isOver(this.#state) ? [] : this.#deadlinesMs(), nowMs);
  }

  #handle(event: PrimaryEvent): void {
    switch (event.kind) {
      case 'start':
        this.#emit({ kind: 'holdOutput' });
        this.#reportNow('reading the register');
        this.#emit(...this.#register.read(this.#nowMs));
        return;
      case 'startPromoted':
        assert(event.word.runner === this.#options.instance, 'promoted under its own name');
        this.#word = event.word;
        this.#becomeUnprotected('promoted; no backup yet');
        return;
      case 'registerAnswer':
        return this.#handleRegisterAnswer(event);
      case 'backupHello':
        return this.#handleHello(event);
      case 'backupReady':
        return this.#handleReady(event.linkId, event.instance);
      case 'linkClosed':
        if (this.#waitingHello?.linkId === event.linkId) this.#waitingHello = null;
        if (linkOf(this.#state)?.linkId === event.linkId) this.#loseBackup(event.why, false);
        return;
      case 'syncRoundDone':
        return this.#handleSyncRound(event.linkId, event.dirtyLeft);
      case 'syncFailed':
        if (this.#state.name === 'syncing' && this.#state.link.linkId === event.linkId) {
          this.#dropAndLose(event.why, false);
        }
        return;
      case 'checkpointTaken':
        return this.#handleTaken(event.epoch, event.framesSent);
      case 'checkpointSkipped':
        return this.#handleSkipped(event.why);
      case 'acknowledged':
        return this.#handleAcknowledged(event);
      case 'promised':
        if (this.#flow.promised(event)) this.#release();
        return;
      case 'applied':
        if (linkOf(this.#state)?.linkId === event.linkId) this.#flow.applied(event.epoch);
        return;
      case 'queueLevel':
        if (this.#flow.pacer.queueLevel(event.bytes)) this.#reportPace();
        return;
      case 'peerVerdict':
        if (event.verdict === 'dead') this.#handlePeerDead(event.why);
        return;
      case 'guestLost':
        return this.#handleGuestLost(event.why);
      case 'setInterval':
        return this.#flow.pacer.setInterval(event.intervalMs);
      case 'shutdown':
        this.#shutdownWhy = event.why ?? this.#shutdownWhy;
        this.#shutdownUntilMs ??= this.#nowMs + this.#options.limits.shutdownMs;
        return;
      case 'timer':
        return;
      default:
        return unreachable(event, 'event');
    }
  }

  // ---- the register

  #handleRegisterAnswer(event: RegisterAnswer): void {
    if (isOver(this.#state)) return;
    const asked = this.#register.unsettled;
    const { outcome, requests } = this.#register.answer(event, this.#nowMs);
    this.#emit(...requests);
    if (outcome !== null) this.#handleOutcome(outcome, asked?.next ?? null);
  }

  #handleOutcome(outcome: RegisterOutcome, asked: RegisterWord | null): void {
    switch (outcome.kind) {
      case 'outOfReach':
        return this.#reportNow(`the arbiter is out of reach: ${outcome.why}; no role changes`);
      case 'read':
        return this.#evaluate(outcome.word);
      case 'won':
        this.#word = outcome.word;
        if (asked?.partner === null) return this.#becomeUnprotected('alone by the register');
        return this.#paired(outcome.word);
      case 'lost':
        if (this.#state.name === 'connecting') return this.#evaluate(outcome.word);
        return this.#becomeFenced(outcome.word);
      default:
        return unreachable(outcome, 'outcome');
    }
  }

  /** Only while connecting: what the word means for a guest that runs here already. */
  #evaluate(word: RegisterWord | null): void {
    const { instance } = this.#options;
    this.#word = word;
    if (word === null) {
      this.#emit(...this.#register.change(null, startAlone(instance), this.#nowMs));
    } else if (word.runner !== instance) {
      this.#becomeFenced(word);
    } else if (word.partner !== null && !this.#mayGoSolo) {
      this.#becomeSevered(word.partner, 'paired before the engine started again', true);
    } else {
      this.#emit(...this.#register.change(word, solo(word), this.#nowMs));
    }
  }

  #paired(word: RegisterWord): void {
    assert(word.partner !== null, 'paired with somebody');
    if (this.#state.name === 'syncing') {
      this.#becomePaired(this.#state.link, word.partner, 'paired');
    } else {
      // The link broke while the register was asked; whether to resume or to go on alone is
      // decided like after any other break.
      assert(this.#state.name === 'severed', 'asked to pair while syncing');
      this.#advanceSevered();
    }
  }

  // ---- backups that come and go

  #handleHello(hello: BackupHello): void {
    const { linkId, node } = hello;
    const reception = receive(hello, this.#state, this.#waitingHello, this.#why);
    switch (reception.kind) {
      case 'refuse':
        return this.#refuse(linkId, reception.refusal);
      case 'welcome':
        return this.#welcomeImage(hello);
      case 'replace':
        this.#dropAndLose(`${node} dialled again`, false);
        return this.#handleHello(hello);
      case 'wait':
        if (reception.replaces !== null) {
          const why = `${node} dialled again`;
          this.#emit({ kind: 'dropLink', linkId: reception.replaces, why });
        }
        this.#waitingHello = hello;
        return this.#advanceSevered();
      default:
        return unreachable(reception, 'reception');
    }
  }

  #refuse(linkId: LinkId, refusal: Refusal): void {
    this.#emit({ kind: 'refuseLink', linkId, ...refusal });
  }

  #welcomeImage(hello: BackupHello): void {
    assert(this.#state.name === 'unprotected' && this.#word !== null, 'alone by the register');
    const { plan, fromEpoch } = planImage(hello, this.#imageFacts());
    this.#state = {
      name: 'unprotected',
      prospect: {
        linkId: hello.linkId,
        node: hello.node,
        plan,
        untilMs: this.#nowMs + this.#options.limits.prepareMs,
      },
    };
    const { generation } = this.#word;
    this.#emit({ kind: 'welcome', linkId: hello.linkId, plan, fromEpoch, generation });
  }

  #handleReady(linkId: LinkId, instance: Instance): void {
    if (this.#state.name !== 'unprotected' || this.#state.prospect?.linkId !== linkId) return;
    const { prospect } = this.#state;
    // A name used before would let old acknowledgements count for the new image.
    if (
      !isInstance(instance) ||
      instance === this.#options.instance ||
      instance === this.#lastImage
    ) {
      this.#refuse(linkId, instanceReused(instance));
      this.#state = { name: 'unprotected', prospect: null };
      return;
    }
    const link = { linkId, node: prospect.node };
    this.#state = { name: 'syncing', link, instance, phase: { kind: 'rounds', round: 0 } };
    this.#reportNow(`giving ${instance} an image; unprotected until it is complete`);
    this.#emit({ kind: 'startSync', linkId, plan: prospect.plan });
  }

  #handlePeerDead(why: string): void {
    if (this.#state.name === 'severed') {
      this.#state = { ...this.#state, graceUntilMs: this.#nowMs };
      this.#advanceSevered();
    } else if (linkOf(this.#state) !== null) {
      this.#dropAndLose(why, true);
    }
  }

  #dropAndLose(why: string, isDead: boolean): void {
    const link = linkOf(this.#state);
    assert(link !== null, 'a link to drop');
    this.#emit({ kind: 'dropLink', linkId: link.linkId, why });
    this.#loseBackup(why, isDead);
  }

  /** The current link is gone. `isDead`: and so is the backup, so there is no use in waiting. */
  #loseBackup(why: string, isDead: boolean): void {
    const state = this.#state;
    switch (state.name) {
      case 'unprotected':
        this.#state = { name: 'unprotected', prospect: null };
        return this.#reportNow(`the backup took no image: ${why}`);
      case 'syncing':
        if (state.phase.kind === 'pairing') {
          return this.#becomeSevered(state.instance, why, isDead);
        }
        // Pairing was not asked for, so nobody can have been promoted.
        return this.#becomeUnprotected(`the backup was lost while syncing: ${why}`);
      case 'paired':
        return this.#becomeSevered(state.partner, why, isDead);
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
  #advanceSevered(): void {
    if (this.#state.name !== 'severed' || this.#register.isBusy) return;
    const { partner, graceUntilMs } = this.#state;
    const word = this.#word;
    assert(word !== null && word.partner === partner, 'severed from the partner in the word');
    const hello = this.#waitingHello;
    const fromEpoch = hello === null ? null : resumeFrom(hello, partner, this.#imageFacts());
    if (hello !== null && fromEpoch !== null && this.#shutdownUntilMs === null) {
      const { linkId, node } = hello;
      this.#waitingHello = null;
      const { generation } = word;
      this.#emit({ kind: 'welcome', linkId, plan: 'resume', fromEpoch, generation });
      return this.#becomePaired({ linkId, node }, partner, `resumed from epoch ${fromEpoch}`);
    }
    if (!this.#mayGoSolo) {
      if (hello === null) return;
      this.#waitingHello = null;
      return this.#refuse(hello.linkId, onlyPartnerMayResume(partner));
    }
    // A backup that cannot resume proves that the partner's image is not coming back by this way.
    if (hello !== null || this.#nowMs >= graceUntilMs || this.#shutdownUntilMs !== null) {
      this.#reportNow(`${this.#why}; asking the register to go on alone`);
      this.#emit(...this.#register.change(word, solo(word), this.#nowMs));
    }
  }

  #imageFacts(): ImageFacts {
    const { acknowledgedEpoch, takenEpoch } = this.#flow;
    return { lastImage: this.#lastImage, acknowledgedEpoch, takenEpoch };
  }

  // ---- epochs

  #handleSyncRound(linkId: LinkId, dirtyLeft: number): void {
    const state = this.#state;
    if (state.name !== 'syncing' || state.link.linkId !== linkId) return;
    if (state.phase.kind !== 'rounds') return;
    const phase = afterRound(state.phase.round, dirtyLeft, this.#options.limits);
    this.#state = { ...state, phase };
    if (phase.kind === 'rounds') this.#emit({ kind: 'syncRound', linkId, round: phase.round });
  }

  #takeCheckpointWhenDue(): void {
    const state = this.#state;
    const dueAtMs = this.#checkpointDueMs();
    if (dueAtMs === null || this.#nowMs < dueAtMs) return;
    const epoch = this.#flow.ask(this.#nowMs);
    if (state.name === 'paired') {
      this.#emit({ kind: 'takeCheckpoint', epoch, completesBase: false });
    } else {
      assert(state.name === 'syncing', 'a checkpoint is wanted');
      this.#state = { ...state, phase: { kind: 'capturing' } };
      // Holding must begin before the guest runs on past this epoch's boundary.
      this.#emit({ kind: 'holdOutput' }, { kind: 'takeCheckpoint', epoch, completesBase: true });
    }
  }

  #handleTaken(epoch: Epoch, framesSent: number): void {
    this.#flow.take(epoch, framesSent, this.#nowMs);
    if (this.#why === this.#skippedWhy) this.#reportNow('checkpoints go on');
    this.#skippedWhy = null;
    const state = this.#state;
    if (state.name === 'syncing' && state.phase.kind === 'capturing') {
      const untilMs = this.#nowMs + this.#options.limits.acknowledgeMs;
      this.#state = { ...state, phase: { kind: 'awaiting', epoch, untilMs } };
      // Still alone by the register, so what was made up to the boundary needs no promise.
      this.#emit({
        kind: 'releaseOutput',
        throughEpoch: epoch,
        framesThrough: framesSent,
        untilMs: Number.POSITIVE_INFINITY,
      });
    } else if (state.name === 'unprotected' || state.name === 'syncing') {
      // Asked for by a synchronisation that has since been given up.
      this.#emit(this.#flow.abandon());
    }
  }

  #handleSkipped(why: string): void {
    this.#flow.skip();
    if (this.#state.name === 'syncing' && this.#state.phase.kind === 'capturing') {
      this.#state = { ...this.#state, phase: { kind: 'settled' } };
      this.#emit({ kind: 'openOutput' });
    }
    // A machine that stands is skipped at every interval, maybe for days: said once.
    const text = `a checkpoint was skipped: ${why}`;
    if (text === this.#skippedWhy) return;
    this.#skippedWhy = text;
    this.#reportNow(text);
  }

  #handleAcknowledged(event: EventOf<'acknowledged'>): void {
    const state = this.#state;
    if (linkOf(state)?.linkId !== event.linkId) return;
    if (event.epoch > this.#flow.takenEpoch) {
      return this.#dropAndLose(`it acknowledged epoch ${event.epoch}, which is not taken`, false);
    }
    if (state.name === 'syncing' && state.instance === event.instance) {
      const { phase } = state;
      if (phase.kind === 'awaiting' && phase.epoch === event.epoch) this.#askToPair(state, event);
      if (phase.kind !== 'pairing') return;
    } else if (state.name !== 'paired' || state.partner !== event.instance) {
      return;
    }
    this.#emit(...this.#flow.acknowledge(event, this.#nowMs));
  }

  #askToPair(state: SyncingState, event: EventOf<'acknowledged'>): void {
    const word = this.#word;
    assert(word !== null && !this.#register.isBusy, 'alone and settled');
    this.#lastImage = state.instance;
    this.#state = { ...state, phase: { kind: 'pairing' } };
    // From asking on the word may name the backup, so even what was made before the boundary, and
    // is not yet written, waits for a promise.
    this.#emit(this.#flow.begin(event), { kind: 'holdOutput' });
    this.#emit(...this.#register.change(word, pair(word, state.instance), this.#nowMs));
    this.#release();
  }

  #release(): void {
    if (mayBePaired(this.#state)) this.#emit(...this.#flow.release(this.#nowMs));
  }

  // ---- the end

  #handleGuestLost(what: string): void {
    if (isOver(this.#state)) return;
    const why = `the guest is gone: ${what}`;
    this.#emit({ kind: 'closeOutput' });
    this.#leave('guest-lost', what);
    this.#state = { name: 'stopped' };
    this.#reportNow(why);
    this.#emit({ kind: 'finish', reason: 'guest-lost', why });
  }

  /**
   * A clean shutdown goes on alone first, so that no backup promotes a guest that was not lost;
   * when the register does not answer in time it leaves all the same.
   */
  #advanceShutdown(): void {
    if (this.#shutdownUntilMs === null || this.#state.name === 'stopped') return;
    const state = this.#state;
    const isPaired = mayBePaired(state) || state.name === 'severed';
    if (isPaired && this.#mayGoSolo && this.#nowMs < this.#shutdownUntilMs) {
      // The link stays: it carries the goodbye once the register has answered.
      if (state.name !== 'paired') return;
      this.#farewellLinkId = state.link.linkId;
      return this.#becomeSevered(state.partner, 'shutting down', true);
    }
    const why = isPaired ? `${this.#shutdownWhy} while paired in the register` : this.#shutdownWhy;
    this.#leave('shutdown', why);
    this.#state = { name: 'stopped' };
    this.#reportNow(why);
    this.#emit({ kind: 'finish', reason: 'shutdown', why });
  }

  /** Takes leave of whoever is connected. */
  #leave(reason: 'shutdown' | 'guest-lost' | 'fenced', text: string): void {
    const linkId = linkOf(this.#state)?.linkId ?? this.#farewellLinkId;
    if (linkId !== null) this.#emit({ kind: 'sayGoodbye', linkId, reason, text });
    const waiting = this.#waitingHello;
    if (waiting !== null) this.#emit({ kind: 'sayGoodbye', linkId: waiting.linkId, reason, text });
    this.#farewellLinkId = null;
    this.#waitingHello = null;
    this.#emit(this.#flow.stopListening());
  }

  // ---- states

  #becomeUnprotected(why: string): void {
    assert(this.#word?.runner === this.#options.instance, 'the register says that we run');
    assert(this.#word.partner === null && !this.#register.isBusy, 'alone, and certain of it');
    this.#state = { name: 'unprotected', prospect: null };
    this.#emit(this.#flow.stopListening(), { kind: 'openOutput' }, this.#flow.abandon());
    this.#reportNow(why);
    const hello = this.#waitingHello;
    if (hello === null || this.#shutdownUntilMs !== null) return;
    this.#waitingHello = null;
    this.#welcomeImage(hello);
  }

  #becomePaired(link: BackupLink, partner: Instance, why: string): void {
    assert(this.#word?.partner === partner, 'the register names the partner');
    assert(this.#flow.promiser === partner, 'only its promises count');
    const { generation } = this.#word;
    this.#state = { name: 'paired', link, partner };
    this.#flow.expect(this.#nowMs);
    this.#emit({ kind: 'announcePaired', linkId: link.linkId, generation, instance: partner });
    this.#reportNow(why);
    this.#release();
  }

  #becomeSevered(partner: Instance, why: string, isHopeless: boolean): void {
    const graceMs = isHopeless ? 0 : this.#options.limits.reconnectGraceMs;
    this.#state = { name: 'severed', partner, graceUntilMs: this.#nowMs + graceMs };
    this.#reportNow(this.#mayGoSolo ? why : `${why}; output stays held until ${partner} is back`);
  }

  #becomeFenced(word: RegisterWord | null): void {
    const why = `the register says ${describeWord(word)}`;
    this.#word = word;
    this.#emit({ kind: 'closeOutput' });
    // Another engine that speaks for this same instance runs this same guest: leave it alone.
    if (word?.runner !== this.#options.instance) this.#emit({ kind: 'fenceGuest', why });
    this.#leave('fenced', why);
    this.#state = { name: 'fenced' };
    this.#reportNow(why);
  }

  // ---- time

  #tick(): void {
    const asked = this.#register.unsettled;
    const { outcome, requests } = this.#register.tick(this.#nowMs);
    this.#emit(...requests);
    if (outcome !== null) this.#handleOutcome(outcome, asked?.next ?? null);
    const untilMs = answerUntilMs(this.#state, this.#flow.overdueAtMs);
    if (untilMs !== null && this.#nowMs >= untilMs)
      this.#dropAndLose('the backup did not answer in time', false);
    this.#advanceShutdown();
    this.#advanceSevered();
    this.#takeCheckpointWhenDue();
  }

  #checkpointDueMs(): number | null {
    const isWanted = wantsCheckpoint(this.#state) && this.#shutdownUntilMs === null;
    return isWanted ? this.#flow.dueAtMs : null;
  }

  #deadlinesMs(): (number | null)[] {
    const state = this.#state;
    const mayAskSolo = state.name === 'severed' && this.#mayGoSolo && !this.#register.isBusy;
    return [
      this.#register.deadlineMs,
      answerUntilMs(this.#state, this.#flow.overdueAtMs),
      this.#checkpointDueMs(),
      this.#shutdownUntilMs,
      mayAskSolo ? state.graceUntilMs : null,
    ];
  }

  // ---- telling

  #reportPace(): void {
    if (this.#state.name === 'paired') this.#reportNow(this.#flow.pacer.text);
  }

  #reportNow(why: string): void {
    this.#why = why;
    this.#emit({ kind: 'report', state: nameOf(this.#state, this.#flow.pacer.isBacklogged), why });
  }

  #emit(...effects: readonly PrimaryEffect[]): void {
    this.#outbox.emit(...effects);
  }
}
