/**
 * A node as primary: carries out what the core's primary decides, on the real capture thread, link,
 * gate, arbiter and heartbeats. It decides nothing about who may run or what may leave; it turns
 * effects into acts, in the order they are given, and what happens into events.
 */
import type { Logger } from 'pino';
import { unreachable } from '../base/assert.ts';
import { RomulusError, toRomulusError } from '../base/errors.ts';
import { type Epoch, type Generation, NO_EPOCH, NO_GENERATION } from '../base/units.ts';
import type { Frame } from '../codec/frame.ts';
import { type AckMessage, decodeMessage, encodeMessage, type Message } from '../codec/messages.ts';
import { Primary } from '../core/primary.ts';
import type { PrimaryEffect, PrimaryEvent, PrimaryStateName } from '../core/primary-types.ts';
import type { Instance, RegisterWord } from '../core/register.ts';
import type { GuestLoss } from '../guests/guest.ts';
import { hasEndedWithin } from '../guests/process.ts';
import type { Link } from '../links/link.ts';
import type { Verdict } from '../core/verdict.ts';
import type { Heartbeat } from '../signals/heartbeat.ts';
import { CheckpointPipeline, type PipelineOptions } from './checkpoint-pipeline.ts';
import { nowMs } from './clock.ts';
import type { QueuedEpoch } from './epoch-queue.ts';
import type { EpochMeters } from './meters.ts';
import type { NodeParts } from './node-parts.ts';
import { Outbox } from './outbox.ts';
import { noBackup, type Peer, type PrimaryOutcome, sameMachine } from './primary-peer.ts';
import { answerRegister } from './register-port.ts';
import { Scrub, type ScrubResult } from './scrub.ts';
import type { SyncProgress } from './sync-driver.ts';
import { Wakeup } from './wakeup.ts';

export interface PrimarySessionOptions extends PipelineOptions {
  readonly parts: NodeParts;
  readonly heartbeat: Heartbeat;
  readonly core: Primary;
  readonly instance: Instance;
  /** The machine's process. */
  readonly machinePid: number;
}

const SETTLING = 'whether the machine is dying is being found out';
/** How long a machine may take to be dead once it began to close its sockets. */
const MACHINE_DEATH_MS = 500;

/** One term as primary, from start or promotion until the end of the node or a fence. */
export class PrimarySession {
  readonly #options: PrimarySessionOptions;
  readonly #core: Primary;
  readonly #log: Logger;
  readonly #pipeline: CheckpointPipeline;
  readonly #peers = new Map<number, Peer>();
  readonly #suspendedAtMs = new Map<number, number>();
  readonly #wakeup: Wakeup;
  readonly outcome: Promise<PrimaryOutcome>;
  #finish: (outcome: PrimaryOutcome) => void = () => undefined;
  #ended = false;
  #generation: Generation = NO_GENERATION;
  #nextLinkId = 1;
  #framesThrough = 0;
  /** Why the term ends, when the machine ended it and was not lost. */
  #loss: GuestLoss | null = null;
  /** Whether the machine is dying is being found out. */
  #isSettling = false;
  #mustEnd = false;
  readonly #scrub = new Scrub();
  #skipLogged = '';

  constructor(options: PrimarySessionOptions) {
    this.#options = options;
    this.#core = options.core;
    this.#log = options.parts.log;
    this.#pipeline = new CheckpointPipeline(options);
    this.#wakeup = new Wakeup(() => this.#step({ kind: 'timer' }));
    this.outcome = new Promise((resolve) => {
      this.#finish = resolve;
    });
  }

  /** The failure detector judged the backup. */
  peerVerdict(verdict: Verdict): void {
    if (verdict.state === 'suspect') return;
    const dead = verdict.state === 'dead';
    this.#step({ kind: 'peerVerdict', verdict: dead ? 'dead' : 'alive', why: verdict.why });
  }

  /** A heartbeat was answered with a promise. */
  promised(instance: Instance, promiseMs: number, sentAtMs: number): void {
    this.#step({ kind: 'promised', instance, promiseMs, sentAtMs });
  }

  get core(): Primary {
    return this.#core;
  }

  get meters(): EpochMeters {
    return this.#pipeline.meters;
  }

  get queueBytes(): number {
    return this.#pipeline.queue.unackedBytes;
  }

  get syncProgress(): SyncProgress | null {
    return this.#pipeline.syncProgress;
  }

  get peer(): { node: string; instance: string; connected: boolean } | null {
    const peer = [...this.#peers.values()].find((candidate) => candidate.node !== '');
    if (peer === undefined) return null;
    return { node: peer.node, instance: peer.instance ?? '', connected: true };
  }

  start(): void {
    this.#step({ kind: 'start' });
  }

  startPromoted(word: RegisterWord): void {
    this.#step({ kind: 'startPromoted', word });
  }

  adjust(intervalMs: number): void {
    this.#step({ kind: 'setInterval', intervalMs });
  }

  shutdown(): void {
    this.#step({ kind: 'shutdown' });
  }

  /** The machine can no longer be checkpointed. */
  guestLost(loss: GuestLoss): void {
    if (loss.kind === 'died') return this.#dead(loss.why);
    // Nothing is lost: the backup must know that nobody takes over.
    this.#log.warn({ loss: loss.kind }, loss.why);
    this.#loss ??= loss;
    this.#step({ kind: 'shutdown', why: loss.why });
  }

  /** The capture thread ended: nothing can be checkpointed any more, the machine runs on. */
  captureLost(error: RomulusError): void {
    if (this.#ended) return;
    this.#log.fatal({ error: error.toJSON() }, 'the capture thread ended');
    this.#dead(error.message);
  }

  /** Nobody can checkpoint it any more. Who is paired takes over, so it must not run on by itself. */
  #dead(why: string): void {
    const { state } = this.#core.status;
    this.#mustEnd = state === 'protected' || state === 'backlogged' || state === 'severed';
    this.#step({ kind: 'guestLost', why });
  }

  /** The disk's writes can no longer be followed: whoever is given the image must start anew. */
  diskLost(error: RomulusError): void {
    this.#log.error({ error: error.toJSON() }, 'the disk is no longer followed');
    this.#pipeline.breakLineage();
    void this.#settleBreak(error);
  }

  /**
   * The lineage is broken: the backup needs a new image, unless the machine is dying. Then it is the
   * backup's turn, and giving it up would leave nobody to take over. A machine's sockets close before
   * we hear that it is dead, so it is given a moment; no checkpoint is taken meanwhile.
   */
  async #settleBreak(error: RomulusError): Promise<void> {
    if (this.#isSettling) return;
    this.#isSettling = true;
    const { machinePid } = this.#options;
    const hasDied = await hasEndedWithin(machinePid, MACHINE_DEATH_MS);
    this.#isSettling = false;
    // It ends on purpose, and nobody takes over.
    if (this.#loss !== null) return;
    if (hasDied)
      this.guestLost({ kind: 'died', why: `process ${machinePid} has ended: ${error.message}` });
    else if (!this.#ended) this.#dropAll(error);
  }

  /** A backup dialled. */
  accept(link: Link): void {
    const linkId = this.#nextLinkId;
    this.#nextLinkId += 1;
    const peer: Peer = {
      linkId,
      link,
      outbox: new Outbox(link),
      node: '',
      held: null,
      instance: null,
      since: NO_EPOCH,
      sentAtMs: new Map(),
      knowsPaused: false,
      complaint: null,
    };
    this.#peers.set(linkId, peer);
    link.onMessage((frame) => {
      try {
        this.#onMessage(peer, this.#decode(frame));
      } catch (error) {
        const known = toRomulusError(error);
        this.#log.error({ error: known.toJSON(), linkId }, 'the backup broke the protocol');
        link.close(known);
      }
    });
    link.onClose((reason) => {
      this.#peers.delete(linkId);
      this.#pipeline.stopSync(reason.text, linkId);
      if (peer.instance !== null) this.#scrub.fail(noBackup(reason.text));
      const why = peer.complaint === null ? reason.text : `${peer.node}: ${peer.complaint}`;
      this.#step({ kind: 'linkClosed', linkId, why });
    });
  }

  /**
   * Compares the two images at the next epoch.
   * @throws {RomulusError} ERR_TRANSPORT_NO_BACKUP, and as `Scrub.start`.
   */
  async scrub(): Promise<ScrubResult> {
    if (this.#partner() === null) throw noBackup('no backup holds a whole image');
    return await this.#scrub.start();
  }

  /** The backup that is paired or about to be. */
  #partner(): Peer | null {
    const { state } = this.#core.status;
    if (state !== 'protected' && state !== 'backlogged') return null;
    return [...this.#peers.values()].find(({ instance }) => instance !== null) ?? null;
  }

  #step(event: PrimaryEvent): void {
    if (this.#ended) return;
    for (const effect of this.#core.step(event, nowMs())) this.#carryOut(effect);
    const { generation } = this.#core.status;
    if (generation === this.#generation) return;
    this.#generation = generation;
    this.#options.heartbeat.setGeneration(generation);
  }

  #carryOut(effect: PrimaryEffect): void {
    const { parts, heartbeat } = this.#options;
    switch (effect.kind) {
      case 'readRegister':
      case 'changeRegister':
        answerRegister(parts.arbiter, effect, (answer) => this.#step(answer));
        return;
      case 'welcome':
        return this.#welcome(effect);
      case 'refuseLink':
        return this.#refuse(effect);
      case 'startSync':
        return this.#startSync(effect.linkId, effect.plan);
      case 'syncRound':
        void this.#round(effect.linkId, this.#pipeline.syncRound(effect.linkId, effect.round));
        return;
      case 'takeCheckpoint':
        void this.#takeCheckpoint(effect.epoch, effect.completesBase);
        return;
      case 'announcePaired':
        parts.audit.record('state', { what: 'paired', generation: effect.generation });
        return this.#sendTo(effect.linkId, {
          kind: 'paired',
          generation: effect.generation,
          instance: effect.instance,
        });
      case 'holdOutput':
        parts.audit.record('hold', {});
        parts.gate.hold();
        return;
      case 'releaseOutput':
        return this.#release(effect);
      case 'openOutput':
        parts.audit.record('open', { generation: this.#core.status.generation });
        parts.gate.open();
        return;
      case 'closeOutput':
        parts.gate.close();
        return;
      case 'acceptPromisesFrom':
        // Bars the old promises at once; those of the new partner count when the thread knows it.
        void heartbeat.setPartner(effect.instance);
        return;
      case 'fenceGuest':
        return this.#fence(effect.why);
      case 'sayGoodbye':
        this.#sendTo(effect.linkId, { kind: 'goodbye', reason: effect.reason, text: effect.text });
        this.#peers.get(effect.linkId)?.link.close();
        return;
      case 'dropLink':
        this.#log.info({ linkId: effect.linkId, why: effect.why }, 'link dropped');
        this.#peers.get(effect.linkId)?.link.close();
        return;
      case 'forgetEpochs':
        this.#pipeline.queue.applied(effect.throughEpoch);
        return;
      case 'finish':
        return this.#end(this.#outcomeOf(effect));
      case 'report':
        return this.#report(effect.state, effect.why);
      case 'wakeAt':
        this.#wakeup.at(effect.atMs);
        return;
      default:
        unreachable(effect, 'primary effect');
    }
  }

  #outcomeOf(effect: PrimaryEffect & { kind: 'finish' }): PrimaryOutcome {
    if (effect.reason !== 'shutdown')
      return { kind: 'guestLost', why: effect.why, mustEnd: this.#mustEnd };
    const why = this.#loss?.why ?? effect.why;
    if (this.#loss?.kind !== 'changed') return { kind: 'finished', why };
    return { kind: 'guestChanged', why, epoch: this.#core.status.takenEpoch };
  }

  #report(state: PrimaryStateName, why: string): void {
    const { parts } = this.#options;
    const { takenEpoch, generation } = this.#core.status;
    if (state === 'unprotected' || state === 'fenced' || state === 'stopped')
      this.#pipeline.stopDisk();
    parts.audit.record('state', { role: 'primary', state, why, epoch: takenEpoch });
    parts.report({ role: 'primary', state, why, epoch: takenEpoch, generation });
  }

  #welcome(effect: PrimaryEffect & { kind: 'welcome' }): void {
    const { parts, heartbeat, instance, descriptor } = this.#options;
    const peer = this.#peers.get(effect.linkId);
    if (peer === undefined) return;
    peer.since = effect.fromEpoch;
    this.#send(peer, {
      kind: 'welcome',
      node: parts.config.node,
      instance,
      guest: descriptor,
      plan: effect.plan,
      fromEpoch: effect.fromEpoch,
      heartbeatPort: heartbeat.port,
      heartbeatIntervalMs: parts.config.heartbeatMs,
      promiseMs: parts.config.promiseMs,
    });
    if (effect.plan !== 'resume') return;
    peer.instance = peer.held;
    for (const queued of this.#pipeline.queue.after(effect.fromEpoch - 1))
      this.#transmit(peer, queued);
  }

  #refuse(effect: PrimaryEffect & { kind: 'refuseLink' }): void {
    const { code, text, remedy } = effect;
    this.#log.warn({ code, linkId: effect.linkId }, text);
    this.#sendTo(effect.linkId, { kind: 'error', code, message: text, remedy });
    this.#peers.get(effect.linkId)?.link.close();
  }

  #release(effect: PrimaryEffect & { kind: 'releaseOutput' }): void {
    const { parts, heartbeat } = this.#options;
    const mayWrite = (): boolean => {
      const now = nowMs();
      return now < effect.untilMs || now < Number(heartbeat.words.heldUntilNs()) / 1e6;
    };
    parts.gate.release(effect.throughEpoch, mayWrite);
    if (effect.framesThrough !== this.#framesThrough) {
      this.#framesThrough = effect.framesThrough;
      parts.audit.record('release', {
        epoch: effect.throughEpoch,
        framesThrough: effect.framesThrough,
      });
    }
    for (const [epoch, startedMs] of this.#suspendedAtMs) {
      if (epoch > effect.throughEpoch) break;
      this.meters.commitMs.record(nowMs() - startedMs);
      this.#suspendedAtMs.delete(epoch);
    }
  }

  #fence(why: string): void {
    const { parts, capture } = this.#options;
    parts.audit.record('fenced', { why });
    parts.emit({ event: 'fenced', why });
    this.#log.error({ why }, 'fenced: the machine is stopped, its output stays closed');
    capture
      .call('fence', undefined)
      .catch((error: unknown) => {
        this.#log.error(
          { error: toRomulusError(error).toJSON() },
          'the machine could not be ended',
        );
      })
      .finally(() => this.#end({ kind: 'fenced', why }));
  }

  #startSync(linkId: number, plan: 'full' | 'changed'): void {
    const peer = this.#peers.get(linkId);
    if (peer === undefined) return;
    const { takenEpoch, generation } = this.#core.status;
    const sending = this.#pipeline.startSync({
      linkId,
      outbox: peer.outbox,
      plan: plan === 'full' ? { kind: 'full' } : { kind: 'changed', since: peer.since },
      generation,
      epoch: takenEpoch + 1,
    });
    void this.#round(linkId, sending);
  }

  /** Reports a round's end; what it sent is the best estimate of what was dirtied meanwhile. */
  async #round(linkId: number, sending: Promise<number | null>): Promise<void> {
    const startedMs = nowMs();
    try {
      const pages = await sending;
      if (pages === null || !this.#peers.has(linkId)) return;
      const durationMs = nowMs() - startedMs;
      this.#log.info({ linkId, pages, durationMs }, 'a round of the base image is sent');
      this.#step({ kind: 'syncRoundDone', linkId, pages, dirtyLeft: pages, durationMs });
    } catch (error) {
      // The link is gone, and with it whoever wanted to know.
      if (!this.#peers.has(linkId)) return;
      const known = toRomulusError(error);
      this.#log.error({ error: known.toJSON() }, 'synchronisation failed');
      this.#step({ kind: 'syncFailed', linkId, why: known.message });
    }
  }

  async #takeCheckpoint(epoch: Epoch, completesBase: boolean): Promise<void> {
    if (this.#isSettling) return this.#step({ kind: 'checkpointSkipped', epoch, why: SETTLING });
    const { generation } = this.#core.status;
    const startedMs = nowMs();
    const partner = this.#scrub.wanted ? this.#partner() : null;
    // Asked before the epoch is on its way: the backup must know when it has applied it.
    if (partner !== null) this.#send(partner, { kind: 'scrubRequest', epoch });
    const taking = this.#pipeline.take(epoch, { completesBase, generation });
    // Called in the same turn, so that nothing comes between the two in the capture thread.
    if (partner !== null) this.#digestAt(epoch);
    const outcome = await taking;
    // Broken meanwhile: what was taken may lack what was not heard of.
    if (this.#isSettling && outcome.kind === 'taken')
      return this.#step({ kind: 'checkpointSkipped', epoch, why: SETTLING });
    if (outcome.kind === 'skipped') {
      this.#scrub.skipped(epoch);
      const { error, lineageBroken } = outcome;
      this.#logSkipped(epoch, error);
      if (error.details['isPaused'] === true) this.#tellPaused();
      // What ends on purpose needs its links to take leave.
      if (lineageBroken && this.#loss === null) void this.#settleBreak(error);
      this.#step({ kind: 'checkpointSkipped', epoch, why: error.message });
      return;
    }
    const { checkpoint, queued } = outcome;
    this.#skipLogged = '';
    for (const peer of this.#peers.values()) peer.knowsPaused = false;
    this.#suspendedAtMs.set(epoch, startedMs);
    for (const peer of this.#peers.values())
      if (peer.instance !== null) this.#transmit(peer, queued);
    this.#step({
      kind: 'checkpointTaken',
      epoch,
      framesSent: checkpoint.framesSent,
      diskWrites: checkpoint.diskWrites,
      pages: checkpoint.totals.pages,
      bytes: queued.bytes,
      pauseMs: checkpoint.pauseMs,
    });
    this.#step({ kind: 'queueLevel', bytes: this.#pipeline.queue.unackedBytes });
  }

  /** A machine that stands is skipped at every interval: each reason is logged once in a row. */
  #logSkipped(epoch: Epoch, error: RomulusError): void {
    if (error.message === this.#skipLogged) return;
    this.#skipLogged = error.message;
    this.#log.warn({ epoch, error: error.toJSON() }, 'checkpoint skipped');
  }

  /** What its user paused, no copy may run. */
  #tellPaused(): void {
    const epoch = this.#core.status.takenEpoch;
    for (const peer of this.#peers.values()) {
      if (peer.instance === null || peer.knowsPaused || epoch < 1) continue;
      peer.knowsPaused = true;
      this.#send(peer, { kind: 'machinePaused', epoch });
    }
  }

  #dropAll(error: RomulusError): void {
    for (const peer of this.#peers.values()) peer.link.close(error);
  }

  #transmit(peer: Peer, queued: QueuedEpoch): void {
    const last = queued.frames.length - 1;
    queued.frames.forEach((frame, index) => {
      // The promise counts from here: not later than the last byte leaves.
      const note = (): void => {
        peer.sentAtMs.set(queued.epoch, nowMs());
      };
      peer.outbox.send(frame, index === last ? note : undefined);
    });
  }

  /** @throws {RomulusError} ERR_PROTOCOL_GENERATION besides what decoding throws. */
  #decode(frame: Frame): Message {
    const { generation } = this.#core.status;
    // A backup that has heard of a later word than ours knows better who runs.
    if (frame.generation > generation && frame.kind !== 'hello')
      throw new RomulusError(
        'ERR_PROTOCOL_GENERATION',
        `a frame of generation ${frame.generation}, ours is ${generation}`,
        { remedy: 'The link is dropped; the register says who runs.' },
      );
    return decodeMessage(frame);
  }

  #onMessage(peer: Peer, message: Message): void {
    const { linkId } = peer;
    this.#options.heartbeat.noteLinkHeard();
    switch (message.kind) {
      case 'hello': {
        peer.node = message.node;
        peer.held = message.lastApplied?.instance ?? null;
        const { lastApplied } = message;
        const { lineageIntact, ...kept } = this.#pipeline.proofs;
        this.#step({
          kind: 'backupHello',
          linkId,
          node: message.node,
          holds: lineageIntact ? lastApplied : null,
          descriptorMatches: sameMachine(message.guest, this.#options.descriptor),
          ...kept,
        });
        return;
      }
      case 'ready':
        peer.instance = message.instance;
        this.#step({ kind: 'backupReady', linkId, instance: message.instance });
        return;
      case 'ack':
        return this.#onAcknowledgement(peer, message);
      case 'applied': {
        const { instance, epoch } = message;
        this.#step({ kind: 'applied', linkId, instance, epoch });
        return;
      }
      case 'scrubReply':
        return this.#scrub.noteBackup(message.epoch, message.digest);
      case 'error':
        peer.complaint = message.message;
        this.#log.warn({ peer: peer.node, code: message.code }, message.message);
        return;
      case 'goodbye':
        this.#log.info({ peer: peer.node, reason: message.reason }, message.text);
        return;
      default:
        this.#log.warn({ kind: message.kind }, 'a backup sent what only a primary may');
        peer.link.close();
    }
  }

  #onAcknowledgement(peer: Peer, message: AckMessage): void {
    const { epoch, instance, promiseUs } = message;
    const sentAtMs = peer.sentAtMs.get(epoch);
    // An acknowledgement of what was never sent here, or for another image, proves nothing.
    if (sentAtMs === undefined || instance !== peer.instance) return;
    for (const sent of peer.sentAtMs.keys()) if (sent <= epoch) peer.sentAtMs.delete(sent);
    this.#pipeline.queue.acknowledge(epoch);
    this.#options.parts.audit.record('ack-received', { epoch });
    const { linkId } = peer;
    const promiseMs = promiseUs / 1000;
    this.#step({ kind: 'acknowledged', linkId, instance, epoch, promiseMs, sentAtMs });
    this.#step({ kind: 'queueLevel', bytes: this.#pipeline.queue.unackedBytes });
  }

  #digestAt(epoch: Epoch): void {
    this.#scrub.begin(epoch);
    this.#options.capture.call('scrub', undefined).then(
      ({ digest }) => this.#scrub.notePrimary(epoch, digest),
      (error: unknown) => this.#scrub.fail(toRomulusError(error)),
    );
  }

  #sendTo(linkId: number, message: Message): void {
    const peer = this.#peers.get(linkId);
    if (peer !== undefined) this.#send(peer, message);
  }

  #send(peer: Peer, message: Message): void {
    const generation: Generation = this.#core.status.generation;
    peer.outbox.send(encodeMessage(message, { generation }));
  }

  #end(outcome: PrimaryOutcome): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#wakeup.at(null);
    this.#pipeline.stopSync(outcome.why);
    this.#scrub.fail(noBackup(outcome.why));
    this.#pipeline.stopDisk();
    for (const peer of this.#peers.values()) peer.link.close();
    this.#finish(outcome);
  }
}
