/**
 * What the primary's state machine is told and what it answers: the contract with the engine.
 *
 * The engine hands every event to `Primary.step(event, nowMs)` and carries out the effects it gets
 * back **in order, each begun before the next**: that order is what makes holding output come
 * before asking to pair, and fencing before telling. Times are milliseconds of the engine's one
 * monotonic clock (the clock of the heartbeat thread's shared words).
 */
import type { ErrorCode } from '../base/errors.ts';
import type { Epoch, Generation } from '../base/units.ts';
import type { QueueWatermarks } from './epoch-pacer.ts';
import type { PromiseMargin } from './promise.ts';
import type { RegisterAnswer, RegisterRequest } from './register-client.ts';
import type { Instance, OnSilence, RegisterWord } from './register.ts';

/** Names one connection of a backup, never used twice by one engine. */
export type LinkId = number;

/**
 * - `connecting`: reading the register; nothing is heard of the guest yet.
 * - `unprotected`: alone, by the register's word; output passes as it comes.
 * - `syncing`: a backup is being given an image while the guest runs; still unprotected.
 * - `protected`: paired; output waits for the partner's acknowledgement.
 * - `backlogged`: protected, with epochs lengthened because the queue is above its high watermark.
 * - `severed`: paired in the register but out of touch: output held; waits for the partner to
 *   resume, then goes on alone if the register allows it.
 * - `fenced`: the right to run is lost; output closed for good, the guest stopped.
 * - `stopped`: shut down, or the guest is gone.
 */
export type PrimaryStateName =
  | 'connecting'
  | 'unprotected'
  | 'syncing'
  | 'protected'
  | 'backlogged'
  | 'severed'
  | 'fenced'
  | 'stopped';

/** How an image reaches a backup. */
export type SyncPlan =
  /** Every page. */
  | 'full'
  /** Only the pages changed since the epoch the backup's old image stands at. */
  | 'changed'
  /** No base image: the epochs from `fromEpoch` on are sent again. */
  | 'resume';

export interface PrimaryOptions {
  readonly instance: Instance;
  /** Number of the first checkpoint: 1, or one more than the epoch a promoted image stood at. */
  readonly firstEpoch: Epoch;
  /** Time between two checkpoints, in milliseconds; can be changed while running. */
  readonly intervalMs: number;
  /**
   * Output that waits ends an epoch early, but not before it is so old, in milliseconds; 0: it does
   * not. Can be changed while running.
   */
  readonly minIntervalMs: number;
  readonly promiseMargin: PromiseMargin;
  readonly onSilence: OnSilence;
  readonly watermarks: QueueWatermarks;
  readonly limits: PrimaryLimits;
}

/** Every wait of the primary has a bound; these are they. */
export interface PrimaryLimits {
  /** How long a paired backup whose link broke may take to resume before we go on alone. */
  readonly reconnectGraceMs: number;
  /**
   * How long a backup that owes an acknowledgement may neither acknowledge nor apply anything before
   * the link counts as lost.
   */
  readonly acknowledgeMs: number;
  /**
   * How old the oldest epoch that is not acknowledged may become, whatever else happens, before the
   * guest goes on without the backup. Bounds for how long a backup that is too slow holds output.
   */
  readonly backlogMs: number;
  /** For how long one that fell behind is given no new image; doubles up to 64 times this. */
  readonly backlogRestMs: number;
  /** How long a welcomed backup may take to say that its new image is ready. */
  readonly prepareMs: number;
  /** How long the register may take to answer before we ask again. */
  readonly registerAnswerMs: number;
  /** The pause before the register is asked again; doubles up to sixteen times this. */
  readonly registerRetryMs: number;
  /** Pre-copy rounds before the final checkpoint is taken whatever is left. */
  readonly syncRounds: number;
  /** So few dirty pages left that the final checkpoint is as short as any other. */
  readonly syncSettledPages: number;
  /** How long a clean shutdown waits for the register before it leaves anyway. */
  readonly shutdownMs: number;
}

export const DEFAULT_PRIMARY_LIMITS: PrimaryLimits = {
  reconnectGraceMs: 200,
  acknowledgeMs: 2000,
  backlogMs: 10_000,
  backlogRestMs: 2000,
  prepareMs: 30_000,
  registerAnswerMs: 1000,
  registerRetryMs: 50,
  syncRounds: 8,
  syncSettledPages: 2048,
  shutdownMs: 2000,
};

export type PrimaryEvent =
  /** First event, once: a guest runs here, nothing of it is heard yet. */
  | { readonly kind: 'start' }
  /** First event, once, instead: a promoted guest runs and is heard under this word. */
  | { readonly kind: 'startPromoted'; readonly word: RegisterWord }
  | RegisterAnswer
  /** A backup introduced itself. */
  | {
      readonly kind: 'backupHello';
      readonly linkId: LinkId;
      readonly node: string;
      /** What it holds: a whole image of that instance at that epoch; null when it holds none. */
      readonly holds: { readonly instance: Instance; readonly epoch: Epoch } | null;
      /** False when the image it holds was made for another machine: it is refused. */
      readonly descriptorMatches: boolean;
      /** Oldest epoch whose frames the engine can still send again, null when none is kept. */
      readonly oldestRetainedEpoch: Epoch | null;
      /**
       * Oldest epoch since whose end the engine can prove which pages and disk blocks changed,
       * and goes on being able to until this link closes; null when it cannot for any.
       */
      readonly provenSinceEpoch: Epoch | null;
    }
  /** The backup made room for a new image, under a new instance's name. */
  | { readonly kind: 'backupReady'; readonly linkId: LinkId; readonly instance: Instance }
  | { readonly kind: 'linkClosed'; readonly linkId: LinkId; readonly why: string }
  /** A pre-copy round was put into the link and the queue drained below its low watermark. */
  | {
      readonly kind: 'syncRoundDone';
      readonly linkId: LinkId;
      readonly pages: number;
      readonly dirtyLeft: number;
      readonly durationMs: number;
    }
  | { readonly kind: 'syncFailed'; readonly linkId: LinkId; readonly why: string }
  /** The checkpoint asked for is captured, its frames are in the queue, the guest runs again. */
  | {
      readonly kind: 'checkpointTaken';
      readonly epoch: Epoch;
      /** The machine's own count at the instant it stopped: the boundary in the output. */
      readonly framesSent: number;
      readonly diskWrites: number;
      readonly pages: number;
      readonly bytes: number;
      readonly pauseMs: number;
    }
  /** The guest could not be suspended now, or capturing failed and left it running. */
  | { readonly kind: 'checkpointSkipped'; readonly epoch: Epoch; readonly why: string }
  /** The backup holds every byte of all epochs up to this one. */
  | {
      readonly kind: 'acknowledged';
      readonly linkId: LinkId;
      readonly instance: Instance;
      readonly epoch: Epoch;
      readonly promiseMs: number;
      /** When this side sent the epoch's last byte: never later than it really was. */
      readonly sentAtMs: number;
    }
  /**
   * A heartbeat was answered with a promise; `sentAtMs` is when this side sent the heartbeat. Told often
   * enough that half a promise is left of what was told before.
   */
  | {
      readonly kind: 'promised';
      readonly instance: Instance;
      readonly promiseMs: number;
      readonly sentAtMs: number;
    }
  | {
      readonly kind: 'applied';
      readonly linkId: LinkId;
      readonly instance: Instance;
      readonly epoch: Epoch;
    }
  | { readonly kind: 'queueLevel'; readonly bytes: number }
  /**
   * What the failure detector says of the backup at the other end of the heartbeats, at every
   * change. The engine has the detector judge anew from every `backupHello` on.
   */
  | { readonly kind: 'peerVerdict'; readonly verdict: 'dead' | 'alive'; readonly why: string }
  | { readonly kind: 'guestLost'; readonly why: string }
  /**
   * Output is held that no checkpoint taken covers: said at the first of it, and again right after a
   * checkpoint that did not cover all. While one is being taken it says nothing.
   */
  | { readonly kind: 'outputWaiting' }
  /** @throws {RangeError} from `step` unless it is a positive finite number of milliseconds. */
  | { readonly kind: 'setInterval'; readonly intervalMs: number }
  /** @throws {RangeError} from `step` unless it is a finite number of milliseconds, or 0. */
  | { readonly kind: 'setMinInterval'; readonly minIntervalMs: number }
  | { readonly kind: 'shutdown'; readonly why?: string }
  /** The time last asked for by `wakeAt` has come. Harmless when early, late or repeated. */
  | { readonly kind: 'timer' };

/** The event of one kind. */
export type PrimaryEventOf<Kind extends PrimaryEvent['kind']> = Extract<
  PrimaryEvent,
  { kind: Kind }
>;

export type PrimaryEffect =
  | RegisterRequest
  /** Tell the backup how it will get its image. `resume` is followed by the epochs themselves. */
  | {
      readonly kind: 'welcome';
      readonly linkId: LinkId;
      readonly plan: SyncPlan;
      /** `resume`: first epoch to send again. `changed`: epoch the old image stands at. Else 0. */
      readonly fromEpoch: Epoch;
      readonly generation: Generation;
    }
  /** Say why, then close the link. */
  | {
      readonly kind: 'refuseLink';
      readonly linkId: LinkId;
      readonly code: ErrorCode;
      readonly text: string;
      readonly remedy: string;
    }
  /** Begin round 0: start tracking and send the base image (`full`) or the changed pages. */
  | { readonly kind: 'startSync'; readonly linkId: LinkId; readonly plan: 'full' | 'changed' }
  /** Send what was dirtied during the round before. */
  | { readonly kind: 'syncRound'; readonly linkId: LinkId; readonly round: number }
  /**
   * Suspend, capture, resume, send. `completesBase`: what is left of the base image is part of
   * it, and the end of the base image is sent before the epoch. An epoch asked for before a
   * `startSync` is never sent after it; one asked for before a `resume` is, when it is captured.
   */
  | { readonly kind: 'takeCheckpoint'; readonly epoch: Epoch; readonly completesBase: boolean }
  | {
      readonly kind: 'announcePaired';
      readonly linkId: LinkId;
      readonly generation: Generation;
      readonly instance: Instance;
    }
  /** From now on nothing the gate has not yet written leaves without `releaseOutput`. */
  | { readonly kind: 'holdOutput' }
  /**
   * Frames counted up to `framesThrough` may leave, each as long as the clock, read right before
   * its write, is below `untilMs` (or below the heartbeat thread's word, which is fed by the
   * promises of the instance named in `acceptPromisesFrom`). Replaces the release before it.
   * `untilMs` is Infinity only while the guest is unprotected.
   */
  | {
      readonly kind: 'releaseOutput';
      readonly throughEpoch: Epoch;
      readonly framesThrough: number;
      readonly untilMs: number;
    }
  /** Unprotected: what is held leaves, and all that comes passes at once. */
  | { readonly kind: 'openOutput' }
  /** Fenced: what is held is dropped, and so is all that comes. */
  | { readonly kind: 'closeOutput' }
  /** Reset the held promise and count only this instance's from now on. */
  | { readonly kind: 'acceptPromisesFrom'; readonly instance: Instance | null }
  /** Stop the guest for good: another copy has the right to run. */
  | { readonly kind: 'fenceGuest'; readonly why: string }
  /** Tell the backup that the guest is gone, or that we leave, then close the link. */
  | {
      readonly kind: 'sayGoodbye';
      readonly linkId: LinkId;
      readonly reason: 'shutdown' | 'guest-lost' | 'fenced';
      readonly text: string;
    }
  | { readonly kind: 'dropLink'; readonly linkId: LinkId; readonly why: string }
  /** Frames of epochs up to this one need not be kept for a resume any more. */
  | { readonly kind: 'forgetEpochs'; readonly throughEpoch: Epoch }
  /**
   * This machine is done: detach from the guest, if there is one, and end. After `guest-lost` the
   * node may go on as the backup of whoever takes over.
   */
  | {
      readonly kind: 'finish';
      readonly reason: 'shutdown' | 'guest-lost';
      readonly why: string;
    }
  /** A change of state, or of its reason, in words for status, log and metrics. */
  | { readonly kind: 'report'; readonly state: PrimaryStateName; readonly why: string }
  /** Wake me with `timer` at this time; replaces the time before it. Null: no need. */
  | { readonly kind: 'wakeAt'; readonly atMs: number | null };

/** A snapshot for status and metrics. */
export interface PrimaryStatus {
  readonly state: PrimaryStateName;
  readonly why: string;
  /** False whenever output passes, or would pass, without an acknowledgement. */
  readonly isProtected: boolean;
  readonly word: RegisterWord | null;
  readonly generation: Generation;
  readonly partner: Instance | null;
  readonly takenEpoch: Epoch;
  readonly acknowledgedEpoch: Epoch;
  readonly releasedEpoch: Epoch;
  readonly appliedEpoch: Epoch;
  readonly intervalMs: number;
  /** The interval in force: longer than `intervalMs` while backlogged. */
  readonly effectiveIntervalMs: number;
  /** 0: waiting output never ends an epoch early. */
  readonly minIntervalMs: number;
  /** Checkpoints asked for before the interval's end, because output waited. */
  readonly earlyCheckpoints: number;
  readonly skippedCheckpoints: number;
}
