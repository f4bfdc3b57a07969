/**
 * What the engine needs of a disk: on the primary, the writes of each epoch and a first copy of
 * the whole; on the backup, a replica to which committed writes are applied in order.
 */

/** One write of the machine, as it reached the disk. */
export interface DiskWrite {
  /** Which of the machine's disks; the first when left out. */
  readonly disk?: number;
  readonly offset: number;
  readonly data: Uint8Array;
}

/** A write that made a stretch of the disk zero, and carries none of the zeros. */
export interface DiskZeros {
  readonly disk?: number;
  readonly offset: number;
  readonly byteCount: number;
  readonly data: null;
}

/** So much is left free before the data of a chunk where a frame's header is to be put there. */
export const HEADER_ROOM_BYTES = 64;

/** A piece of the first copy. Zero pieces carry no data. */
export interface DiskChunk {
  readonly disk?: number;
  readonly offset: number;
  readonly byteCount: number;
  /** Null when all of it is zeros. */
  readonly data: Uint8Array | null;
  /** Bytes before the data in its buffer that are nobody's, for a header to be put there; or none. */
  readonly roomBytes?: number;
}

/**
 * The primary's view of a machine's disk whose writes it follows; of several disks at once where
 * writes and chunks carry their number. Writes are counted in one order over all of them.
 */
export interface SourceDisk {
  /** Of all disks together. */
  readonly diskBytes: number;
  /** The writes with a count up to `diskWrites` belong to `epoch` or one before it. */
  mark(epoch: number, diskWrites: number): void;
  /**
   * The writes of a marked epoch, in order; waits, with a bound, for those still on their way.
   * @throws {RomulusError} ERR_TIMEOUT_DISK_WRITES, ERR_DISK_LOST, ERR_LIMIT_DISK_BACKLOG.
   */
  take(epoch: number): Promise<readonly (DiskWrite | DiskZeros)[]>;
  /**
   * All that the target of this view lacks of the disk, piece by piece, while the machine writes to
   * it. Only correct together with every write received since this view was opened, applied
   * afterwards.
   * @throws {RomulusError} ERR_DISK_READ, ERR_DISK_LOST, ERR_LIMIT_DISK_BACKLOG.
   */
  readBase(): AsyncGenerator<DiskChunk>;
  /**
   * After `readBase`, and before the first epoch is marked: writes that wait already, and may go
   * ahead of it, so that they do not pile up while memory is sent.
   */
  readWaiting(): AsyncGenerator<DiskChunk>;
  /** Buffers of chunks that were sent: the next chunks may be read into them. */
  giveBack?(buffers: readonly ArrayBuffer[]): void;
  /** Nobody is given this view's writes any more. Idempotent. */
  close(): void;
}

/** When the replica's bytes must be on stable storage. */
export type DiskSync =
  /** Before each epoch counts as applied. */
  | 'commit'
  /** With every so many epochs that wrote something: a power failure loses at most those. */
  | { readonly everyEpochs: number }
  /** Whenever the kernel likes; a power failure of the backup's host may lose it. */
  | 'off';

/** Most epochs between two syncs of a replica: at twenty a second, an hour and a half. */
export const DISK_SYNC_EPOCHS_MAX = 100_000;
