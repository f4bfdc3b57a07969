/**
 * A node as backup: carries out what the core's backup decides. Frames come in, whole epochs are
 * acknowledged and handed to the apply thread, and when the core has won the register the waiting
 * machine is started. It decides nothing itself.
 *
 * Here are the events and the effects. What they need done: `primary-stream.ts` hears and answers
 * the primary, `backup-image.ts` holds the image, `promotion.ts` starts the machine.
 */
import type { Logger } from 'pino';
import { unreachable } from '../base/assert.ts';
import { RomulusError } from '../base/errors.ts';
import type { Epoch } from '../base/units.ts';
import { PROTOCOL_VERSION } from '../codec/frame.ts';
import type { Backup } from '../core/backup.ts';
import type { BackupEffect, BackupEvent, BackupStateName } from '../core/backup-types.ts';
import type { Instance, RegisterWord } from '../core/register.ts';
import type { Verdict } from '../core/verdict.ts';
import type { GuestDescriptor } from '../guests/guest.ts';
import type { Link } from '../links/link.ts';
import type { PromiseWords } from '../signals/promise-words.ts';
import { BackupImage } from './backup-image.ts';
import { nowMs, nowNs } from './clock.ts';
import type { NodeParts } from './node-parts.ts';
import { PrimaryStream } from './primary-stream.ts';
import { PrimaryWatch } from './primary-watch.ts';
import { Promotion, type StartedMachine } from './promotion.ts';
import { answerRegister } from './register-port.ts';
import type { PeerStatus } from './status.ts';
import { Wakeup } from './wakeup.ts';

export interface BackupSessionOptions {
  readonly parts: NodeParts;
  readonly core: Backup;
}

/** Why the session ended. */
export type BackupOutcome =
  | { readonly kind: 'finished'; readonly why: string }
  | ({
      readonly kind: 'promoted';
      readonly instance: Instance;
      readonly word: RegisterWord;
      readonly epoch: Epoch;
    } & StartedMachine);

/** One term as backup, until promotion or the end of the node. */
export class BackupSession {
  readonly #options: BackupSessionOptions;
  readonly #core: Backup;
  readonly #log: Logger;
  readonly #wakeup: Wakeup;
  readonly #watch: PrimaryWatch;
  readonly #image: BackupImage;
  readonly #stream: PrimaryStream;
  readonly #promotion: Promotion;
  readonly outcome: Promise<BackupOutcome>;
  #finish: (outcome: BackupOutcome) => void = () => undefined;
  #ended = false;

  constructor(options: BackupSessionOptions) {
    const { core, parts } = options;
    this.#options = options;
    this.#core = core;
    this.#log = parts.log;
    const step = (event: BackupEvent): void => this.#step(event);
    this.#wakeup = new Wakeup(() => this.#step({ kind: 'timer' }));
    const watch = new PrimaryWatch({
      config: parts.config,
      log: parts.log,
      onVerdict: (verdict) => this.#onVerdict(verdict),
    });
    const image = new BackupImage({
      parts,
      onPressure: (full) => this.#stream.setPaused(full),
      instance: () => core.status.instance,
      step,
    });
    this.#stream = new PrimaryStream({ parts, core, image, watch, step });
    this.#promotion = new Promotion({ parts, image, step });
    this.#watch = watch;
    this.#image = image;
    this.outcome = new Promise((resolve) => {
      this.#finish = resolve;
    });
  }

  get core(): Backup {
    return this.#core;
  }

  /** For how long asking for another image makes no sense: nothing has changed here. */
  get restMs(): number {
    return this.#image.restMs;
  }

  get bytesReceived(): number {
    return this.#stream.bytesReceived;
  }

  get peer(): PeerStatus | null {
    return this.#stream.peer;
  }

  /** What the heartbeats of the primary are told through. */
  get words(): PromiseWords {
    return this.#watch.words;
  }

  get descriptor(): GuestDescriptor | null {
    return this.#image.descriptor;
  }

  // ---- what happens

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
    this.#stream.connected(link);
  }

  /** The bulk link ended or could not be made: evidence about the primary. */
  linkDown(text: string): void {
    this.#watch.noteLink('closed', text);
  }

  #onVerdict(verdict: Verdict): void {
    const { parts } = this.#options;
    this.#log.warn({ state: verdict.state }, verdict.why);
    if (verdict.state === 'suspect') return;
    const dead = verdict.state === 'dead';
    const atNs = this.#promotion.judged(verdict).toString();
    parts.emit({ event: 'verdict', dead, why: verdict.why, atNs });
    this.#step({ kind: 'verdict', verdict: dead ? 'dead' : 'alive', why: verdict.why });
  }

  // ---- what is to be done

  #step(event: BackupEvent): void {
    if (this.#ended) return;
    for (const effect of this.#core.step(event, nowMs())) this.#carryOut(effect);
    this.#watch.setGeneration(this.#core.status.generation);
  }

  #carryOut(effect: BackupEffect): void {
    const { parts } = this.#options;
    switch (effect.kind) {
      case 'readRegister':
      case 'changeRegister':
        if (effect.kind === 'changeRegister') this.#promotion.decided();
        answerRegister(parts.arbiter, effect, (answer) => this.#step(answer));
        return;
      case 'sendHello':
        return this.#sendHello(effect);
      case 'prepareImage': {
        const { guest } = this.#stream.beginBase();
        void this.#image.prepare(effect.linkId, effect.plan, guest);
        return;
      }
      case 'sendReady':
        return this.#stream.send(effect.linkId, { kind: 'ready', instance: effect.instance });
      case 'promiseAs':
        return this.#watch.promiseAs(effect.instance);
      case 'acknowledge':
        return this.#acknowledge(effect);
      case 'apply':
        void this.#applyEpoch(effect.instance, effect.epoch);
        return;
      case 'prepareChange':
        parts.arbiter.prepare(effect.next);
        void this.#image.makeReady();
        return;
      case 'loadGuest':
        void this.#promotion.load(effect.instance);
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
        return this.#watch.words.unseal();
      case 'discardPartialEpoch':
        return this.#stream.discardPartialEpoch();
      case 'startGuest':
        return this.#startGuest(effect);
      case 'openOutput':
        parts.audit.record('open', { generation: this.#core.status.generation });
        parts.gate.open();
        return;
      case 'becomePrimary': {
        const { instance, word, epoch } = effect;
        const started = this.#promotion.complete(effect);
        return this.#end({ kind: 'promoted', instance, word, epoch, ...started });
      }
      case 'dropLink':
        this.#log.warn({ code: effect.code }, effect.why);
        return this.#stream.drop(
          effect.linkId,
          new RomulusError(effect.code, effect.why, {
            remedy: effect.remedy ?? 'The link is dialled again.',
          }),
        );
      case 'finish':
        return this.#end({ kind: 'finished', why: effect.why });
      case 'report':
        return this.#report(effect.state, effect.why);
      case 'wakeAt':
        return this.#wakeup.at(effect.atMs);
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

  #sendHello(effect: BackupEffect & { kind: 'sendHello' }): void {
    this.#stream.send(effect.linkId, {
      kind: 'hello',
      protocolVersion: PROTOCOL_VERSION,
      node: this.#options.parts.config.node,
      instance: effect.holds?.instance ?? null,
      guest: this.#image.descriptor,
      capabilities: [],
      lastApplied: effect.holds,
    });
  }

  #acknowledge(effect: BackupEffect & { kind: 'acknowledge' }): void {
    const { epoch, instance, promiseMs, linkId } = effect;
    const untilNs = nowNs() + BigInt(Math.round(promiseMs * 1e6));
    if (promiseMs > 0 && !this.#watch.words.extendPromise(untilNs)) return;
    this.#options.parts.audit.record('ack-sent', { epoch, instance });
    const promiseUs = Math.round(promiseMs * 1000);
    this.#stream.send(linkId, { kind: 'ack', epoch, instance, promiseUs });
  }

  async #applyEpoch(instance: Instance, epoch: Epoch): Promise<void> {
    const { whole, digestWanted } = this.#stream.takeReceived(epoch);
    if (!(await this.#image.epoch(whole, instance, digestWanted))) return;
    this.#step({ kind: 'epochApplied', instance, epoch });
    this.#stream.sendNow({ kind: 'applied', epoch, instance });
  }

  #startGuest({ instance, epoch }: BackupEffect & { kind: 'startGuest' }): void {
    const staysPaused = this.#stream.isMachinePaused;
    const { generation } = this.#core.status;
    const peer = this.#stream.peer?.node ?? '';
    void this.#promotion.start(epoch, { instance, staysPaused, peer, generation });
  }

  #end(outcome: BackupOutcome): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#wakeup.at(null);
    this.#stream.close();
    this.#finish(outcome);
  }

  /** Ends the threads and, unless it was promoted, the waiting machine. */
  async close(): Promise<void> {
    await this.#watch.close();
    await this.#image.close();
  }
}
