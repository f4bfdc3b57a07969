/**
 * Payloads of `disk` and `baseDisk` frames.
 *
 *   entry, 16 bytes: u64 offset, u32 lengthBytes, u32 flags (bit 0: all zeros, no data follows;
 *   bits 16..31: id of the disk, as in the guest descriptor)
 *   in `disk` frames lengthBytes is at most DISK_WRITE_BYTES_MAX, zeros too
 *   baseDisk: one entry, then its data
 *   disk: u32 count, count entries, then the data of the entries that have any, in order
 */
import { assert } from '../base/assert.ts';
import { DISK_WRITE_BYTES_MAX, DISK_WRITES_PER_FRAME_MAX, INTEGER_MAX } from './limits.ts';
import type { DiskWrite } from './message-types.ts';
import { malformedPayload, PayloadWriter, type PayloadReader } from './payload-bytes.ts';

const ENTRY_BYTES = 16;
const FLAG_ZERO = 1;
const DISK_SHIFT = 16;
const DISK_ID_MAX = 0xffff;
const KNOWN_FLAGS = FLAG_ZERO | (DISK_ID_MAX << DISK_SHIFT);

/** Payload bytes that this write takes in a `disk` frame, its entry included. */
export function diskWriteWireBytes(write: DiskWrite): number {
  return ENTRY_BYTES + (write.data?.byteLength ?? 0);
}

function writeEntry(writer: PayloadWriter, write: DiskWrite): void {
  const { disk, offset, lengthBytes, data } = write;
  assert(Number.isInteger(disk) && disk >= 0 && disk <= DISK_ID_MAX, 'a disk id fits 16 bits');
  assert(lengthBytes >= 1, 'a disk write is at least one byte long');
  assert(data === null || data.byteLength === lengthBytes, 'a disk write is as long as its data');
  assert(offset + lengthBytes <= INTEGER_MAX, 'a disk write ends out of range');
  writer
    .u64(offset)
    .u32(lengthBytes)
    .u32(((disk << DISK_SHIFT) | (data === null ? FLAG_ZERO : 0)) >>> 0);
}

export function encodeBaseDisk(write: DiskWrite): Uint8Array[] {
  const writer = new PayloadWriter(ENTRY_BYTES);
  writeEntry(writer, write);
  return write.data === null ? [writer.finish()] : [writer.finish(), write.data];
}

export function encodeDisk(writes: readonly DiskWrite[]): Uint8Array[] {
  assert(
    writes.length >= 1 && writes.length <= DISK_WRITES_PER_FRAME_MAX,
    `${writes.length} writes do not fit one disk frame`,
  );
  const writer = new PayloadWriter(4 + ENTRY_BYTES * writes.length);
  writer.u32(writes.length);
  for (const write of writes) {
    assert(write.lengthBytes <= DISK_WRITE_BYTES_MAX, 'a disk write is too long for one entry');
    writeEntry(writer, write);
  }
  const parts = [writer.finish()];
  for (const { data } of writes) if (data !== null) parts.push(data);
  return parts;
}

interface Entry {
  readonly disk: number;
  readonly offset: number;
  readonly lengthBytes: number;
  readonly isZero: boolean;
}

function readEntry(kind: 'disk' | 'baseDisk', reader: PayloadReader): Entry {
  const offset = reader.u64();
  const lengthBytes = reader.u32();
  const flags = reader.u32();
  if (lengthBytes === 0) throw malformedPayload(kind, 'a write of no length');
  if (offset + lengthBytes > INTEGER_MAX) throw malformedPayload(kind, 'a write out of range');
  if (kind === 'disk' && lengthBytes > DISK_WRITE_BYTES_MAX) {
    throw malformedPayload(kind, `a write of ${lengthBytes} bytes`);
  }
  if ((flags & ~KNOWN_FLAGS) !== 0) throw malformedPayload(kind, `unknown write flags ${flags}`);
  const disk = flags >>> DISK_SHIFT;
  return { disk, offset, lengthBytes, isZero: (flags & FLAG_ZERO) !== 0 };
}

function readData(reader: PayloadReader, entry: Entry): DiskWrite {
  const { disk, offset, lengthBytes, isZero } = entry;
  return { disk, offset, lengthBytes, data: isZero ? null : reader.bytes(lengthBytes) };
}

/** @throws {RomulusError} ERR_PROTOCOL_MESSAGE */
export function decodeBaseDisk(reader: PayloadReader): DiskWrite {
  return readData(reader, readEntry('baseDisk', reader));
}

/** @throws {RomulusError} ERR_PROTOCOL_MESSAGE */
export function decodeDisk(reader: PayloadReader): DiskWrite[] {
  const count = reader.u32();
  if (count < 1 || count > DISK_WRITES_PER_FRAME_MAX) {
    throw malformedPayload('disk', `${count} writes in one frame`);
  }
  // One after the other, so that a lying count runs into the end before it costs memory.
  const entries: Entry[] = [];
  for (let index = 0; index < count; index += 1) entries.push(readEntry('disk', reader));
  return entries.map((entry) => readData(reader, entry));
}
