/** What is asked of the capture thread, and what it answers. */
import type { DiskMode, GuestDescriptor, GuestLoss, MachineDisks } from '../guests/guest.ts';
import type { MachineAddress } from '../guests/index.ts';
import type { GuardianAddress } from '../native/guardian-link.ts';
import type { TrackerKind } from '../native/tracker.ts';
import type { BatchTotals, SealedBatch } from './sealed-batch.ts';

export interface CheckpointResult {
  readonly epoch: number;
  readonly framesSent: number;
  readonly diskWrites: number;
  /** The machine's own count of how far it ran. */
  readonly position: number;
  readonly batches: readonly SealedBatch[];
  /** One page batch against the previous state; empty when nothing changed. */
  readonly deviceState: Uint8Array;
  readonly deviceStateBytes: number;
  readonly totals: BatchTotals;
  /** From asking the guest to stop until it confirmed that it runs again. */
  readonly pauseMs: number;
  readonly stopMs: number;
  readonly scanMs: number;
  readonly copyMs: number;
  /** How long the device state was still waited for when the pages were copied. */
  readonly stateMs: number;
  readonly resumeMs: number;
}

export interface SliceResult {
  readonly batches: readonly SealedBatch[];
  readonly totals: BatchTotals;
  /** Where the next slice of this block starts; null when the block is done. */
  readonly nextPage: number | null;
}

export interface AttachRequest {
  readonly address: MachineAddress;
  readonly tracker: TrackerKind | 'auto';
  readonly diskMode: DiskMode;
  /** Whether what its NICs say is to be held. */
  readonly holdsOutput: boolean;
}

export interface AttachResult {
  readonly descriptor: GuestDescriptor;
  readonly trackerKind: TrackerKind;
  readonly pid: number;
  readonly disks: MachineDisks;
  readonly netSocketPath: string | null;
  /** How many netdevs `attachNet` will hold. */
  readonly heldNics: number;
  readonly guardian: GuardianAddress | null;
}

export interface CaptureEvent {
  readonly loss: GuestLoss;
}
