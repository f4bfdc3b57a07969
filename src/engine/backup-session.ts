/**
 * A node as backup: carries out what the core's backup decides. Frames come in, whole epochs are
 * acknowledged and handed to the apply thread, and when the core has won the register the waiting
 * machine is started. It decides nothing itself.
 */
import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import { assert, unreachable } from '../base/assert.ts';
import { RomulusError, toRomulusError } from '../base/errors.ts';
import { type Epoch, NO_GENERATION } from '../base/units.ts';
import { PayloadDigest } from '../codec/checksum.ts';
import type { Frame } from '../codec/frame.ts';
import { PROTOCOL_VERSION } from '../codec/frame.ts';
import {
  type BaseEndMessage,
  decodeMessage,
  encodeMessage,
  type Message,
  type WelcomeMessage,
} from '../codec/messages.ts';
import type { Backup } from '../core/backup.ts';
import type { BackupEffect, BackupEvent, BackupStateName } from '../core/backup-types.ts';
import type { Instance, RegisterWord } from '../core/register.ts';
import type { GuestDescriptor, RunningGuest } from '../guests/guest.ts';
import type { Link } from '../links/link.ts';
import type { Verdict } from '../core/verdict.ts';
import { ApplyQueue } from './apply-queue.ts';
import { nowMs, nowNs } from './clock.ts';
import { EpochAssembler, type WholeEpoch } from './epoch-assembler.ts';
import type { NodeParts } from './node-parts.ts';
import { PrimaryWatch } from './primary-watch.ts';
import { answerRegister } from './register-port.ts';
import { digestText } from './scrub.ts';
import { type Standby, prepareStandby } from './standby.ts';
import { Wakeup } from './wakeup.ts';

/** How long after an image that could not be held, or not be given, another one is asked for. */
const IMAGE_REST_MS = 3000;

export interface BackupSessionOptions {
  readonly parts: NodeParts;
  readonly core: Backup;
}

/** Why the session ended. */
export type BackupOutcome =
  | { readonly kind: 'finished'; readonly why: string }
  | {
      readonly kind: 'promoted';
      readonly instance: Instance;
      readonly word: RegisterWord;
      readonly epoch: Epoch;
      readonly guest: RunningGuest;
      readonly standby: Standby;
    };

/** One term as backup, until promotion or the end of the node. */
export class BackupSession {
  readonly #options: BackupSessionOptions;
  readonly #core: Backup;
  readonly #log: Logger;
  readonly #wakeup: Wakeup;
  readonly #assembler = new EpochAssembler();
  readonly #apply: ApplyQueue;
  readonly #watch: PrimaryWatch;
  readonly outcome: Promise<BackupOutcome>;
  #finish: (outcome: BackupOutcome) => void = () => undefined;
  #ended = false;
  #link: { readonly id: number; readonly link: Link } | null = null;
  #nextLinkId = 1;
  #welcome: WelcomeMessage | null = null;
  #standby: Standby | null = null;
  #received = new Map<number, WholeEpoch>();
  #scrubAsked: { readonly linkId: number; readonly epoch: Epoch } | null = null;
  #guest: RunningGuest | null = null;
  /** The machine stands since this epoch, because its user paused it; null: it runs. */
  #pausedSince: Epoch | null = null;
  /** What came of the base image. */
  #base = { frames: 0, digest: new PayloadDigest() };
  #bytesReceived = 0;
  #restUntilMs = 0;
  #decidedAtNs = 0n;
  #verdictAtNs = 0n;
  #verdictWhy = '';
  #decidedAfterMs = 0;
  #decidedWhy = '';
  #runningAtNs = 0n;

  constructor(options: BackupSessionOptions) {
    this.#options = options;
    this.#core = options.core;
    this.#log = options.parts.log;
    this.#wakeup = new Wakeup(() => this.#step({ kind: 'timer' }));
    this.#apply = new ApplyQueue({
      diskSync: options.parts.config.diskSync,
      onPressure: (full) => (full ? this.#link?.link.pause() : this.#link?.link.resume()),
    });
    this.#watch = new PrimaryWatch({
      config: options.parts.config,
      log: this.#log,
      onVerdict: (verdict) => this.#onVerdict(verdict),
    });
    this.outcome = new Promise((resolve) => {
      this.#finish = resolve;
    });
  }

  get core(): Backup {
    return this.#core;
  }

  /** For how long asking for another image makes no sense: nothing has changed here. */
  get restMs(): number {
    return Math.max(0, this.#restUntilMs - nowMs());
  }

  get bytesReceived(): number {
    return this.#bytesReceived;
  }

  get peer(): { node: string; instance: string; connected: boolean } | null {
    if (this.#welcome === null) return null;
    const { node, instance } = this.#welcome;
    return { node, instance, connected: this.#link !== null };
  }

  get descriptor(): GuestDescriptor | null {
    return this.#standby?.descriptor ?? null;
  }

  start(): void {
    this.#step({ kind: 'start' });
  }

  shutdown(): void {
    this.#step({ kind: 'shutdown' });
  }

  /**
   * An operator asks for promotion.
   * @throws {RomulusError} ERR_FENCED_WOULD_LOSE without force: the verdict decides by itself.
   */
  promote(options: { force: boolean }): void {
    const { appliedEpoch, isPaired } = this.#core.status;
    if (!options.force)
      throw new RomulusError(
        'ERR_FENCED_WOULD_LOSE',
        isPaired
          ? 'the primary is not known to be dead; it would be fenced'
          : `this image stands at epoch ${appliedEpoch}; all the primary released since is lost`,
        { remedy: 'Repeat with --force if that is what you want.', details: { appliedEpoch } },
      );
    this.#step({ kind: 'promoteForced' });
  }

  /** The primary answered the dial. */
  connected(link: Link): void {
    const id = this.#nextLinkId;
    this.#nextLinkId += 1;
    this.#link = { id, link };
    this.#assembler.discard();
    link.onMessage((frame) => {
      if (this.#link?.id !== id) return;
      try {
        this.#onFrame(id, frame);
      } catch (error) {
        const known = toRomulusError(error);
        this.#log.error({ error: known.toJSON() }, 'the primary broke the protocol');
        link.close(known);
      }
    });
    link.onClose((reason) => {
      if (this.#link?.id === id) this.#link = null;
      this.linkDown(reason.text);
      this.#assembler.discard();
      this.#step({ kind: 'linkClosed', linkId: id, why: reason.text });
    });
    this.#watch.noteLink('open', 'open');
    this.#step({ kind: 'linkUp', linkId: id });
  }

  /** The bulk link ended or could not be made: evidence about the primary. */
  linkDown(text: string): void {
    this.#watch.noteLink('closed', text);
  }

  #step(event: BackupEvent): void {
    if (this.#ended) return;
    for (const effect of this.#core.step(event, nowMs())) this.#carryOut(effect);
    this.#watch.setGeneration(this.#core.status.generation);
  }

  #onVerdict(verdict: Verdict): void {
    const { parts } = this.#options;
    this.#log.warn({ state: verdict.state }, verdict.why);
    if (verdict.state === 'suspect') return;
    const dead = verdict.state === 'dead';
    this.#verdictAtNs = nowNs();
    this.#verdictWhy = verdict.why;
    parts.emit({ event: 'verdict', dead, why: verdict.why, atNs: this.#verdictAtNs.toString() });
    this.#step({ kind: 'verdict', verdict: dead ? 'dead' : 'alive', why: verdict.why });
  }

  #carryOut(effect: BackupEffect): void {
    const { parts } = this.#options;
    switch (effect.kind) {
      case 'readRegister':
      case 'changeRegister':
        if (effect.kind === 'changeRegister') this.#decide();
        answerRegister(parts.arbiter, effect, (answer) => this.#step(answer));
        return;
      case 'sendHello':
        return this.#sendHello(effect);
      case 'prepareImage':
        void this.#prepareImage(effect.linkId, effect.plan);
        return;
      case 'sendReady':
        return this.#send(effect.linkId, { kind: 'ready', instance: effect.instance });
      case 'promiseAs':
        return this.#watch.promiseAs(effect.instance);
      case 'acknowledge':
        return this.#acknowledge(effect);
      case 'apply':
        void this.#applyEpoch(effect.instance, effect.epoch);
        return;
      case 'sealPromises': {
        const untilMs = Number(this.#watch.words.seal()) / 1e6;
        // The answer is an event of its own: effects of one step are carried out to the end first.
        queueMicrotask(() =>
          this.#step({ kind: 'promisesSealed', requestId: effect.requestId, untilMs }),
        );
        return;
      }
      case 'unsealPromises':
        this.#watch.words.unseal();
        return;
      case 'discardPartialEpoch':
        this.#assembler.discard();
        return;
      case 'startGuest':
        void this.#startGuest(effect.epoch);
        return;
      case 'openOutput':
        parts.audit.record('open', { generation: this.#core.status.generation });
        parts.gate.open();
        return;
      case 'becomePrimary':
        return this.#becomePrimary(effect);
      case 'dropLink':
        this.#log.warn({ code: effect.code }, effect.why);
        this.#linkOf(effect.linkId)?.close(
          new RomulusError(effect.code, effect.why, { remedy: 'The link is dialled again.' }),
        );
        return;
      case 'finish':
        return this.#end({ kind: 'finished', why: effect.why });
      case 'report':
        return this.#report(effect.state, effect.why);
      case 'wakeAt':
        this.#wakeup.at(effect.atMs);
        return;
      default:
        unreachable(effect, 'backup effect');
    }
  }

  #report(state: BackupStateName, why: string): void {
    const { parts } = this.#options;
    const { appliedEpoch, generation } = this.#core.status;
    parts.audit.record('state', { role: 'backup', state, why, epoch: appliedEpoch });
    parts.report({ role: 'backup', state, why, epoch: appliedEpoch, generation });
  }

  #decide(): void {
    this.#decidedAtNs = nowNs();
    this.#decidedAfterMs = Number(this.#decidedAtNs - this.#verdictAtNs) / 1e6;
    this.#decidedWhy = this.#verdictWhy;
    this.#options.parts.audit.record('decided', { why: this.#decidedWhy });
  }

  #onFrame(linkId: number, frame: Frame): void {
    this.#bytesReceived += frame.payload.byteLength;
    this.#watch.words.noteLinkHeard(nowNs());
    switch (frame.kind) {
      case 'baseImage':
      case 'baseDisk':
        this.#base.frames += 1;
        this.#base.digest.add(frame.payloadCrc);
        this.#apply.base(frame).catch((error: unknown) => this.#applyFailed(error));
        return;
      case 'pages':
      case 'disk':
      case 'deviceState':
      case 'outputMark':
        this.#assembler.add(frame);
        return;
      default:
        this.#onMessage(linkId, frame, decodeMessage(frame));
    }
  }

  #onMessage(linkId: number, frame: Frame, message: Message): void {
    switch (message.kind) {
      case 'welcome':
        return this.#onWelcome(linkId, frame, message);
      case 'epochBegin':
        return this.#assembler.begin(message.epoch);
      case 'epochEnd': {
        const whole = this.#assembler.end(message);
        if (whole !== null) this.#received.set(whole.epoch, whole);
        this.#pausedSince = null;
        const { epoch } = message;
        const bytes = whole?.bytes ?? 0;
        this.#step({ kind: 'epochReceived', linkId, epoch, intact: whole !== null, bytes });
        // What the core did not hand on is not wanted: late, repeated, or not whole.
        this.#received.delete(epoch);
        return;
      }
      case 'baseEnd':
        return this.#onBaseEnd(linkId, message);
      case 'paired': {
        const { generation, instance } = message;
        return this.#step({ kind: 'paired', linkId, generation, instance });
      }
      case 'scrubRequest':
        this.#scrubAsked = { linkId, epoch: message.epoch };
        return;
      case 'machinePaused':
        this.#pausedSince = message.epoch;
        this.#log.info({ epoch: message.epoch }, 'the machine was paused by its user');
        return;
      case 'goodbye': {
        const { reason, text } = message;
        this.#log.info({ reason }, text);
        if (reason === 'shutdown' || reason === 'guest-lost' || reason === 'fenced')
          this.#step({ kind: 'goodbye', linkId, reason, text });
        return;
      }
      case 'error':
        // It cannot give the image, and will not be able to in a moment.
        if (this.#core.status.state === 'syncing') this.#restUntilMs = nowMs() + IMAGE_REST_MS;
        this.#log.warn({ code: message.code, remedy: message.remedy }, message.message);
        this.#options.parts.emit({
          event: 'error',
          code: message.code,
          message: message.message,
          remedy: message.remedy,
        });
        return;
      default:
        throw new RomulusError('ERR_PROTOCOL_ROLE', `a primary may not send ${message.kind}`, {
          remedy: 'Check that the peer address is that of a primary.',
        });
    }
  }

  #onWelcome(linkId: number, frame: Frame, message: WelcomeMessage): void {
    const { config } = this.#options.parts;
    const ramBytes = message.guest.blocks.reduce((sum, block) => sum + block.bytes, 0);
    if (config.expectedMemoryBytes !== undefined && config.expectedMemoryBytes !== ramBytes)
      throw new RomulusError(
        'ERR_GUEST_DESCRIPTOR',
        `the primary's machine has ${ramBytes} bytes of RAM, --memory says ${config.expectedMemoryBytes}`,
        {
          remedy: 'Correct or leave out --memory on the backup.',
          details: { ramBytes, expectedBytes: config.expectedMemoryBytes },
        },
      );
    this.#welcome = message;
    const linkHost = this.#options.parts.config.peer;
    assert(linkHost !== undefined, 'a backup has a peer');
    const heartbeat = config.peerHeartbeat ?? {
      host: linkHost.host,
      port: message.heartbeatPort,
    };
    this.#watch.watch(heartbeat);
    this.#step({
      kind: 'welcome',
      linkId,
      generation: frame.generation,
      runner: message.instance,
      plan: message.plan,
      fromEpoch: message.fromEpoch,
    });
  }

  async #prepareImage(linkId: number, plan: 'full' | 'changed'): Promise<void> {
    const welcome = this.#welcome;
    assert(welcome !== null, 'an image is prepared for a welcome');
    this.#base = { frames: 0, digest: new PayloadDigest() };
    const { parts } = this.#options;
    const instance = `${parts.config.node}#${randomBytes(4).toString('hex')}`;
    try {
      if (plan === 'full') {
        const previous = this.#standby;
        this.#standby = null;
        await this.#apply.release();
        await previous?.discard();
        this.#standby = await prepareStandby({
          descriptor: welcome.guest,
          config: parts.config,
          gate: parts.gate,
          log: this.#log,
        });
        const standby = this.#standby;
        standby.incoming.onLost((why) => this.#standbyLost(standby, why));
        await this.#apply.prepare(standby.incoming);
      } else await this.#apply.restate();
      this.#step({ kind: 'imagePrepared', linkId, instance });
    } catch (error) {
      const known = toRomulusError(error);
      this.#log.error({ error: known.toJSON() }, 'this host cannot hold the image');
      this.#restUntilMs = nowMs() + IMAGE_REST_MS;
      this.#step({ kind: 'imageFailed', linkId, why: known.message });
    }
  }

  /** Whole as it came; whether it can be applied as well is told by the apply thread, later. */
  #onBaseEnd(linkId: number, end: BaseEndMessage): void {
    const { frames, digest } = this.#base;
    const complete = end.batches <= frames && end.digest === digest.value;
    this.#step({ kind: 'baseEnd', linkId, complete });
  }

  async #applyEpoch(instance: Instance, epoch: Epoch): Promise<void> {
    const whole = this.#received.get(epoch);
    assert(whole !== undefined, `epoch ${epoch} is applied but was not received`);
    this.#received.delete(epoch);
    try {
      const applying = this.#apply.epoch(whole);
      const asked = this.#scrubAsked;
      if (asked !== null && epoch >= asked.epoch) {
        this.#scrubAsked = null;
        // Called in the same turn, so that the apply thread takes no later epoch before it.
        this.#answerScrub(asked.linkId, epoch).catch((error: unknown) =>
          this.#log.warn({ error: toRomulusError(error).toJSON() }, 'no digest of the image'),
        );
      }
      await applying;
    } catch (error) {
      return this.#applyFailed(error, instance);
    }
    this.#step({ kind: 'epochApplied', instance, epoch });
    const link = this.#link;
    if (link !== null) this.#send(link.id, { kind: 'applied', epoch, instance });
  }

  #applyFailed(error: unknown, of?: Instance): void {
    const known = toRomulusError(error);
    this.#log.error({ error: known.toJSON() }, 'the image can no longer be trusted');
    const instance = of ?? this.#core.status.instance;
    if (instance !== null) this.#step({ kind: 'applyFailed', instance, why: known.message });
  }

  /** The waiting machine is gone, and its memory with it: another image is needed. */
  #standbyLost(standby: Standby, why: string): void {
    if (this.#ended || this.#standby !== standby || this.#guest !== null) return;
    this.#applyFailed(
      new RomulusError('ERR_GUEST_LOST', why, {
        remedy: 'Nothing needs to be done: another machine is prepared and synchronised.',
      }),
    );
  }

  /** Digests the image as it is once all that was handed over so far is in it. */
  async #answerScrub(linkId: number, epoch: Epoch): Promise<void> {
    const { digest } = await this.#apply.scrub();
    this.#send(linkId, { kind: 'scrubReply', epoch, digest: digestText(digest) });
  }

  #acknowledge(effect: BackupEffect & { kind: 'acknowledge' }): void {
    const { parts } = this.#options;
    const { epoch, instance, promiseMs, linkId } = effect;
    const untilNs = nowNs() + BigInt(Math.round(promiseMs * 1e6));
    if (promiseMs > 0 && !this.#watch.words.extendPromise(untilNs)) return;
    parts.audit.record('ack-sent', { epoch, instance });
    this.#send(linkId, { kind: 'ack', epoch, instance, promiseUs: Math.round(promiseMs * 1000) });
  }

  async #startGuest(epoch: Epoch): Promise<void> {
    const { parts } = this.#options;
    try {
      await this.#apply.settled();
      const standby = this.#standby;
      assert(standby !== null, 'a machine is started that was never prepared');
      const state = await this.#apply.deviceState();
      assert(state.epoch === epoch, `image at epoch ${state.epoch}, promoted from ${epoch}`);
      // Its first words must wait for openOutput, not be dropped.
      parts.gate.hold();
      parts.setMachine(standby.net);
      const { instance } = this.#core.status;
      assert(instance !== null, 'an image that is started has a name');
      // Before it runs: an engine that dies right after must find its machine again.
      parts.saveMachine({
        instance,
        kind: standby.address.kind,
        socketPath: standby.address.controlPath,
        pid: standby.incoming.pid,
      });
      const staysPaused = this.#pausedSince !== null;
      if (staysPaused) this.#log.warn('its user had paused the machine: the copy stays paused');
      this.#guest = await standby.incoming.start(state.state, { staysPaused });
      this.#runningAtNs = nowNs();
      this.#step({ kind: 'guestStarted', epoch });
    } catch (error) {
      const known = toRomulusError(error);
      parts.gate.close();
      this.#log.error({ error: known.toJSON() }, 'the machine could not be started');
      this.#step({ kind: 'guestStartFailed', why: known.message });
    }
  }

  #becomePrimary(effect: BackupEffect & { kind: 'becomePrimary' }): void {
    const { parts } = this.#options;
    const { instance, word, epoch } = effect;
    assert(this.#guest !== null && this.#standby !== null, 'promoted without a machine');
    const facts = {
      epoch,
      generation: word.generation,
      waitedMs: this.#decidedAfterMs,
      promoteMs: Number(this.#runningAtNs - this.#decidedAtNs) / 1e6,
      decidedAtNs: this.#decidedAtNs.toString(),
      runningAtNs: this.#runningAtNs.toString(),
      why: this.#decidedWhy,
    };
    parts.audit.record('promoted', facts);
    parts.emit({ event: 'promoted', ...facts });
    this.#end({
      kind: 'promoted',
      instance,
      word,
      epoch,
      guest: this.#guest,
      standby: this.#standby,
    });
  }

  #sendHello(effect: BackupEffect & { kind: 'sendHello' }): void {
    this.#send(effect.linkId, {
      kind: 'hello',
      protocolVersion: PROTOCOL_VERSION,
      node: this.#options.parts.config.node,
      instance: effect.holds?.instance ?? null,
      guest: this.#standby?.descriptor ?? null,
      capabilities: [],
      lastApplied: effect.holds,
    });
  }

  #linkOf(linkId: number): Link | null {
    return this.#link?.id === linkId ? this.#link.link : null;
  }

  #send(linkId: number, message: Message): void {
    const generation = this.#core.status.generation ?? NO_GENERATION;
    this.#linkOf(linkId)?.send(encodeMessage(message, { generation }));
  }

  #end(outcome: BackupOutcome): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#wakeup.at(null);
    this.#link?.link.close();
    this.#link = null;
    this.#finish(outcome);
  }

  /** Ends the threads and, unless it was promoted, the waiting machine. */
  async close(): Promise<void> {
    await this.#watch.close();
    await this.#apply.close();
    if (this.#guest === null) await this.#standby?.discard();
  }
}
