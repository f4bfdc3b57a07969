/**
 * A promotion, once the core has decided on it: loads and starts the waiting machine, and keeps the
 * times and reasons that are told of it.
 */
import type { Logger } from 'pino';
import { assert } from '../base/assert.ts';
import { toRomulusError } from '../base/errors.ts';
import type { Epoch } from '../base/units.ts';
import type { BackupEffect, BackupEvent } from '../core/backup-types.ts';
import type { Instance } from '../core/register.ts';
import type { Verdict } from '../core/verdict.ts';
import { commandFencer } from '../fencers/command.ts';
import type { GuestDescriptor, RunningGuest } from '../guests/guest.ts';
import type { BackupImage } from './backup-image.ts';
import { nowNs } from './clock.ts';
import type { NodeParts } from './node-parts.ts';
import type { Standby } from './standby.ts';

/** The machine that runs by a promotion. */
export interface StartedMachine {
  readonly guest: RunningGuest;
  readonly standby: Standby;
}

export interface PromotionOptions {
  readonly parts: NodeParts;
  readonly image: BackupImage;
  /** Hands an event to the core and carries out what it answers. */
  readonly step: (event: BackupEvent) => void;
}

export class Promotion {
  readonly #options: PromotionOptions;
  readonly #log: Logger;
  #started: StartedMachine | null = null;
  /** The machine that is noted as this node's, and as which instance. */
  #noted: { readonly standby: Standby; readonly instance: Instance } | null = null;
  #verdictAtNs = 0n;
  #verdictWhy = '';
  #decidedAtNs = 0n;
  #decidedAfterMs = 0;
  #decidedWhy = '';
  #runningAtNs = 0n;

  constructor(options: PromotionOptions) {
    this.#options = options;
    this.#log = options.parts.log;
  }

  /** The primary was judged: a promotion that follows counts from here. Gives the time, nanoseconds. */
  judged(verdict: Verdict): bigint {
    this.#verdictAtNs = nowNs();
    this.#verdictWhy = verdict.why;
    return this.#verdictAtNs;
  }

  /** The register is about to be asked for the right to run. */
  decided(): void {
    this.#decidedAtNs = nowNs();
    this.#decidedAfterMs = Number(this.#decidedAtNs - this.#verdictAtNs) / 1e6;
    this.#decidedWhy = this.#verdictWhy;
    this.#options.parts.audit.record('decided', { why: this.#decidedWhy });
  }

  /** Loads the machine from the image, which changes no more. Never rejects. */
  async load(instance: Instance): Promise<void> {
    const standby = await this.#options.image.load();
    try {
      if (standby !== null) this.#note(standby, instance);
    } catch (error) {
      // The start meets the same trouble and tells of it.
      this.#log.info({ error: toRomulusError(error).toJSON() }, 'the machine is not noted');
    }
  }

  /** Starts the machine from the image, which stands at this epoch; answers the core. Never rejects. */
  async start(
    epoch: Epoch,
    options: {
      readonly instance: Instance;
      readonly staysPaused: boolean;
      /** Name of the node that ran the machine. */
      readonly peer: string;
      /** Under which the machine is to run. */
      readonly generation: number;
    },
  ): Promise<void> {
    const { parts, image, step } = this.#options;
    const { instance, staysPaused } = options;
    try {
      const { standby, state } = await image.whole(epoch);
      await this.#fence(standby.descriptor, options);
      // Its first words must wait for openOutput, not be dropped.
      parts.gate.hold();
      parts.setMachine(standby.net);
      this.#note(standby, instance);
      if (staysPaused) this.#log.warn('its user had paused the machine: the copy stays paused');
      const guest = await standby.incoming.start(state, { staysPaused });
      this.#runningAtNs = nowNs();
      this.#started = { guest, standby };
      image.handOver();
      step({ kind: 'guestStarted', epoch });
    } catch (error) {
      const known = toRomulusError(error);
      parts.gate.close();
      this.#log.error({ error: known.toJSON() }, 'the machine could not be started');
      const { code, message, remedy } = known;
      parts.emit({ event: 'error', code, message, remedy });
      step({ kind: 'guestStartFailed', why: known.message });
    }
  }

  /**
   * Before it runs: an engine that dies right after must find its machine again. One that dies before
   * that takes the waiting machine along, and the note means nothing.
   */
  #note(standby: Standby, instance: Instance): void {
    if (this.#noted?.standby === standby && this.#noted.instance === instance) return;
    const { address, incoming } = standby;
    this.#options.parts.saveMachine({
      instance,
      kind: address.kind,
      socketPath: address.controlPath,
      pid: incoming.pid,
    });
    this.#noted = { standby, instance };
  }

  /** On shared disks two machines must never write: the other side is fenced before ours starts. */
  async #fence(
    { name, diskMode }: GuestDescriptor,
    { peer, generation }: { readonly peer: string; readonly generation: number },
  ): Promise<void> {
    if (diskMode !== 'shared') return;
    const { config, audit } = this.#options.parts;
    assert(config.fence !== undefined, 'shared disks have a fence');
    audit.record('fencing', { peer, generation });
    await commandFencer(config.fence).fence({ guest: name, generation, peer });
    this.#log.warn({ peer }, 'the other side is fenced');
  }

  /** Tells of the promotion and gives the machine that runs. */
  complete(effect: BackupEffect & { kind: 'becomePrimary' }): StartedMachine {
    const { parts } = this.#options;
    assert(this.#started !== null, 'promoted without a machine');
    const facts = {
      epoch: effect.epoch,
      generation: effect.word.generation,
      waitedMs: this.#decidedAfterMs,
      promoteMs: Number(this.#runningAtNs - this.#decidedAtNs) / 1e6,
      decidedAtNs: this.#decidedAtNs.toString(),
      runningAtNs: this.#runningAtNs.toString(),
      why: this.#decidedWhy,
    };
    parts.audit.record('promoted', facts);
    parts.emit({ event: 'promoted', ...facts });
    void parts.promoteHook.run({
      guest: this.#started.standby.descriptor.name,
      generation: facts.generation,
      epoch: facts.epoch,
    });
    return this.#started;
  }
}
