/**
 * A node as primary: carries out what the core's primary decides, on the real capture thread, link,
 * gate, arbiter and heartbeats. It decides nothing about who may run or what may leave; it turns
 * effects into acts, in the order they are given, and what happens into events.
 *
 * Here are the events and the effects. What they need done: `backup-links.ts` speaks with the
 * backups, `primary-checkpoints.ts` takes checkpoints and images, `primary-output.ts` moves the
 * gate, `machine-loss.ts` finds out how the machine ended.
 */
import type { Logger } from 'pino';
import { unreachable } from '../base/assert.ts';
import { type RomulusError, toRomulusError } from '../base/errors.ts';
import { type Generation, NO_GENERATION } from '../base/units.ts';
import type { Primary } from '../core/primary.ts';
import type { PrimaryEffect, PrimaryEvent, PrimaryStateName } from '../core/primary-types.ts';
import type { Instance, RegisterWord } from '../core/register.ts';
import type { Verdict } from '../core/verdict.ts';
import type { GuestLoss } from '../guests/guest.ts';
import type { Link } from '../links/link.ts';
import type { GuardianLink } from '../native/guardian-link.ts';
import type { Heartbeat } from '../signals/heartbeat.ts';
import { BackupLinks } from './backup-links.ts';
import { CheckpointPipeline, type PipelineOptions } from './checkpoint-pipeline.ts';
import { nowMs } from './clock.ts';
import { MachineLoss } from './machine-loss.ts';
import type { EpochMeters } from './meters.ts';
import type { NodeParts } from './node-parts.ts';
import { PrimaryCheckpoints } from './primary-checkpoints.ts';
import { PrimaryOutput } from './primary-output.ts';
import { noBackup, type PrimaryOutcome } from './primary-peer.ts';
import { answerRegister } from './register-port.ts';
import { Scrub, type ScrubResult } from './scrub.ts';
import type { PeerStatus } from './status.ts';
import type { SyncProgress } from './sync-driver.ts';
import { Wakeup } from './wakeup.ts';

export interface PrimarySessionOptions extends PipelineOptions {
  readonly parts: NodeParts;
  readonly heartbeat: Heartbeat;
  readonly core: Primary;
  readonly instance: Instance;
  /** The machine's process. */
  readonly machinePid: number;
  /** Who keeps the machine going when this process cannot; null when nobody needs to. */
  readonly guardian: GuardianLink | null;
}

/** What of the pace can be changed while it runs, in milliseconds. */
export interface PaceChanges {
  readonly intervalMs?: number | undefined;
  /** 0: output that waits never ends an epoch early. */
  readonly minIntervalMs?: number | undefined;
}

/** One term as primary, from start or promotion until the end of the node or a fence. */
export class PrimarySession {
  readonly #options: PrimarySessionOptions;
  readonly #core: Primary;
  readonly #log: Logger;
  readonly #pipeline: CheckpointPipeline;
  readonly #links: BackupLinks;
  readonly #output: PrimaryOutput;
  readonly #loss: MachineLoss;
  readonly #checkpoints: PrimaryCheckpoints;
  readonly #scrub = new Scrub();
  readonly #wakeup: Wakeup;
  readonly outcome: Promise<PrimaryOutcome>;
  #finish: (outcome: PrimaryOutcome) => void = () => undefined;
  #ended = false;
  #generation: Generation = NO_GENERATION;

  constructor(options: PrimarySessionOptions) {
    const { core, parts, heartbeat, capture, descriptor, machinePid } = options;
    const { log } = parts;
    this.#options = options;
    this.#core = core;
    this.#log = log;
    const scrub = this.#scrub;
    const step = (event: PrimaryEvent): void => this.#step(event);
    const pipeline = new CheckpointPipeline(options);
    const { meters } = pipeline;
    const output = new PrimaryOutput({ parts, heartbeat, meters, guardian: options.guardian });
    const links = new BackupLinks({ parts, heartbeat, core, descriptor, pipeline, scrub, step });
    const onBroken = (error: RomulusError): void => {
      if (!this.#ended) links.closeAll(error);
    };
    // A capture thread that is gone heard nothing.
    const lastWords = (): Promise<GuestLoss | null> =>
      capture.call('lastWords', undefined).catch(() => null);
    const loss = new MachineLoss({ core, log, machinePid, lastWords, step, onBroken });
    this.#checkpoints = new PrimaryCheckpoints({
      core,
      log,
      capture,
      pipeline,
      links,
      output,
      loss,
      scrub,
      step,
    });
    this.#pipeline = pipeline;
    this.#output = output;
    this.#links = links;
    this.#loss = loss;
    parts.gate.onWaiting(() => this.#step({ kind: 'outputWaiting' }));
    this.#wakeup = new Wakeup(() => this.#step({ kind: 'timer' }));
    this.outcome = new Promise((resolve) => {
      this.#finish = resolve;
    });
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

  get peer(): PeerStatus | null {
    return this.#links.known;
  }

  // ---- what happens

  start(): void {
    this.#step({ kind: 'start' });
  }

  startPromoted(word: RegisterWord): void {
    this.#step({ kind: 'startPromoted', word });
  }

  /** Changes the pace of epochs, from the next one on. */
  adjust({ intervalMs, minIntervalMs }: PaceChanges): void {
    if (intervalMs !== undefined) this.#step({ kind: 'setInterval', intervalMs });
    if (minIntervalMs !== undefined) this.#step({ kind: 'setMinInterval', minIntervalMs });
  }

  shutdown(): void {
    this.#step({ kind: 'shutdown' });
  }

  /** A backup dialled. */
  accept(link: Link): void {
    this.#links.accept(link);
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

  /** The machine can no longer be checkpointed. */
  guestLost(loss: GuestLoss): void {
    this.#loss.lost(loss);
  }

  /** A thread without which nothing can be checkpointed ended; the machine runs on. */
  threadLost(error: RomulusError): void {
    if (this.#ended) return;
    this.#log.fatal({ error: error.toJSON() }, 'a thread of this node ended');
    this.#loss.unheld(error);
  }

  /** The disk's writes can no longer be followed: whoever is given the image must start anew. */
  diskLost(error: RomulusError): void {
    this.#log.error({ error: error.toJSON() }, 'the disk is no longer followed');
    this.#pipeline.breakLineage();
    void this.#loss.settle(error);
  }

  /** The machine's output can no longer be let out; its network is closed until it can. */
  netLost(error: RomulusError): void {
    this.#log.error({ error: error.toJSON() }, "the machine's network output is no longer held");
    void this.#loss.netLost(error);
  }

  /**
   * Compares the two images at the next epoch.
   * @throws {RomulusError} ERR_TRANSPORT_NO_BACKUP, and as `Scrub.start`.
   */
  async scrub(): Promise<ScrubResult> {
    if (this.#links.partner === null) throw noBackup('no backup holds a whole image');
    return await this.#scrub.start();
  }

  // ---- what is to be done

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
        return this.#checkpoints.startSync(effect.linkId, effect.plan);
      case 'syncRound':
        return this.#checkpoints.syncRound(effect.linkId, effect.round);
      case 'takeCheckpoint':
        void this.#checkpoints.take(effect.epoch, effect.completesBase);
        return;
      case 'announcePaired':
        parts.audit.record('state', { what: 'paired', generation: effect.generation });
        return this.#links.sendTo(effect.linkId, {
          kind: 'paired',
          generation: effect.generation,
          instance: effect.instance,
        });
      case 'holdOutput':
        return this.#output.hold();
      case 'releaseOutput':
        return this.#output.release(effect);
      case 'openOutput':
        return this.#output.open(this.#core.status.generation);
      case 'closeOutput':
        return this.#output.close();
      case 'acceptPromisesFrom':
        // Bars the old promises at once; those of the new partner count when the thread knows it.
        void heartbeat.setPartner(effect.instance);
        return;
      case 'fenceGuest':
        return this.#fence(effect.why);
      case 'sayGoodbye': {
        const { linkId, reason, text } = effect;
        this.#links.sendTo(linkId, { kind: 'goodbye', reason, text });
        return this.#links.close(linkId);
      }
      case 'dropLink':
        this.#log.info({ linkId: effect.linkId, why: effect.why }, 'link dropped');
        return this.#links.close(effect.linkId);
      case 'forgetEpochs':
        return this.#pipeline.queue.applied(effect.throughEpoch);
      case 'finish':
        return this.#end(this.#loss.outcomeOf(effect));
      case 'report':
        return this.#report(effect.state, effect.why);
      case 'wakeAt':
        return this.#wakeup.at(effect.atMs);
      default:
        unreachable(effect, 'primary effect');
    }
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
    const peer = this.#links.get(effect.linkId);
    if (peer === undefined) return;
    peer.since = effect.fromEpoch;
    this.#links.send(peer, {
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
      this.#links.transmit(peer, queued);
  }

  #refuse(effect: PrimaryEffect & { kind: 'refuseLink' }): void {
    const { linkId, code, text, remedy } = effect;
    this.#log.warn({ code, linkId }, text);
    this.#links.sendTo(linkId, { kind: 'error', code, message: text, remedy });
    this.#links.close(linkId);
  }

  #fence(why: string): void {
    const { parts, capture } = this.#options;
    parts.audit.record('fenced', { why });
    parts.emit({ event: 'fenced', why });
    this.#log.error({ why }, 'fenced: the machine is stopped, its output stays closed');
    void capture
      .call('fence', undefined)
      .then(
        () => false,
        (error: unknown) => {
          const json = toRomulusError(error).toJSON();
          this.#log.error({ error: json }, 'the machine cannot be asked to end; its process is');
          return true;
        },
      )
      .then((mustEnd) => this.#end({ kind: 'fenced', why, mustEnd }));
  }

  #end(outcome: PrimaryOutcome): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#wakeup.at(null);
    this.#pipeline.stopSync(outcome.why);
    this.#scrub.fail(noBackup(outcome.why));
    this.#pipeline.stopDisk();
    this.#options.parts.gate.onWaiting(null);
    this.#links.closeAll();
    this.#finish(outcome);
  }
}
