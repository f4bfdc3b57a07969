/**
 * What the backup's state machine is told and what it answers: the contract with the engine.
 *
 * The engine hands every event to `Backup.step(event, nowMs)` and carries out the effects it gets
 * back **in order, each begun before the next**. Above all: winning the register comes before
 * `startGuest`, and that before `openOutput`. Times are milliseconds of the engine's one monotonic
 * clock (the clock of the heartbeat thread's shared words).
 */
import type { ErrorCode } from '../base/errors.ts';
import type { Epoch, Generation } from '../base/units.ts';
import type { LinkId, SyncPlan } from './primary-types.ts';
import type { RegisterAnswer, RegisterRequest } from './register-client.ts';
import type { Instance, OnSilence, RegisterWord } from './register.ts';

/**
 * - `empty`: holds no image.
 * - `syncing`: an image is being built; it is torn until the epoch that completes it is here.
 * - `following`: holds a whole image and applies epochs to it.
 * - `suspecting`: the primary seems dead; reading the register. Still answers and promises.
 * - `promoting`: named as partner: stopped promising, waits for its promises to run out, loads the
 *   guest just before that, asks the register, drains, starts the guest. Acknowledges nothing.
 * - `running`: the guest runs here; a `Primary` takes over from this machine.
 * - `lost`: holds a whole image that may not run (the register names others, or the guest did not
 *   start); waits to be synced anew, or for an operator.
 * - `stopped`: shut down.
 */
export type BackupStateName =
  | 'empty'
  | 'syncing'
  | 'following'
  | 'suspecting'
  | 'promoting'
  | 'running'
  | 'lost'
  | 'stopped';

export interface BackupOptions {
  readonly node: string;
  /** How long each answer promises not to promote, in milliseconds. */
  readonly promiseMs: number;
  readonly onSilence: OnSilence;
  readonly limits: BackupLimits;
}

/** Every wait of the backup has a bound; these are they. */
export interface BackupLimits {
  /** How long a primary may take to answer our hello before the link is dropped. */
  readonly welcomeMs: number;
  readonly registerAnswerMs: number;
  /** The pause before the register is asked again; doubles up to sixteen times this. */
  readonly registerRetryMs: number;
}

export const DEFAULT_BACKUP_LIMITS: BackupLimits = {
  welcomeMs: 5000,
  registerAnswerMs: 1000,
  registerRetryMs: 50,
};

export type BackupEvent =
  /** First event, once. */
  | { readonly kind: 'start' }
  | { readonly kind: 'linkUp'; readonly linkId: LinkId }
  | { readonly kind: 'linkClosed'; readonly linkId: LinkId; readonly why: string }
  | {
      readonly kind: 'welcome';
      readonly linkId: LinkId;
      readonly generation: Generation;
      /** The primary's instance. */
      readonly runner: Instance;
      readonly plan: SyncPlan;
      readonly fromEpoch: Epoch;
    }
  /** Room for the new image is made, under this fresh instance's name. */
  | { readonly kind: 'imagePrepared'; readonly linkId: LinkId; readonly instance: Instance }
  | {
      readonly kind: 'imageFailed';
      readonly linkId: LinkId;
      readonly why: string;
      /** What can be done about it. */
      readonly remedy?: string;
    }
  /** The end of the base image. `complete`: its counts agree with what came. */
  | { readonly kind: 'baseEnd'; readonly linkId: LinkId; readonly complete: boolean }
  /** A whole epoch came. `intact`: counts and digest agree. The engine keeps it for `apply`. */
  | {
      readonly kind: 'epochReceived';
      readonly linkId: LinkId;
      readonly epoch: Epoch;
      readonly intact: boolean;
      readonly bytes: number;
    }
  | { readonly kind: 'epochApplied'; readonly instance: Instance; readonly epoch: Epoch }
  /** The image can no longer be trusted. Code and remedy are what the primary is told. */
  | {
      readonly kind: 'applyFailed';
      readonly instance: Instance;
      readonly code: ErrorCode;
      readonly why: string;
      readonly remedy: string;
    }
  | {
      readonly kind: 'paired';
      readonly linkId: LinkId;
      readonly generation: Generation;
      readonly instance: Instance;
    }
  /**
   * What the failure detector says of the primary, at every change. A link that comes up counts as
   * a sign of life: the engine has the detector judge anew from every `linkUp` on.
   */
  | { readonly kind: 'verdict'; readonly verdict: 'dead' | 'alive'; readonly why: string }
  /** The primary said that it leaves, and why. */
  | {
      readonly kind: 'goodbye';
      readonly linkId: LinkId;
      readonly reason: 'shutdown' | 'guest-lost' | 'fenced';
      readonly text: string;
    }
  /** Answer to `sealPromises`: nothing is promised from now on, nor was beyond this time. */
  | { readonly kind: 'promisesSealed'; readonly requestId: number; readonly untilMs: number }
  | RegisterAnswer
  | { readonly kind: 'guestStarted'; readonly epoch: Epoch }
  | { readonly kind: 'guestStartFailed'; readonly why: string }
  /** An operator insists, knowing that output of an unprotected primary may be lost. */
  | { readonly kind: 'promoteForced' }
  | { readonly kind: 'shutdown' }
  /** The time last asked for by `wakeAt` has come. Harmless when early, late or repeated. */
  | { readonly kind: 'timer' };

/** The event of one kind. */
export type BackupEventOf<Kind extends BackupEvent['kind']> = Extract<BackupEvent, { kind: Kind }>;

export type BackupEffect =
  | RegisterRequest
  /** The first message on a new link: who we are and what whole image we hold. */
  | {
      readonly kind: 'sendHello';
      readonly linkId: LinkId;
      readonly holds: { readonly instance: Instance; readonly epoch: Epoch } | null;
    }
  /**
   * Give up the image held and make room for a new one under a fresh instance's name (`full`:
   * all zeros; `changed`: keep the content to be patched). Answer: imagePrepared or imageFailed.
   */
  | { readonly kind: 'prepareImage'; readonly linkId: LinkId; readonly plan: 'full' | 'changed' }
  | { readonly kind: 'sendReady'; readonly linkId: LinkId; readonly instance: Instance }
  /** In whose name the heartbeat thread promises; null: it promises nothing. */
  | { readonly kind: 'promiseAs'; readonly instance: Instance | null }
  /**
   * Extend the promise word, then send the acknowledgement with the promise. When the word turns
   * out sealed, nothing is sent.
   */
  | {
      readonly kind: 'acknowledge';
      readonly linkId: LinkId;
      readonly instance: Instance;
      readonly epoch: Epoch;
      readonly promiseMs: number;
    }
  /** Hand the received epoch to the apply thread, behind those handed over before. */
  | { readonly kind: 'apply'; readonly instance: Instance; readonly epoch: Epoch }
  /**
   * A change to this word will be asked for when our promises have run out, and the guest started when it
   * is won: what of both can be done beforehand, and be in vain, may be done now.
   */
  | { readonly kind: 'prepareChange'; readonly next: RegisterWord }
  /**
   * The image is at this epoch for good: once all of it is applied, load the waiting guest with its device
   * state. Answered only by `applyFailed`, when it is gone; may be repeated.
   */
  | { readonly kind: 'loadGuest'; readonly instance: Instance; readonly epoch: Epoch }
  /** Stop promising at once and say until when was promised: promisesSealed. */
  | { readonly kind: 'sealPromises'; readonly requestId: number }
  /** The suspicion was false: promise again. */
  | { readonly kind: 'unsealPromises' }
  /** What came of an epoch that is not whole, or is not wanted, is thrown away. */
  | { readonly kind: 'discardPartialEpoch' }
  /** Start the guest from the image, which stands at this epoch. */
  | { readonly kind: 'startGuest'; readonly instance: Instance; readonly epoch: Epoch }
  /** The guest is heard from now on. */
  | { readonly kind: 'openOutput' }
  /**
   * Close whatever link is left and make a `Primary` of this instance, with `startPromoted{word}`
   * and firstEpoch `epoch + 1`.
   */
  | {
      readonly kind: 'becomePrimary';
      readonly instance: Instance;
      readonly word: RegisterWord;
      readonly epoch: Epoch;
    }
  | {
      readonly kind: 'dropLink';
      readonly linkId: LinkId;
      readonly code: ErrorCode;
      readonly why: string;
      /** What can be done about it; without one, that the link is dialled again. */
      readonly remedy?: string;
    }
  /** All is done that a clean shutdown must do. */
  | { readonly kind: 'finish'; readonly why: string }
  | { readonly kind: 'report'; readonly state: BackupStateName; readonly why: string }
  /** Wake me with `timer` at this time; replaces the time before it. Null: no need. */
  | { readonly kind: 'wakeAt'; readonly atMs: number | null };

/** A snapshot for status and metrics. */
export interface BackupStatus {
  readonly state: BackupStateName;
  readonly why: string;
  readonly instance: Instance | null;
  /** Highest generation heard of. */
  readonly generation: Generation;
  /** True from when the primary, or the register, said so until the image is replaced. */
  readonly isPaired: boolean;
  readonly acknowledgedEpoch: Epoch;
  readonly receivedEpoch: Epoch;
  readonly appliedEpoch: Epoch;
}
