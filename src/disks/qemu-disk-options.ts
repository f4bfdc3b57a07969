/** What is asked of those who follow the disks of a running QEMU, and what they give. */
import type { DiskFile } from '../base/disk-file.ts';
import type { RomulusError } from '../base/errors.ts';
import type { IntakeBeats } from '../native/disk-intake.ts';
import type { DiskChunk } from './disk.ts';
import type { DescriptorMonitor } from './qemu-export.ts';

/** A disk to be followed. */
export interface WantedDisk {
  /** Drive id, node name or id of a guest device. */
  readonly name: string;
  /** Where its bytes lie; null: they are read through QEMU only. */
  readonly file: DiskFile | null;
}

export interface QemuDiskOptions {
  readonly monitor: DescriptorMonitor;
  /** Their order numbers the disks. */
  readonly disks: readonly WantedDisk[];
  /** The epoch that will complete the first copy. */
  readonly epoch: number;
  /** Where our server's socket will be; its directory should be closed to others. */
  readonly socketPath: string;
  /** Where QEMU's server will listen while disks are read through it. */
  readonly exportPath: string;
  /** User that QEMU runs as; the socket is given to it. */
  readonly owner?: { readonly uid: number; readonly gid: number };
  /** See `writesReceived`; from `makeCounter`. */
  readonly counter?: SharedArrayBuffer;
  /** Whether disks may be read from their own files, where these hold them; true when left out. */
  readonly readsFiles?: boolean;
  /** Bound for QEMU's part of the first copy, each disk. */
  readonly bytesPerSecondMax?: number;
  /** The disks can no longer be followed; at most once. */
  readonly onLost: (error: RomulusError) => void;
  /** After `nextBase` said `waiting`: there may be more. */
  readonly onBase?: () => void;
  /** QEMU's connection for a disk is open, or (null) it is closed. */
  readonly onConnection?: (disk: number, descriptor: number | null) => void;
  /** Where the thread that QEMU waits for tells that it lives. */
  readonly beats?: IntakeBeats;
  readonly waitingBytesMax?: number;
  readonly baseHighBytes?: number;
  readonly baseLowBytes?: number;
}

/** A handful of the first copy. */
export interface BasePieces {
  readonly chunks: readonly DiskChunk[];
  /** `more`: ask again; `waiting`: `onBase` will say when; `complete`: all of it was given. */
  readonly next: 'more' | 'waiting' | 'complete';
}
