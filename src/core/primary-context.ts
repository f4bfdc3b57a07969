/**
 * What the parts of the primary's state machine share while they carry out one step: where it
 * stands, what it knows, and the effects collected so far. `primary.ts` makes it and says in
 * which order the parts have their turn; nothing else holds on to it.
 */
import { assert } from '../base/assert.ts';
import { BacklogRest } from './backlog-rest.ts';
import { EpochFlow } from './epoch-flow.ts';
import { Outbox } from './outbox.ts';
import { nameOf, mayBePaired, type PrimaryState } from './primary-state.ts';
import type { LinkId, PrimaryEffect, PrimaryOptions } from './primary-types.ts';
import type { Refusal } from './refusals.ts';
import { RegisterClient } from './register-client.ts';
import { type Instance, isInstance, type RegisterWord } from './register.ts';
import type { BackupHello, ImageFacts } from './resync.ts';

export class PrimaryContext {
  readonly options: PrimaryOptions;
  readonly register: RegisterClient;
  readonly flow: EpochFlow;
  readonly rest: BacklogRest;
  readonly outbox = new Outbox<PrimaryEffect>();
  /** False when it is the backup's part to go on (--on-silence promote). */
  readonly mayGoSolo: boolean;
  /** Of the step under way, milliseconds. */
  nowMs: number = Number.NEGATIVE_INFINITY;
  state: PrimaryState = { name: 'connecting' };
  /** What the register said last for certain. */
  word: RegisterWord | null = null;
  /** The one backup that may wait for the register to be settled, or for a rest to end. */
  waitingHello: BackupHello | null = null;
  /** A link kept only to say goodbye on. */
  farewellLinkId: LinkId | null = null;
  /** The instance whose image was last completed from this machine. */
  lastImage: Instance | null = null;
  /** Until when a clean shutdown waits for the register; null: none was asked for. */
  shutdownUntilMs: number | null = null;
  shutdownWhy = 'shut down';
  #why = 'not started';

  constructor(options: PrimaryOptions) {
    assert(isInstance(options.instance), `not an instance: ${options.instance}`);
    this.options = options;
    const { registerAnswerMs: answerMs, registerRetryMs: retryMs } = options.limits;
    this.register = new RegisterClient({ answerMs, retryMs });
    this.flow = new EpochFlow(options);
    this.rest = new BacklogRest(options.limits.backlogRestMs);
    this.mayGoSolo = options.onSilence !== 'promote';
  }

  /** Why the state is what it is, in words, as last reported. */
  get why(): string {
    return this.#why;
  }

  get imageFacts(): ImageFacts {
    const { acknowledgedEpoch, takenEpoch } = this.flow;
    return { lastImage: this.lastImage, acknowledgedEpoch, takenEpoch };
  }

  emit(...effects: readonly PrimaryEffect[]): void {
    this.outbox.emit(...effects);
  }

  report(why: string): void {
    this.#why = why;
    this.emit({ kind: 'report', state: nameOf(this.state, this.flow.pacer.isBacklogged), why });
  }

  refuse(linkId: LinkId, refusal: Refusal): void {
    this.emit({ kind: 'refuseLink', linkId, ...refusal });
  }

  /** Lets what is committed leave, as far as the promise held allows. */
  release(): void {
    if (mayBePaired(this.state)) this.emit(...this.flow.release(this.nowMs));
  }
}
