/**
 * What stands in a qcow2 file's header and tables (QEMU's docs/interop/qcow2.txt). Nothing here is
 * believed: what is not understood is said to be, and its bytes are to be had from QEMU.
 *
 * An L1 table's entries say where L2 tables are, whose entries say where clusters are.
 */

/** Size of the header that is read; longer ones only add what does not matter here. */
export const HEADER_BYTES = 104;
export const ENTRY_BYTES = 8;
const MAGIC = 0x51_46_49_fb;
const CLUSTER_BITS_MIN = 9;
const CLUSTER_BITS_MAX = 21;
/** Incompatible features with which data still is where the tables say: "dirty" refcounts, another compression. */
const HARMLESS_FEATURES = 0b1001n;

const OFFSET_MASK = 0x00ff_ffff_ffff_fe00n;
/** Referred to once: written in place, and moved by nothing but a discard of all of it. */
const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;
const READS_AS_ZEROS = 1n;

/** What is needed of a header. */
export interface Qcow2Header {
  readonly version: number;
  readonly clusterBytes: number;
  /** Size of the disk. */
  readonly diskBytes: number;
  readonly l1Offset: number;
  readonly l1Entries: number;
  /** Internal snapshots: what they share with the disk is moved when it is written to. */
  readonly snapshots: number;
}

/** Where a cluster's bytes are: at a place in the file, nowhere because they are zeros, or who knows. */
export type ClusterPlace = number | 'zeros' | 'unknown';

/** A header, or why its disk cannot be read by it. */
export function parseHeader(bytes: Buffer): Qcow2Header | string {
  if (bytes.byteLength < HEADER_BYTES || bytes.readUInt32BE(0) !== MAGIC) return 'it is not qcow2';
  const version = bytes.readUInt32BE(4);
  if (version !== 2 && version !== 3) return `it is qcow2 of version ${version}`;
  const clusterBits = bytes.readUInt32BE(20);
  if (clusterBits < CLUSTER_BITS_MIN || clusterBits > CLUSTER_BITS_MAX)
    return `its clusters have 2^${clusterBits} bytes`;
  if (bytes.readBigUInt64BE(8) !== 0n) return 'part of its disk is in a backing file';
  if (bytes.readUInt32BE(32) !== 0) return 'it is encrypted';
  if (version === 3 && (bytes.readBigUInt64BE(72) & ~HARMLESS_FEATURES) !== 0n)
    return 'it has features that only QEMU reads';
  const clusterBytes = 2 ** clusterBits;
  const l1Offset = Number(bytes.readBigUInt64BE(40));
  if (l1Offset === 0 || l1Offset % clusterBytes !== 0 || !Number.isSafeInteger(l1Offset))
    return 'its table is nowhere';
  return {
    version,
    clusterBytes,
    diskBytes: Number(bytes.readBigUInt64BE(24)),
    l1Offset,
    l1Entries: bytes.readUInt32BE(36),
    snapshots: bytes.readUInt32BE(60),
  };
}

/** Where the L2 table of an L1 entry is; null when there is none, `unknown` where it may move. */
export function tablePlace(entry: bigint, header: Qcow2Header): number | null | 'unknown' {
  return (entry & OFFSET_MASK) === 0n ? null : placeOf(entry, header);
}

/** Where the cluster of an L2 entry is. */
export function clusterPlace(entry: bigint, header: Qcow2Header): ClusterPlace {
  if ((entry & COMPRESSED) !== 0n) return 'unknown';
  if (header.version > 2 && (entry & READS_AS_ZEROS) !== 0n) return 'zeros';
  return (entry & OFFSET_MASK) === 0n ? 'zeros' : placeOf(entry, header);
}

/** A place that something stays at while it is written to. */
function placeOf(entry: bigint, { clusterBytes }: Qcow2Header): number | 'unknown' {
  const offset = Number(entry & OFFSET_MASK);
  const isPlace = Number.isSafeInteger(offset) && offset % clusterBytes === 0;
  return isPlace && (entry & COPIED) !== 0n ? offset : 'unknown';
}
