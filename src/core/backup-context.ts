/**
 * What the parts of the backup's state machine share while they carry out one step: where it
 * stands, what it knows, and the effects collected so far. `backup.ts` makes it and says in which
 * order the parts have their turn; nothing else holds on to it.
 */
import { assert } from '../base/assert.ts';
import { type Generation, NO_GENERATION } from '../base/units.ts';
import type { BackupState, PrimaryLink, Suspicion } from './backup-state.ts';
import type { BackupEffect, BackupOptions, BackupStateName } from './backup-types.ts';
import type { HeldImage } from './held-image.ts';
import { Outbox } from './outbox.ts';
import type { LinkId } from './primary-types.ts';
import { RegisterClient } from './register-client.ts';
import type { Instance, RegisterWord } from './register.ts';

export class BackupContext {
  readonly options: BackupOptions;
  readonly register: RegisterClient;
  readonly outbox = new Outbox<BackupEffect>();
  /** No backup promotes itself (--on-silence hold). */
  readonly mustHold: boolean;
  /** Of the step under way, milliseconds. */
  nowMs: number = Number.NEGATIVE_INFINITY;
  state: BackupState = { name: 'empty' };
  link: PrimaryLink | null = null;
  /** The whole image held, or null while there is none or it is torn. */
  image: HeldImage | null = null;
  /** The primary's instance, as it introduced itself. */
  runner: Instance | null = null;
  /** Highest generation heard of. */
  generation: Generation = NO_GENERATION;
  /** The word under which the image held was paired, once we were told. */
  pairedWord: RegisterWord | null = null;
  suspicion: Suspicion = 'signs';
  /** Why the primary is dead by the verdict that stands, and since which link. */
  death: { readonly why: string; readonly linkId: LinkId | null } | null = null;
  #why = 'not started';
  #nextSealId = 1;

  constructor(options: BackupOptions) {
    assert(options.promiseMs > 0, 'a promise lasts some time');
    this.options = options;
    this.mustHold = options.onSilence === 'hold';
    const { registerAnswerMs: answerMs, registerRetryMs: retryMs } = options.limits;
    this.register = new RegisterClient({ answerMs, retryMs });
  }

  /** Why the state is what it is, in words, as last reported. */
  get why(): string {
    return this.#why;
  }

  isCurrent(linkId: LinkId): boolean {
    return this.link?.linkId === linkId;
  }

  emit(...effects: readonly BackupEffect[]): void {
    this.outbox.emit(...effects);
  }

  become(state: BackupState, why: string): void {
    this.state = state;
    this.report(why);
  }

  report(why: string): void {
    const state: BackupStateName = this.state.name;
    this.#why = why;
    this.emit({ kind: 'report', state, why });
  }

  noteGeneration(word: RegisterWord | null): void {
    if (word !== null && word.generation > this.generation) this.generation = word.generation;
  }

  /** First step of a promotion from this word to that: nothing more is promised. */
  seal(from: RegisterWord | null, to: RegisterWord): void {
    const requestId = this.#nextSealId;
    this.#nextSealId += 1;
    this.become(
      { name: 'promoting', from, to, step: { kind: 'sealing', requestId } },
      `${this.#why}; waiting for our promises to run out`,
    );
    this.emit({ kind: 'sealPromises', requestId }, { kind: 'prepareChange', next: to });
  }
}
