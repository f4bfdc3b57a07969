/**
 * How the machine is lost: finds out whether it is dying, is switched off, or only cannot be
 * followed any more, and what that makes of the term as primary. Who is paired takes over from a
 * machine that died, and from no other.
 */
import type { Logger } from 'pino';
import type { RomulusError } from '../base/errors.ts';
import type { Primary } from '../core/primary.ts';
import type { PrimaryEffect, PrimaryEvent } from '../core/primary-types.ts';
import type { GuestLoss } from '../guests/guest.ts';
import { hasEndedWithin } from '../guests/process.ts';
import type { PrimaryOutcome } from './primary-peer.ts';

/** How long a machine may take to be dead once it began to close its sockets. */
const MACHINE_DEATH_MS = 500;

export interface MachineLossOptions {
  readonly core: Primary;
  readonly log: Logger;
  readonly machinePid: number;
  /** What its last words were, known once its process has ended; null: none. */
  readonly lastWords: () => Promise<GuestLoss | null>;
  /** Hands an event to the core and carries out what it answers. */
  readonly step: (event: PrimaryEvent) => void;
  /** The machine lives, but no image made so far can be carried on. */
  readonly onBroken: (error: RomulusError) => void;
}

export class MachineLoss {
  readonly #options: MachineLossOptions;
  /** Why the term ends, when the machine ended it and was not lost. */
  #loss: GuestLoss | null = null;
  /** Why the term ends, when a part of this node ended it. */
  #failure: RomulusError | null = null;
  #isSettling = false;
  #mustEnd = false;

  constructor(options: MachineLossOptions) {
    this.#options = options;
  }

  /** Whether the machine is dying is being found out; no checkpoint is taken meanwhile. */
  get isSettling(): boolean {
    return this.#isSettling;
  }

  /** The machine ends on purpose, and nobody takes over. */
  get isOnPurpose(): boolean {
    return this.#loss !== null;
  }

  /** The machine can no longer be checkpointed. */
  lost(loss: GuestLoss): void {
    if (loss.kind === 'died') return this.dead(loss.why);
    // Nothing is lost: the backup must know that nobody takes over.
    this.#options.log.warn({ loss: loss.kind }, loss.why);
    this.#loss ??= loss;
    this.#options.step({ kind: 'shutdown', why: loss.why });
  }

  /** Nobody can checkpoint it any more. Who is paired takes over, so it must not run on by itself. */
  dead(why: string): void {
    this.#mustEnd = this.#hasHeir();
    this.#options.step({ kind: 'guestLost', why });
  }

  /**
   * A thread of this node ended, and with it the hold on a machine that lives. Who is paired takes
   * over. A machine that is alone runs on: this node ends, its guardian lets go of the machine, and a
   * node that is started again holds it anew.
   */
  unheld(error: RomulusError): void {
    if (this.#hasHeir()) return this.dead(error.message);
    this.#failure ??= error;
    this.#options.step({ kind: 'shutdown', why: error.message });
  }

  #hasHeir(): boolean {
    const { state } = this.#options.core.status;
    return state === 'protected' || state === 'backlogged' || state === 'severed';
  }

  /**
   * The lineage is broken: the backup needs a new image, unless the machine is dying. Then it is the
   * backup's turn, and giving it up would leave nobody to take over. A machine's sockets close before
   * we hear that it is dead, so it is given a moment; no checkpoint is taken meanwhile.
   */
  async settle(error: RomulusError): Promise<void> {
    if (this.#isSettling) return;
    this.#isSettling = true;
    const { onBroken } = this.#options;
    const death = await this.#death(error);
    this.#isSettling = false;
    if (this.isOnPurpose) return;
    if (death === null) onBroken(error);
    else this.lost(death);
  }

  /**
   * The machine's output has no way out any more, and its network is closed. It is attached to anew,
   * unless it is dying: a machine's sockets close before we hear that it is dead.
   */
  async netLost(error: RomulusError): Promise<void> {
    const death = await this.#death(error);
    if (this.isOnPurpose) return;
    this.lost(death ?? { kind: 'changed', why: error.message });
  }

  /** How it ended, if it does now. One that was switched off says so, and closes its sockets after. */
  async #death(error: RomulusError): Promise<GuestLoss | null> {
    const { machinePid, lastWords } = this.#options;
    if (!(await hasEndedWithin(machinePid, MACHINE_DEATH_MS))) return null;
    const said = await lastWords();
    if (said?.kind === 'ended') return said;
    return { kind: 'died', why: `process ${machinePid} has ended: ${error.message}` };
  }

  /** What the end of the core's work means for the node. */
  outcomeOf(effect: PrimaryEffect & { kind: 'finish' }): PrimaryOutcome {
    if (effect.reason !== 'shutdown')
      return { kind: 'guestLost', why: effect.why, mustEnd: this.#mustEnd };
    const failure = this.#failure;
    if (failure !== null) return { kind: 'failed', why: effect.why, error: failure };
    const why = this.#loss?.why ?? effect.why;
    if (this.#loss?.kind !== 'changed') return { kind: 'finished', why };
    return { kind: 'guestChanged', why, epoch: this.#options.core.status.takenEpoch };
  }
}
