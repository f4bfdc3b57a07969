/**
 * What a primary's session knows of each backup that dialled, and how such a session ends.
 */
import type { Epoch } from '../base/units.ts';
import { RomulusError } from '../base/errors.ts';
import type { Instance } from '../core/register.ts';
import type { GuestDescriptor } from '../guests/guest.ts';
import type { Link } from '../links/link.ts';
import type { Outbox } from './outbox.ts';

/** Why the session ended. */
export type PrimaryOutcome =
  | { readonly kind: 'finished'; readonly why: string }
  /** With `mustEnd`, its copy may take over: what is left of it here must never run again. */
  | { readonly kind: 'guestLost'; readonly why: string; readonly mustEnd: boolean }
  /** The machine lives on, but must be attached to anew. */
  | { readonly kind: 'guestChanged'; readonly why: string; readonly epoch: number }
  /** With `mustEnd`, the machine could not be asked to end. */
  | { readonly kind: 'fenced'; readonly why: string; readonly mustEnd: boolean }
  /** This node can no longer hold the machine, and nobody else does: it runs on without us. */
  | { readonly kind: 'failed'; readonly why: string; readonly error: RomulusError };

/** A backup on one link. */
export interface Peer {
  readonly linkId: number;
  readonly link: Link;
  readonly outbox: Outbox;
  node: string;
  /** The image the backup said hello with. */
  held: Instance | null;
  /** The image that epochs are sent for; null until the backup has one. */
  instance: Instance | null;
  /** For a `changed` image: the epoch that the old one stands at. */
  since: Epoch;
  /** When the last byte of each unacknowledged epoch was given to this link. */
  readonly sentAtMs: Map<number, number>;
  /** It knows that the machine stands because somebody paused it. */
  knowsPaused: boolean;
  /** Why it ends the connection and what to do about it, in its own words. */
  complaint: string | null;
}

/** Nobody holds an image. */
export function noBackup(why: string): RomulusError {
  return new RomulusError('ERR_TRANSPORT_NO_BACKUP', `nobody to compare with: ${why}`, {
    remedy: 'Ask again once `romulus status` says protected.',
  });
}

/** Whether an image of the one machine may be replaced by one of the other. */
export function sameMachine(held: GuestDescriptor | null, ours: GuestDescriptor): boolean {
  if (held === null) return true;
  if (held.kind !== ours.kind) return false;
  // Devices, disks and memory may be plugged into a running QEMU: the same machine gets a new image then.
  if (held.kind === 'qemu') return held.name === ours.name;
  return sameSizes(held.blocks, ours.blocks) && sameSizes(held.disks, ours.disks);
}

type Sized = readonly { readonly bytes: number }[];

function sameSizes(held: Sized, ours: Sized): boolean {
  return held.length === ours.length && held.every(({ bytes }, at) => bytes === ours[at]?.bytes);
}
