/** What the main thread and the heartbeat thread tell each other, and the options of both. */
import type { ErrorCode } from '../base/errors.ts';
import type { Generation } from '../base/units.ts';
import type { GoodbyeReason } from '../codec/message-types.ts';
import type { PromiseMargin } from '../core/promise.ts';
import type { Instance } from '../core/register.ts';
import type { Signal, Verdict } from '../core/verdict.ts';

export type HeartbeatRole = 'primary' | 'backup';

export interface Endpoint {
  readonly host: string;
  readonly port: number;
}

/** How often, how long, how suspicious. All with a default. */
export interface HeartbeatTuning {
  /** Between two heartbeats. */
  readonly intervalMs: number;
  /** How long the backup promises not to promote, from each heartbeat it answers. */
  readonly promiseMs: number;
  /** How much of a promise the primary does not count on. */
  readonly margin: PromiseMargin;
  /** Silence of this phi is death. */
  readonly phiDead: number;
  /** A main thread that did not run for this long makes the heartbeat thread fall silent. */
  readonly mainStallMsMax: number;
}

export const HEARTBEAT_INTERVAL_MS = 10;
export const PHI_DEAD = 8;
export const MAIN_STALL_MS_MAX = 5000;

/** Everything the worker gets at its start. */
export interface HeartbeatWorkerData {
  readonly role: HeartbeatRole;
  /** Where the primary listens, or whom the backup dials. */
  readonly endpoint: Endpoint;
  readonly tuning: HeartbeatTuning;
  readonly generation: Generation;
  /** Backup: who its promises are from; null while it holds no image. */
  readonly instance: Instance | null;
  /** Primary: whose promises count. */
  readonly partner: Instance | null;
  readonly words: SharedArrayBuffer;
}

/** From the main thread. */
export type HeartbeatOrder =
  | { readonly kind: 'setPartner'; readonly partner: Instance | null; readonly requestId: number }
  | { readonly kind: 'setInstance'; readonly instance: Instance | null }
  | { readonly kind: 'setGeneration'; readonly generation: Generation }
  | {
      readonly kind: 'link';
      readonly state: 'open' | 'closed';
      readonly text: string;
      readonly atMs: number;
    }
  | { readonly kind: 'signal'; readonly signal: Signal }
  | { readonly kind: 'stop'; readonly goodbye: Goodbye };

/** Why a node leaves; told to the other side so that it need not suspect. */
export interface Goodbye {
  readonly reason: GoodbyeReason;
  readonly text: string;
}

export type ThreadPriority = 'rr' | 'nice' | 'none';

/** From the heartbeat thread. */
export type HeartbeatReport =
  | {
      readonly kind: 'ready';
      readonly port: number;
      readonly priority: ThreadPriority;
      /** Copies of the thread's own descriptors in the main thread's table. */
      readonly loopDescriptors: readonly number[];
    }
  | { readonly kind: 'verdict'; readonly verdict: Verdict }
  | { readonly kind: 'signal'; readonly signal: Signal }
  | { readonly kind: 'partnerSet'; readonly requestId: number }
  | {
      readonly kind: 'promised';
      readonly instance: Instance;
      readonly promiseMs: number;
      readonly sentAtMs: number;
    }
  | { readonly kind: 'newerGeneration'; readonly generation: Generation; readonly text: string }
  | {
      readonly kind: 'failed';
      readonly error: {
        readonly code: ErrorCode;
        readonly message: string;
        readonly remedy: string;
        readonly details: object;
      };
    };
