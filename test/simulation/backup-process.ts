/**
 * An engine in the backup's role around the real `Backup`: image, apply thread, promises.
 */
import { asEpoch } from '../../src/base/units.ts';
import { Backup } from '../../src/core/backup.ts';
import {
  type BackupEffect,
  type BackupEvent,
  DEFAULT_BACKUP_LIMITS,
} from '../../src/core/backup-types.ts';
import { promisedUntilMs } from '../../src/core/promise.ts';
import { ToyDetector } from './heartbeat.ts';
import { Process } from './process.ts';
import type { Site } from './site.ts';
import type { ToyGate } from './toy-gate.ts';
import { EMPTY_STATE, ToyGuest } from './toy-guest.ts';
import { digestBatch, type EpochMessage, type Message } from './toy-network.ts';

export const PROMISE_MS = 40;
const REDIAL_MS = 15;

const LIMITS = {
  ...DEFAULT_BACKUP_LIMITS,
  welcomeMs: 150,
  registerAnswerMs: 40,
  registerRetryMs: 5,
};

interface Image {
  readonly instance: string;
  readonly pages: number[];
  seq: number;
  epoch: number;
  /** The waiting machine holds its device state: its memory is nobody else's any more. */
  isLoaded: boolean;
}

function blankImage(instance: string, pages: readonly number[]): Image {
  return { instance, pages: [...pages], seq: 0, epoch: 0, isLoaded: false };
}

export class BackupProcess extends Process<BackupEvent, BackupEffect> {
  readonly role = 'backup';
  readonly core: Backup;
  readonly #site: Site;
  readonly #detector: ToyDetector;
  #linkId: number | null = null;
  #image: Image = blankImage('', EMPTY_STATE.pages);
  readonly #received = new Map<number, EpochMessage>();
  #baseDigest = 0;
  /** The apply thread: one task after the other. */
  readonly #tasks: (() => void)[] = [];
  #isApplying = false;
  /** The promise word: until when we promised, in local time; sealed: nothing more is promised. */
  #promisedUntilMs = Number.NEGATIVE_INFINITY;
  #isSealed = false;
  #promisesAs: string | null = null;
  #promotedGuest: { readonly guest: ToyGuest; readonly gate: ToyGate } | null = null;
  /** Longest time the apply thread takes for one task, in milliseconds. */
  applyMsMax = 2;

  constructor(site: Site) {
    super(site.host);
    this.#site = site;
    this.core = new Backup({
      node: site.host.name,
      promiseMs: PROMISE_MS,
      onSilence: site.cluster.onSilence,
      limits: LIMITS,
    });
    this.#detector = new ToyDetector(this, (verdict, why) =>
      this.dispatch({ kind: 'verdict', verdict, why }),
    );
    this.dispatch({ kind: 'start' });
    this.#redial();
  }

  /** True when a promotion would find what it needs here. */
  holds(instance: string): boolean {
    return this.core.status.instance === instance;
  }

  accuse(why: string, stubbornMs: number): void {
    this.run(() => this.#detector.accuse(why, stubbornMs));
  }

  /** A heartbeat: answered by the thread at once, with a promise unless sealed. */
  ping(answer: (instance: string | null, promiseMs: number) => void): void {
    this.run(() => {
      this.#detector.heard();
      const instance = this.#promisesAs;
      if (instance === null || !this.#promise()) answer(null, 0);
      else answer(instance, PROMISE_MS);
    });
  }

  receive(linkId: number, message: Message): void {
    this.run(() => this.#receive(linkId, message));
  }

  closed(linkId: number, why: string): void {
    this.run(() => {
      if (this.#linkId === linkId) this.#linkId = null;
      this.dispatch({ kind: 'linkClosed', linkId, why });
    });
  }

  protected override step(event: BackupEvent, nowMs: number): readonly BackupEffect[] {
    return this.core.step(event, nowMs);
  }

  protected override timerEvent(): BackupEvent {
    return { kind: 'timer' };
  }

  #redial(): void {
    this.later(this.world.between(1, REDIAL_MS), () => {
      const { state } = this.core.status;
      if (this.#linkId === null && state !== 'promoting' && state !== 'running') {
        this.#linkId = this.#site.dial();
        if (this.#linkId !== null) {
          this.#detector.renew();
          this.dispatch({ kind: 'linkUp', linkId: this.#linkId });
        }
      }
      this.#redial();
    });
  }

  #promise(): boolean {
    if (this.#isSealed) return false;
    const untilMs = promisedUntilMs(this.host.localNowMs(), PROMISE_MS);
    this.#promisedUntilMs = Math.max(this.#promisedUntilMs, untilMs);
    return true;
  }

  #receive(linkId: number, message: Message): void {
    switch (message.kind) {
      case 'welcome':
        return this.dispatch({ ...message, linkId, fromEpoch: asEpoch(message.fromEpoch) });
      case 'refused':
        return;
      case 'base':
        this.#baseDigest = digestBatch(this.#baseDigest, message.batch);
        return this.#enqueue(() => {
          for (const { index, value } of message.pages) this.#image.pages[index] = value;
        });
      case 'baseEnd':
        return this.dispatch({
          kind: 'baseEnd',
          linkId,
          complete: this.#baseDigest === message.digest,
        });
      case 'epoch':
        this.#received.set(message.epoch, message);
        return this.dispatch({
          kind: 'epochReceived',
          linkId,
          epoch: asEpoch(message.epoch),
          intact: true,
          bytes: message.pages.length,
        });
      case 'paired':
        return this.dispatch({ ...message, linkId });
      case 'goodbye':
        return this.dispatch({ ...message, linkId, text: '' });
      default:
        throw new Error(`a primary does not send ${message.kind}`);
    }
  }

  #enqueue(task: () => void): void {
    this.#tasks.push(task);
    if (!this.#isApplying) this.#applyNext();
  }

  #applyNext(): void {
    this.#isApplying = this.#tasks.length > 0;
    if (!this.#isApplying) return;
    this.later(this.world.between(0.1, this.applyMsMax), () => {
      const task = this.#tasks.shift();
      task?.();
      this.#applyNext();
    });
  }

  protected override carryOut(effect: BackupEffect): void {
    const { network, rules } = this.#site.cluster;
    switch (effect.kind) {
      case 'readRegister':
      case 'changeRegister':
        return this.#site.askRegister(effect, (answer) => this.dispatch(answer));
      case 'sendHello':
        return network.send(effect.linkId, this.#site, { kind: 'hello', holds: effect.holds });
      case 'prepareImage':
        return this.#prepareImage(effect.linkId, effect.plan);
      case 'sendReady':
        return network.send(effect.linkId, this.#site, {
          kind: 'ready',
          instance: effect.instance,
        });
      case 'promiseAs':
        this.#promisesAs = effect.instance;
        return;
      case 'acknowledge':
        return this.#acknowledge(effect);
      case 'apply':
        return this.#apply(effect.instance, effect.epoch);
      case 'sealPromises':
        if (rules.silenceWhileAsking) this.#isSealed = true;
        return this.dispatch({
          kind: 'promisesSealed',
          requestId: effect.requestId,
          untilMs: this.#promisedUntilMs,
        });
      case 'unsealPromises':
        this.#isSealed = false;
        return;
      case 'discardPartialEpoch':
      case 'prepareChange':
        return;
      case 'loadGuest':
        return this.#loadGuest(effect.instance, effect.epoch);
      case 'startGuest':
        return this.#startGuest(effect.instance, effect.epoch);
      case 'openOutput':
        return this.#promotedGuest?.gate.open();
      case 'becomePrimary': {
        const promoted = this.#promotedGuest;
        if (promoted === null) throw new Error('became primary without a guest');
        return this.#site.becomePrimary(promoted.guest, promoted.gate, effect.word, effect.epoch);
      }
      case 'dropLink':
        if (this.#linkId === effect.linkId) this.#linkId = null;
        return network.close(effect.linkId, this.#site, effect.why);
      case 'finish':
      case 'report':
        return;
      case 'wakeAt':
        return this.setAlarm(effect.atMs);
      default:
        throw new Error(`no such effect: ${JSON.stringify(effect satisfies never)}`);
    }
  }

  #prepareImage(linkId: number, plan: 'full' | 'changed'): void {
    this.#baseDigest = 0;
    this.#received.clear();
    const instance = this.#site.newInstance();
    // Behind what was handed over before, so that `changed` patches a settled image.
    this.#enqueue(() => {
      const old = this.#image;
      if (plan === 'changed' && old.isLoaded) throw new Error('asked to patch a loaded machine');
      this.#image = blankImage(instance, plan === 'full' ? EMPTY_STATE.pages : old.pages);
      this.dispatch({ kind: 'imagePrepared', linkId, instance });
    });
  }

  #acknowledge(effect: BackupEffect & { kind: 'acknowledge' }): void {
    if (!this.#promise()) return;
    const message = this.#received.get(effect.epoch);
    if (message !== undefined) this.#site.cluster.checks.acknowledged(effect.instance, message);
    this.#site.cluster.network.send(effect.linkId, this.#site, {
      kind: 'ack',
      instance: effect.instance,
      epoch: effect.epoch,
      promiseMs: effect.promiseMs,
    });
  }

  #apply(instance: string, epoch: number): void {
    const message = this.#received.get(epoch);
    if (message === undefined) throw new Error(`epoch ${epoch} was not kept`);
    this.#enqueue(() => {
      const image = this.#image;
      if (image.instance !== instance) return;
      if (image.isLoaded) throw new Error('asked to write to a loaded machine');
      for (const { index, value } of message.pages) image.pages[index] = value;
      image.seq = message.seq;
      image.epoch = epoch;
      this.#site.cluster.checks.applied(instance, epoch, image, message.truth);
      this.dispatch({ kind: 'epochApplied', instance, epoch: asEpoch(epoch) });
      if (this.#linkId !== null) {
        this.#site.cluster.network.send(this.#linkId, this.#site, {
          kind: 'applied',
          instance,
          epoch,
        });
      }
    });
  }

  #loadGuest(instance: string, epoch: number): void {
    // Behind what was handed over before.
    this.#enqueue(() => {
      const image = this.#image;
      if (image.instance !== instance) return;
      if (image.epoch !== epoch)
        throw new Error(`asked to load ${instance}@${epoch}, holds @${image.epoch}`);
      image.isLoaded = true;
    });
  }

  #startGuest(instance: string, epoch: number): void {
    const image = this.#image;
    if (image.instance !== instance || image.epoch !== epoch) {
      throw new Error(
        `asked to start ${instance}@${epoch}, holds ${image.instance}@${image.epoch}`,
      );
    }
    this.#site.cluster.checks.startsGuest(instance, image);
    const guest = new ToyGuest(this.world, instance, instance, image);
    const gate = this.#site.newGate(instance);
    guest.attach({
      attachmentId: gate.attachmentId,
      frame: (frame) => this.#site.frame(gate, frame),
    });
    this.later(this.world.between(0.2, 5), () => {
      guest.run();
      this.#site.adoptGuest(guest);
      this.#promotedGuest = { guest, gate };
      this.dispatch({ kind: 'guestStarted', epoch: asEpoch(epoch) });
    });
  }
}
