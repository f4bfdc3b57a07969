/**
 * Every bound of the wire format, by name. A receiver refuses what exceeds one before it allocates
 * anything for it; a sender never produces it.
 */
import { GIB, KIB, MIB } from '../base/units.ts';
import type { FrameKind } from './kinds.ts';

/** Payload of a `pages` or `baseImage` frame; encoders aim at 1 MiB. */
export const PAGE_BATCH_BYTES_MAX = 8 * MIB;
/** Pages in one batch. */
export const PAGE_BATCH_PAGES_MAX = 65_536;
/** Payload of a `disk` or `baseDisk` frame. */
export const DISK_FRAME_BYTES_MAX = 8 * MIB;
/** One write of a `disk` frame, zeros included: what a receiver may have to make of a few bytes. */
export const DISK_WRITE_BYTES_MAX = 8 * MIB;
/** Entries in one `disk` frame. */
export const DISK_WRITES_PER_FRAME_MAX = 65_536;
/** The whole device state of a machine, uncompressed and undelta'd. */
export const DEVICE_STATE_BYTES_MAX = 16 * MIB;
/** Payload of the `deviceState` frame: a delta, or the whole state the first time. */
export const DEVICE_STATE_FRAME_BYTES_MAX = DEVICE_STATE_BYTES_MAX + MIB;
/** A payload that is JSON text. */
export const JSON_BYTES_MAX = 64 * KIB;
/** Name of a node, in bytes of ASCII. */
export const NODE_NAME_BYTES_MAX = 64;
/** Name of an instance, in bytes of ASCII. */
export const INSTANCE_BYTES_MAX = 128;
/** RAM blocks of a machine. */
export const RAM_BLOCKS_MAX = 256;
/** Disks of a machine; their numbers fit the upper half of a disk entry's flags. */
export const DISKS_MAX = 64;
/** Capabilities that a node may list. */
export const CAPABILITIES_MAX = 64;
/** Free text in a goodbye or an error, in characters. */
export const TEXT_LENGTH_MAX = 4096;
/** Largest number in a u64 field, other than nanoseconds and digests: what a double holds exactly. */
export const INTEGER_MAX = Number.MAX_SAFE_INTEGER;
/** Payload bytes of one epoch, all its frames together: what a backup buffers before applying. */
export const EPOCH_BYTES_MAX = 4 * GIB;
/** Frames of one epoch, `epochBegin` and `epochEnd` not counted. */
export const EPOCH_FRAMES_MAX = 65_536;

/** Small binary payloads have few fields: none is longer than this. */
const SMALL_BYTES_MAX = 512;

/** Longest payload of each kind, as it is on the wire and also after decompression. */
export const PAYLOAD_BYTES_MAX: Readonly<Record<FrameKind, number>> = {
  hello: JSON_BYTES_MAX,
  welcome: JSON_BYTES_MAX,
  ready: JSON_BYTES_MAX,
  baseImage: PAGE_BATCH_BYTES_MAX,
  baseDisk: DISK_FRAME_BYTES_MAX,
  baseEnd: SMALL_BYTES_MAX,
  epochBegin: SMALL_BYTES_MAX,
  pages: PAGE_BATCH_BYTES_MAX,
  disk: DISK_FRAME_BYTES_MAX,
  deviceState: DEVICE_STATE_FRAME_BYTES_MAX,
  outputMark: SMALL_BYTES_MAX,
  epochEnd: SMALL_BYTES_MAX,
  ack: SMALL_BYTES_MAX,
  applied: SMALL_BYTES_MAX,
  heartbeat: SMALL_BYTES_MAX,
  heartbeatReply: SMALL_BYTES_MAX,
  paired: JSON_BYTES_MAX,
  scrubRequest: SMALL_BYTES_MAX,
  scrubReply: SMALL_BYTES_MAX,
  machinePaused: SMALL_BYTES_MAX,
  goodbye: JSON_BYTES_MAX,
  error: JSON_BYTES_MAX,
};

/** The longest payload of any kind. */
export const ANY_PAYLOAD_BYTES_MAX = Math.max(...Object.values(PAYLOAD_BYTES_MAX));
