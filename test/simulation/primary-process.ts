/**
 * An engine in the primary's role around the real `Primary`: gate, capture, stream, heartbeats.
 */
import { asEpoch, type Epoch } from '../../src/base/units.ts';
import { Primary } from '../../src/core/primary.ts';
import {
  DEFAULT_PRIMARY_LIMITS,
  type PrimaryEffect,
  type PrimaryEvent,
} from '../../src/core/primary-types.ts';
import { DEFAULT_PROMISE_MARGIN, HeldPromise } from '../../src/core/promise.ts';
import type { RegisterWord } from '../../src/core/register.ts';
import { ToyDetector, HEARTBEAT_MS } from './heartbeat.ts';
import { Process } from './process.ts';
import type { Site } from './site.ts';
import { ToyGate } from './toy-gate.ts';
import type { ToyGuest } from './toy-guest.ts';
import { digestBatch, type EpochMessage, type Message } from './toy-network.ts';

/** One image being built and then kept up to date, over one or (resumed) several links. */
interface Stream {
  linkId: number;
  batches: number;
  digest: number;
  /** The guest's step up to which changes have been sent. */
  sentStep: number;
}

interface Boundary {
  readonly step: number;
}

const LIMITS = {
  ...DEFAULT_PRIMARY_LIMITS,
  reconnectGraceMs: 40,
  acknowledgeMs: 150,
  backlogMs: 180,
  backlogRestMs: 4,
  prepareMs: 200,
  registerAnswerMs: 40,
  registerRetryMs: 5,
  syncRounds: 3,
  syncSettledPages: 1,
  shutdownMs: 200,
};

export class PrimaryProcess extends Process<PrimaryEvent, PrimaryEffect> {
  readonly role = 'primary';
  readonly core: Primary;
  readonly guest: ToyGuest;
  readonly gate: ToyGate;
  readonly #site: Site;
  readonly #instance: string;
  readonly #detector: ToyDetector;
  /** The heartbeat thread's word: what it has seen promised by the instance it listens to. */
  readonly #heldWord: HeldPromise;
  #stream: Stream | null = null;
  #retained: EpochMessage[] = [];
  readonly #boundaries = new Map<number, Boundary>();
  readonly #sentAtMs = new Map<number, number>();
  #fromEpoch = 0;
  #isSuspendRefused = false;
  /** A backup that introduced itself and was not welcomed yet. */
  waitingLinkId: number | null = null;

  constructor(
    site: Site,
    guest: ToyGuest,
    gate: ToyGate | null,
    promoted: { readonly word: RegisterWord; readonly epoch: number } | null,
  ) {
    super(site.host);
    this.#site = site;
    this.guest = guest;
    this.#instance = guest.instance;
    const margin = site.cluster.rules.driftMargin
      ? DEFAULT_PROMISE_MARGIN
      : { driftFraction: 0, marginMs: 0 };
    this.core = new Primary({
      instance: guest.instance,
      firstEpoch: asEpoch((promoted?.epoch ?? 0) + 1),
      intervalMs: this.world.between(4, 25),
      minIntervalMs: this.world.random.chance(0.7) ? this.world.between(0.5, 8) : 0,
      promiseMargin: margin,
      onSilence: site.cluster.onSilence,
      watermarks: { lowBytes: 10, highBytes: 100, limitBytes: 1000 },
      limits: LIMITS,
    });
    this.#heldWord = new HeldPromise(margin);
    this.gate = gate ?? site.newGate(guest.instance);
    this.gate.onWaiting = (): void => this.dispatch({ kind: 'outputWaiting' });
    this.#detector = new ToyDetector(this, (verdict, why) =>
      this.dispatch({ kind: 'peerVerdict', verdict, why }),
    );
    const attachment = {
      attachmentId: this.gate.attachmentId,
      frame: (frame: Parameters<ToyGate['frame']>[0]): void =>
        this.run(() => this.gate.frame(frame)),
    };
    if (promoted === null) guest.attach(attachment);
    site.useGate(this.gate, (untilMs) => this.#mayWrite(untilMs));
    this.#beat();
    this.dispatch(
      promoted === null ? { kind: 'start' } : { kind: 'startPromoted', word: promoted.word },
    );
  }

  get isServing(): boolean {
    const { state } = this.core.status;
    return this.isAlive && state !== 'fenced' && state !== 'stopped';
  }

  setSuspendRefused(isRefused: boolean): void {
    this.#isSuspendRefused = isRefused;
  }

  accuse(why: string, stubbornMs: number): void {
    this.run(() => this.#detector.accuse(why, stubbornMs));
  }

  receive(linkId: number, message: Message): void {
    this.run(() => this.#receive(linkId, message));
  }

  closed(linkId: number, why: string): void {
    this.run(() => {
      if (this.waitingLinkId === linkId) this.waitingLinkId = null;
      this.dispatch({ kind: 'linkClosed', linkId, why });
    });
  }

  /** An answer to one of our heartbeats: the thread's own work, whatever the main thread does. */
  pong(sentAtMs: number, instance: string | null, promiseMs: number): void {
    this.run(() => {
      this.#detector.heard();
      if (instance === null || promiseMs <= 0) return;
      if (this.#heldWord.raise(instance, sentAtMs, promiseMs)) this.gate.pump();
      this.dispatch({ kind: 'promised', instance: instance, promiseMs, sentAtMs });
    });
  }

  protected override step(event: PrimaryEvent, nowMs: number): readonly PrimaryEffect[] {
    return this.core.step(event, nowMs);
  }

  protected override timerEvent(): PrimaryEvent {
    return { kind: 'timer' };
  }

  #mayWrite(untilMs: number): boolean {
    if (!this.#site.cluster.rules.promise) return true;
    return this.host.localNowMs() < Math.max(untilMs, this.#heldWord.untilMs);
  }

  #beat(): void {
    this.#site.sendHeartbeat(this.host.localNowMs());
    this.later(HEARTBEAT_MS, () => this.#beat());
  }

  #receive(linkId: number, message: Message): void {
    switch (message.kind) {
      case 'hello': {
        const { holds } = message;
        this.waitingLinkId = linkId;
        this.#detector.renew();
        this.dispatch({
          kind: 'backupHello',
          linkId,
          node: this.#site.peer.host.name,
          holds: holds === null ? null : { ...holds, epoch: asEpoch(holds.epoch) },
          descriptorMatches: true,
          oldestRetainedEpoch: toEpoch(this.#retained[0]?.epoch),
          provenSinceEpoch: toEpoch([...this.#boundaries.keys()][0]),
        });
        return;
      }
      case 'ready':
        return this.dispatch({ kind: 'backupReady', linkId, instance: message.instance });
      case 'ack':
        return this.dispatch({
          kind: 'acknowledged',
          linkId,
          instance: message.instance,
          epoch: asEpoch(message.epoch),
          promiseMs: message.promiseMs,
          sentAtMs: this.#sentAtMs.get(message.epoch) ?? Number.NEGATIVE_INFINITY,
        });
      case 'applied':
        return this.dispatch({
          kind: 'applied',
          linkId,
          instance: message.instance,
          epoch: asEpoch(message.epoch),
        });
      default:
        throw new Error(`a backup does not send ${message.kind}`);
    }
  }

  protected override carryOut(effect: PrimaryEffect): void {
    const { network, rules, checks } = this.#site.cluster;
    switch (effect.kind) {
      case 'readRegister':
      case 'changeRegister':
        return this.#site.askRegister(effect, (answer) => this.dispatch(answer));
      case 'welcome':
        this.waitingLinkId = null;
        this.#fromEpoch = effect.fromEpoch;
        network.send(effect.linkId, this.#site, { ...effect, runner: this.#instance });
        if (effect.plan === 'resume') this.#resume(effect.linkId, effect.fromEpoch);
        if (effect.plan === 'changed') checks.tally.changedPlans += 1;
        return;
      case 'refuseLink':
        network.send(effect.linkId, this.#site, { kind: 'refused', text: effect.text });
        return network.close(effect.linkId, this.#site, effect.text);
      case 'startSync':
        return this.#startSync(effect.linkId, effect.plan);
      case 'syncRound':
        return this.#sendRound();
      case 'takeCheckpoint':
        return this.#takeCheckpoint(effect.epoch, effect.completesBase);
      case 'announcePaired':
        checks.tally.pairings += 1;
        if (!rules.holdBeforePair) this.gate.hold();
        network.send(effect.linkId, this.#site, {
          kind: 'paired',
          generation: effect.generation,
          instance: effect.instance,
        });
        return;
      case 'holdOutput':
        if (rules.holdBeforePair || this.core.status.state === 'connecting') this.gate.hold();
        return;
      case 'releaseOutput':
        return this.gate.release(effect.framesThrough, effect.untilMs);
      case 'openOutput':
        return this.gate.open();
      case 'closeOutput':
        return this.gate.close();
      case 'acceptPromisesFrom':
        return this.#heldWord.listenTo(effect.instance);
      case 'fenceGuest':
        checks.tally.fences += 1;
        return this.guest.kill();
      case 'sayGoodbye':
        network.send(effect.linkId, this.#site, { kind: 'goodbye', reason: effect.reason });
        return network.close(effect.linkId, this.#site, effect.reason);
      case 'dropLink':
        return network.close(effect.linkId, this.#site, effect.why);
      case 'forgetEpochs':
        this.#retained = this.#retained.filter(({ epoch }) => epoch > effect.throughEpoch);
        return;
      case 'finish':
        return effect.reason === 'shutdown' ? this.#site.primaryFinished() : undefined;
      case 'report':
        if (effect.state === 'fenced') this.#site.primaryFenced();
        if (effect.state === 'severed' && effect.why.includes('does not keep up'))
          checks.tally.leftBehind += 1;
        return;
      case 'wakeAt':
        return this.setAlarm(effect.atMs);
      default:
        throw new Error(`no such effect: ${JSON.stringify(effect satisfies never)}`);
    }
  }

  // ---- capture and stream

  #startSync(linkId: number, plan: 'full' | 'changed'): void {
    const boundary = this.#boundaries.get(this.#fromEpoch);
    this.#retained = [];
    this.#stream = {
      linkId,
      batches: 0,
      digest: 0,
      sentStep: plan === 'full' ? -1 : (boundary?.step ?? -1),
    };
    this.#sendRound();
  }

  #sendRound(): void {
    const stream = this.#stream;
    if (stream === null) return;
    const pages =
      stream.sentStep < 0
        ? this.guest.pages.map((value, index) => ({ index, value }))
        : this.guest.changedSince(stream.sentStep);
    stream.sentStep = this.guest.steps;
    stream.batches += 1;
    stream.digest = digestBatch(stream.digest, stream.batches);
    this.#site.cluster.network.send(stream.linkId, this.#site, {
      kind: 'base',
      batch: stream.batches,
      pages,
    });
    const durationMs = this.world.between(1, 15);
    this.later(durationMs, () => {
      this.dispatch({
        kind: 'syncRoundDone',
        linkId: stream.linkId,
        pages: pages.length,
        dirtyLeft: this.guest.changedSince(stream.sentStep).length,
        durationMs,
      });
    });
  }

  #takeCheckpoint(epoch: Epoch, completesBase: boolean): void {
    const stream = this.#stream;
    this.later(this.world.between(0, 1), () => {
      if (!this.guest.isAlive) return;
      if (this.#isSuspendRefused) {
        return this.dispatch({ kind: 'checkpointSkipped', epoch, why: 'suspend refused' });
      }
      const message: EpochMessage = {
        kind: 'epoch',
        epoch,
        pages: this.guest.changedSince(stream?.sentStep ?? -1),
        seq: this.guest.seq,
        attachmentId: this.gate.attachmentId,
        framesSent: this.guest.framesSent,
        truth: this.guest.state(),
      };
      if (stream !== null) stream.sentStep = this.guest.steps;
      this.#boundaries.set(epoch, { step: this.guest.steps });
      this.later(this.world.between(0.2, 3), () => {
        this.dispatch({
          kind: 'checkpointTaken',
          epoch,
          framesSent: message.framesSent,
          diskWrites: 0,
          pages: message.pages.length,
          bytes: message.pages.length,
          pauseMs: 0.5,
        });
        this.run(() => {
          if (this.gate.holdsBeyond(message.framesSent)) this.dispatch({ kind: 'outputWaiting' });
        });
        this.run(() => this.#send(message, stream, completesBase));
      });
    });
  }

  #send(message: EpochMessage, stream: Stream | null, completesBase: boolean): void {
    if (stream === null || stream !== this.#stream) return;
    const { network } = this.#site.cluster;
    if (completesBase) {
      network.send(stream.linkId, this.#site, { kind: 'baseEnd', digest: stream.digest });
    }
    this.#retained.push(message);
    this.#sendEpoch(message, stream.linkId);
  }

  #sendEpoch(message: EpochMessage, linkId: number): void {
    this.#sentAtMs.set(message.epoch, this.host.localNowMs());
    this.#site.cluster.network.send(linkId, this.#site, message);
  }

  #resume(linkId: number, fromEpoch: number): void {
    this.#site.cluster.checks.tally.resumes += 1;
    if (this.#stream !== null) this.#stream.linkId = linkId;
    for (const message of this.#retained) {
      if (message.epoch >= fromEpoch) this.#sendEpoch(message, linkId);
    }
  }
}

export function nodeOf(instance: string): string {
  return instance.slice(0, instance.indexOf('#'));
}

function toEpoch(value: number | undefined): Epoch | null {
  return value === undefined ? null : asEpoch(value);
}
