/**
 * The image that a backup holds: the waiting machine whose memory it is, and the thread that fills
 * it. Makes room for one, puts in what came, digests it, and says when it cannot be trusted any more.
 */
import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import { assert } from '../base/assert.ts';
import { RomulusError, toRomulusError } from '../base/errors.ts';
import type { Epoch } from '../base/units.ts';
import type { Frame } from '../codec/frame.ts';
import type { BackupEvent } from '../core/backup-types.ts';
import type { Instance } from '../core/register.ts';
import type { GuestDescriptor } from '../guests/guest.ts';
import { ApplyQueue } from './apply-queue.ts';
import { nowMs } from './clock.ts';
import type { WholeEpoch } from './epoch-assembler.ts';
import type { NodeParts } from './node-parts.ts';
import { digestText } from './scrub.ts';
import { type Standby, prepareStandby } from './standby.ts';

/** How long after an image that could not be held, or not be given, another one is asked for. */
const IMAGE_REST_MS = 3000;

export interface BackupImageOptions {
  readonly parts: NodeParts;
  /** True when too much waits to be applied: the link should be read no further. */
  readonly onPressure: (full: boolean) => void;
  /** The instance whose image this is by now, as the core knows it. */
  readonly instance: () => Instance | null;
  /** Hands an event to the core and carries out what it answers. */
  readonly step: (event: BackupEvent) => void;
}

/** The machine, and what it would start from. */
interface Standing {
  readonly standby: Standby;
  readonly epoch: number;
  readonly state: Uint8Array;
}

export class BackupImage {
  readonly #options: BackupImageOptions;
  readonly #log: Logger;
  readonly #apply: ApplyQueue;
  #standby: Standby | null = null;
  /** What a start was made ready for, as long as no later epoch was put in. */
  #ready: Standing | null = null;
  /** Ends with the last making ready asked for; one at a time. */
  #readying: Promise<unknown> = Promise.resolve();
  #restUntilMs = 0;
  /** The image lacks what could not be put in; what waits behind that fails for the same reason. */
  #hasFailed = false;
  /**
   * Ends with the last preparation asked for. One at a time: while a machine is being made its link
   * may break, and the next link ask for an image, or the session end.
   */
  #preparing: Promise<void> = Promise.resolve();
  #preparationsAsked = 0;
  /** The machine runs, or the session is over: whether it waits well is nobody's business any more. */
  #isDone = false;

  constructor(options: BackupImageOptions) {
    this.#options = options;
    this.#log = options.parts.log;
    this.#apply = new ApplyQueue({
      diskSync: options.parts.config.diskSync,
      onPressure: options.onPressure,
    });
  }

  /** The waiting machine, when there is one. */
  get standby(): Standby | null {
    return this.#standby;
  }

  get descriptor(): GuestDescriptor | null {
    return this.#standby?.descriptor ?? null;
  }

  /** For how long asking for another image makes no sense: nothing has changed here, or there. */
  get restMs(): number {
    return Math.max(0, this.#restUntilMs - nowMs());
  }

  /** The image could not be held, or not be given, and will not be in a moment. */
  rest(): void {
    this.#restUntilMs = nowMs() + IMAGE_REST_MS;
  }

  /**
   * Makes room for the image of this machine; answers the core, unless another image is wanted by
   * then. Never rejects.
   */
  prepare(linkId: number, plan: 'full' | 'changed', descriptor: GuestDescriptor): Promise<void> {
    this.#preparationsAsked += 1;
    const turn = this.#preparationsAsked;
    const before = this.#preparing;
    this.#preparing = (async (): Promise<void> => {
      await before;
      if (turn === this.#preparationsAsked && !this.#isDone)
        await this.#prepare(linkId, plan, descriptor);
    })();
    return this.#preparing;
  }

  async #prepare(
    linkId: number,
    plan: 'full' | 'changed',
    descriptor: GuestDescriptor,
  ): Promise<void> {
    const { parts, step } = this.#options;
    const instance = `${parts.config.node}#${randomBytes(4).toString('hex')}`;
    this.#ready = null;
    try {
      if (plan === 'full') await this.#replaceStandby(descriptor);
      else await this.#apply.restate();
      this.#hasFailed = false;
      step({ kind: 'imagePrepared', linkId, instance });
    } catch (error) {
      const known = toRomulusError(error);
      this.#log.error({ error: known.toJSON() }, 'this host cannot hold the image');
      this.rest();
      step({ kind: 'imageFailed', linkId, why: known.message, remedy: known.remedy });
    }
  }

  /** Puts a part of the base image in. */
  base(frame: Frame): void {
    this.#apply.base(frame).catch((error: unknown) => this.#failed(error));
  }

  /**
   * Puts an epoch in. `digestWanted` is called with the digest of the image as it is right after.
   * Gives whether the epoch is in the image; when not, the core was told.
   */
  async epoch(
    whole: WholeEpoch,
    instance: Instance,
    digestWanted: ((digest: string) => void) | null,
  ): Promise<boolean> {
    try {
      const applying = this.#apply.epoch(whole);
      // Called in the same turn, so that the apply thread takes no later epoch before it.
      if (digestWanted !== null)
        this.#apply.scrub().then(
          ({ digest }) => digestWanted(digestText(digest)),
          (error: unknown) =>
            this.#log.warn({ error: toRomulusError(error).toJSON() }, 'no digest of the image'),
        );
      await applying;
      return true;
    } catch (error) {
      this.#failed(error, instance);
      return false;
    }
  }

  /**
   * Does what a load will need before it is certain that there will be one: what is handed over by now is
   * put in, and the machine made ready. Never rejects: a start meets the same trouble and tells of it.
   */
  async makeReady(): Promise<void> {
    await this.#beforeStart(({ incoming }, state) => incoming.beforeLoad(state));
  }

  /**
   * Puts in what was handed over, and loads the machine: nothing may be put in after that. Gives it, or
   * null when it could not be loaded. Never rejects, as `makeReady`.
   */
  async load(): Promise<Standby | null> {
    return await this.#beforeStart(({ incoming }, state) => incoming.load(state));
  }

  #beforeStart(how: (standby: Standby, state: Uint8Array) => void): Promise<Standby | null> {
    const before = this.#readying;
    const readying = (async (): Promise<Standby | null> => {
      await before;
      try {
        const found = await this.#standing();
        how(found.standby, found.state);
        this.#ready = found;
        return found.standby;
      } catch (error) {
        const known = toRomulusError(error).toJSON();
        this.#log.info({ error: known }, 'the machine is not made ready');
        return null;
      }
    })();
    this.#readying = readying;
    return readying;
  }

  /**
   * The machine and the device state it starts from, once all that was handed over is in the image.
   * @throws {RomulusError} what could not be applied.
   */
  async whole(epoch: Epoch): Promise<Standing> {
    await this.#readying;
    const ready = this.#ready;
    if (ready?.epoch === epoch && ready.standby === this.#standby) return ready;
    const found = await this.#standing();
    assert(found.epoch === epoch, `image at epoch ${found.epoch}, promoted from ${epoch}`);
    return found;
  }

  async #standing(): Promise<Standing> {
    await this.#apply.settled();
    const standby = this.#standby;
    assert(standby !== null, 'a machine is started that was never prepared');
    const { epoch, state } = await this.#apply.deviceState();
    const ready = this.#ready;
    // The same object, if it is the same state: by that the machine knows it.
    if (ready?.epoch === epoch && ready.standby === standby) return ready;
    return { standby, epoch, state };
  }

  /** The machine runs: it is an image no more. */
  handOver(): void {
    this.#isDone = true;
  }

  /** Ends the thread and, unless the machine was handed over, the machine. */
  async close(): Promise<void> {
    const wasHandedOver = this.#isDone;
    this.#isDone = true;
    await this.#apply.close();
    await this.#preparing;
    if (!wasHandedOver) await this.#standby?.discard();
  }

  async #replaceStandby(descriptor: GuestDescriptor): Promise<void> {
    const { parts } = this.#options;
    const previous = this.#standby;
    this.#standby = null;
    await this.#apply.release();
    await previous?.discard();
    const standby = await prepareStandby({
      descriptor,
      config: parts.config,
      gate: parts.gate,
      log: this.#log,
    });
    this.#standby = standby;
    standby.incoming.onLost((why) => this.#standbyLost(standby, why));
    await this.#apply.prepare(standby.incoming);
  }

  #failed(error: unknown, of?: Instance): void {
    if (this.#hasFailed) return;
    this.#hasFailed = true;
    const known = toRomulusError(error);
    this.#log.error({ error: known.toJSON() }, 'the image can no longer be trusted');
    // What a disk refused it would refuse again at once.
    if (known.code.startsWith('ERR_DISK_')) this.rest();
    const instance = of ?? this.#options.instance();
    const { code, message, remedy } = known;
    this.#options.parts.emit({ event: 'error', code, message, remedy });
    if (instance !== null)
      this.#options.step({ kind: 'applyFailed', instance, code, why: message, remedy });
  }

  /** The waiting machine is gone, and its memory with it: another image is needed. */
  #standbyLost(standby: Standby, why: string): void {
    if (this.#isDone || this.#standby !== standby) return;
    this.#failed(
      new RomulusError('ERR_GUEST_LOST', why, {
        remedy: 'Nothing needs to be done: another machine is prepared and synchronised.',
      }),
    );
  }
}
