/**
 * What two nodes can tell each other, as data. One interface per kind; docs/PROTOCOL.md says who
 * sends what and when. The generation of the sender is in every frame's header, not here. `epoch`
 * is in the header too; kinds without the field have 0 there.
 */
import type { Epoch, Generation } from '../base/units.ts';
import type { GuestDescriptor } from './guest-descriptor.ts';

/** Backup to primary, first on every connection: who I am and what I hold. */
export interface HelloMessage {
  readonly kind: 'hello';
  readonly protocolVersion: number;
  readonly node: string;
  /** The image held, or null when there is none. */
  readonly instance: string | null;
  /** The machine of the held image, or null. */
  readonly guest: GuestDescriptor | null;
  readonly capabilities: readonly string[];
  /** The epoch that the held image is at, or null when it is at none (never finished a base). */
  readonly lastApplied: { readonly instance: string; readonly epoch: Epoch } | null;
}

/** How a backup's image comes to be what the primary's is. */
export type SyncPlan = 'full' | 'changed' | 'resume';

/** Primary to backup, the answer to `hello`: what follows. */
export interface WelcomeMessage {
  readonly kind: 'welcome';
  readonly node: string;
  /** The primary's own instance. */
  readonly instance: string;
  readonly guest: GuestDescriptor;
  readonly plan: SyncPlan;
  /** The first epoch that will be sent: lastApplied + 1 on `resume`. */
  readonly fromEpoch: Epoch;
  /** TCP port of the heartbeat connection, on the host that was dialled. */
  readonly heartbeatPort: number;
  readonly heartbeatIntervalMs: number;
  /** How long the primary would like each promise to hold. */
  readonly promiseMs: number;
}

/** Backup to primary: the image is prepared; its instance, a fresh one unless the plan is `resume`. */
export interface ReadyMessage {
  readonly kind: 'ready';
  readonly instance: string;
}

/** Primary to backup: pages of the base image, as a page batch. */
export interface BaseImageMessage {
  readonly kind: 'baseImage';
  readonly batch: Uint8Array;
}

/** One stretch of a disk. `data` is null when it is all zeros. */
export interface DiskWrite {
  /** Id of the disk in the guest descriptor. */
  readonly disk: number;
  readonly offset: number;
  readonly lengthBytes: number;
  readonly data: Uint8Array | null;
}

/** Primary to backup: a stretch of the base disk. */
export interface BaseDiskMessage {
  readonly kind: 'baseDisk';
  readonly write: DiskWrite;
}

/** Primary to backup: the base is sent; `epoch` (in the header) is the first that will follow. */
export interface BaseEndMessage {
  readonly kind: 'baseEnd';
  readonly epoch: Epoch;
  /** Sum of the page counts of all `baseImage` frames. */
  readonly pages: number;
  /** Count of `baseImage` frames. */
  readonly batches: number;
  /** Sum of `lengthBytes` of all `baseDisk` frames. */
  readonly diskBytes: number;
  /** PayloadDigest over all `baseImage` and `baseDisk` frames of this connection. */
  readonly digest: number;
}

/** Primary to backup: an epoch's frames follow. */
export interface EpochBeginMessage {
  readonly kind: 'epochBegin';
  readonly epoch: Epoch;
  /** When the machine was suspended; nanoseconds of the primary's CLOCK_MONOTONIC. */
  readonly startedAtNs: bigint;
  /** None defined yet: 0. */
  readonly flags: number;
}

/** Primary to backup: changed pages, as a page batch. */
export interface PagesMessage {
  readonly kind: 'pages';
  readonly epoch: Epoch;
  readonly batch: Uint8Array;
}

/** Primary to backup: disk writes of the epoch, in the order in which the machine made them. */
export interface DiskMessage {
  readonly kind: 'disk';
  readonly epoch: Epoch;
  readonly writes: readonly DiskWrite[];
}

/** Primary to backup: the device state, as a page batch (block 0xffff) against the previous one. */
export interface DeviceStateMessage {
  readonly kind: 'deviceState';
  readonly epoch: Epoch;
  /** Length of the whole state; pages past it are cut off, missing ones are as they were. */
  readonly totalBytes: number;
  /** Empty when nothing changed. */
  readonly batch: Uint8Array;
}

/** Primary to backup: what the machine had put out when it was suspended. */
export interface OutputMarkMessage {
  readonly kind: 'outputMark';
  readonly epoch: Epoch;
  readonly framesSent: number;
  readonly diskWrites: number;
}

/** Primary to backup: the epoch is complete; the counts and the digest must agree. */
export interface EpochEndMessage {
  readonly kind: 'epochEnd';
  readonly epoch: Epoch;
  /** Sum of the page counts of the epoch's `pages` frames. */
  readonly pages: number;
  /** Count of its `pages` frames. */
  readonly batches: number;
  /** Count of entries in its `disk` frames. */
  readonly diskWrites: number;
  /** Sum of the payload lengths, as sent, of all frames between begin and end. */
  readonly bytes: number;
  /** PayloadDigest over those frames, in order. */
  readonly digest: number;
}

/** Backup to primary: every byte of the epoch is here, checked; and a promise. */
export interface AckMessage {
  readonly kind: 'ack';
  readonly epoch: Epoch;
  readonly instance: string;
  /** I will not promote for so long after receiving what this answers. 0: no promise. */
  readonly promiseUs: number;
}

/** Backup to primary: the epoch is in the image. */
export interface AppliedMessage {
  readonly kind: 'applied';
  readonly epoch: Epoch;
  readonly instance: string;
}

/** Primary to backup, on the heartbeat connection. */
export interface HeartbeatMessage {
  readonly kind: 'heartbeat';
  readonly seq: number;
  /** The sender's CLOCK_MONOTONIC when it sent this. */
  readonly sentAtNs: bigint;
}

/** Backup to primary: `seq` and `sentAtNs` as in the heartbeat answered. */
export interface HeartbeatReplyMessage {
  readonly kind: 'heartbeatReply';
  readonly seq: number;
  readonly sentAtNs: bigint;
  /** As in `ack`. */
  readonly promiseUs: number;
  /** Whose promise it is; empty while the backup holds no image, and promises nothing. */
  readonly instance: string;
}

/** Primary to backup: the register now names this instance as partner. */
export interface PairedMessage {
  readonly kind: 'paired';
  readonly generation: Generation;
  readonly instance: string;
}

/** Primary to backup: take a digest of the image when this epoch has just been applied. */
export interface ScrubRequestMessage {
  readonly kind: 'scrubRequest';
  readonly epoch: Epoch;
}

/** Backup to primary: the digest, and the epoch that the image was at. */
export interface ScrubReplyMessage {
  readonly kind: 'scrubReply';
  readonly epoch: Epoch;
  /** 16 lower-case hexadecimal digits: the image digest of ARCHITECTURE "Page batches". */
  readonly digest: string;
}

/**
 * Primary to backup: somebody paused the machine after this epoch. A copy that is started before
 * another epoch comes must stand, too.
 */
export interface MachinePausedMessage {
  readonly kind: 'machinePaused';
  readonly epoch: Epoch;
}

export const GOODBYE_REASONS = [
  'shutdown',
  'guest-lost',
  'fenced',
  'promoted',
  'replaced',
  'resync',
] as const;

/** Why a node leaves. */
export type GoodbyeReason = (typeof GOODBYE_REASONS)[number];

/** Either way, last on a connection: it ends on purpose. */
export interface GoodbyeMessage {
  readonly kind: 'goodbye';
  readonly reason: GoodbyeReason;
  readonly text: string;
}

/** Either way, last on a connection: why it ends. */
export interface ErrorMessage {
  readonly kind: 'error';
  readonly code: string;
  readonly message: string;
  readonly remedy: string;
}

/** Anything that one node can tell the other. */
export type Message =
  | HelloMessage
  | WelcomeMessage
  | ReadyMessage
  | BaseImageMessage
  | BaseDiskMessage
  | BaseEndMessage
  | EpochBeginMessage
  | PagesMessage
  | DiskMessage
  | DeviceStateMessage
  | OutputMarkMessage
  | EpochEndMessage
  | AckMessage
  | AppliedMessage
  | HeartbeatMessage
  | HeartbeatReplyMessage
  | PairedMessage
  | ScrubRequestMessage
  | ScrubReplyMessage
  | MachinePausedMessage
  | GoodbyeMessage
  | ErrorMessage;
