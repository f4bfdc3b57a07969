/**
 * Frames: the envelope of everything that two nodes tell each other (docs/PROTOCOL.md).
 *
 *   offset  size  field (little-endian)
 *        0     4  magic, the bytes 'RMLS'
 *        4     1  version, 1
 *        5     1  kind
 *        6     2  flags: bit 0 the payload is an LZ4 block
 *        8     8  generation of the sender
 *       16     8  epoch the frame belongs to, or 0
 *       24     4  payload length
 *       28     4  header CRC-32C, over bytes 0..27 and 32..39
 *       32     4  payload CRC-32C, over the payload as it is on the wire
 *       36     4  reserved, 0
 *       40     -  payload
 *
 * The header has a CRC of its own so that the length is known to be the sender's before a byte is
 * allocated for it. What the payload means is the business of messages.ts; this file neither
 * inflates nor interprets it.
 */
import { assert } from '../base/assert.ts';
import { RomulusError, type ErrorCode } from '../base/errors.ts';
import { asEpoch, asGeneration, type Epoch, type Generation } from '../base/units.ts';
import { crc32c, crc32cOfParts } from './checksum.ts';
import {
  COMPRESSIBLE_KINDS,
  FLAG_LZ4,
  KIND_NUMBERS,
  KNOWN_FLAGS,
  kindOfNumber,
  type FrameKind,
} from './kinds.ts';
import { INTEGER_MAX, PAYLOAD_BYTES_MAX } from './limits.ts';

/** The bytes 'RMLS', read as a little-endian u32. */
export const FRAME_MAGIC = 0x534c_4d52;
/** Version of header and messages. Bytes 0..4 keep their place in every version. */
export const PROTOCOL_VERSION = 1;
export const FRAME_HEADER_BYTES = 40;

const OFFSET = {
  version: 4,
  kind: 5,
  flags: 6,
  generation: 8,
  epoch: 16,
  payloadBytes: 24,
  headerCrc: 28,
  payloadCrc: 32,
  reserved: 36,
} as const;

/** What the caller says about a frame; lengths and checksums are worked out. */
export interface FrameHeader {
  readonly kind: FrameKind;
  readonly flags: number;
  readonly generation: Generation;
  readonly epoch: Epoch;
}

/** A frame that was received whole and checked. */
export interface Frame extends FrameHeader {
  /** The payload as it was on the wire (see FLAG_LZ4); may share memory with the received chunk. */
  readonly payload: Uint8Array;
  readonly payloadCrc: number;
}

function headerCrc(bytes: Uint8Array): number {
  const before = crc32c(bytes.subarray(0, OFFSET.headerCrc));
  return crc32c(bytes.subarray(OFFSET.payloadCrc, FRAME_HEADER_BYTES), before);
}

/**
 * The parts of one frame in the order in which they go out: the header, then the payload parts
 * themselves, not copied.
 * @param payloadCrc CRC-32C of the whole payload when the caller knows it already.
 */
export function encodeFrame(
  header: FrameHeader,
  payload: Uint8Array | readonly Uint8Array[],
  payloadCrc?: number,
): Uint8Array[] {
  const parts = payload instanceof Uint8Array ? [payload] : payload;
  let payloadBytes = 0;
  for (const part of parts) payloadBytes += part.byteLength;
  const limit = PAYLOAD_BYTES_MAX[header.kind];
  assert(payloadBytes <= limit, `${header.kind} payload of ${payloadBytes} bytes is over ${limit}`);
  assert((header.flags & ~KNOWN_FLAGS) === 0, `unknown frame flags ${header.flags}`);

  const bytes = new Uint8Array(FRAME_HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, FRAME_MAGIC, true);
  view.setUint8(OFFSET.version, PROTOCOL_VERSION);
  view.setUint8(OFFSET.kind, KIND_NUMBERS[header.kind]);
  view.setUint16(OFFSET.flags, header.flags, true);
  setUint64(view, OFFSET.generation, header.generation);
  setUint64(view, OFFSET.epoch, header.epoch);
  view.setUint32(OFFSET.payloadBytes, payloadBytes, true);
  view.setUint32(OFFSET.payloadCrc, payloadCrc ?? crc32cOfParts(parts), true);
  view.setUint32(OFFSET.headerCrc, headerCrc(bytes), true);
  return [bytes, ...parts.filter((part) => part.byteLength > 0)];
}

/** Payload length and CRC of a frame that `encodeFrame` made, read back from its header. */
export function encodedPayloadFacts(parts: readonly Uint8Array[]): {
  payloadBytes: number;
  payloadCrc: number;
} {
  const header = parts[0];
  assert(header?.byteLength === FRAME_HEADER_BYTES, 'the first part of a frame is its header');
  const view = new DataView(header.buffer, header.byteOffset, header.byteLength);
  return {
    payloadBytes: view.getUint32(OFFSET.payloadBytes, true),
    payloadCrc: view.getUint32(OFFSET.payloadCrc, true),
  };
}

interface DecodedHeader extends FrameHeader {
  readonly payloadBytes: number;
  readonly payloadCrc: number;
}

/** Turns bytes, in chunks of any size, into frames; the first fault ends it for good. */
export class FrameDecoder {
  readonly #limits: Readonly<Record<FrameKind, number>>;
  readonly #headerBytes = new Uint8Array(FRAME_HEADER_BYTES);
  #headerFill = 0;
  #header: DecodedHeader | undefined;
  /** Only while a payload is spread over chunks. */
  #payload: Uint8Array | undefined;
  #payloadFill = 0;
  #runningCrc = 0;
  #fault: RomulusError | undefined;

  /** @param options.limits Payload limits by kind, to tighten the protocol's own. */
  constructor(options: { limits?: Partial<Record<FrameKind, number>> } = {}) {
    this.#limits = { ...PAYLOAD_BYTES_MAX, ...options.limits };
  }

  /** True while a frame has begun and not ended: the stream must not end here. */
  get isInsideFrame(): boolean {
    return this.#headerFill > 0 || this.#header !== undefined;
  }

  /**
   * All frames that the chunk completes. A payload that lies within the chunk is returned as a view
   * of it; one that is spread over several is copied once, into a buffer of its exact size. Frames
   * that stand before a fault in the same chunk are lost with it, as if they had never arrived.
   * @throws {RomulusError} ERR_PROTOCOL_MAGIC, ERR_VERSION_UNSUPPORTED, ERR_INTEGRITY_FRAME_CRC,
   *   ERR_PROTOCOL_FRAME_KIND, ERR_PROTOCOL_FRAME_FLAGS, ERR_PROTOCOL_FRAME_FIELD, ERR_LIMIT_FRAME;
   *   the same one again on every later call.
   */
  push(chunk: Uint8Array): Frame[] {
    if (this.#fault !== undefined) throw this.#fault;
    const frames: Frame[] = [];
    let offset = 0;
    for (;;) {
      if (this.#header === undefined) offset = this.#takeHeader(chunk, offset);
      if (this.#header === undefined) return frames;
      const { payload, next } = this.#takePayload(this.#header, chunk, offset);
      offset = next;
      if (payload === undefined) return frames;
      frames.push(this.#finish(this.#header, payload));
    }
  }

  /**
   * Says that the stream has ended.
   * @throws {RomulusError} ERR_PROTOCOL_TRUNCATED when that is in the middle of a frame.
   */
  end(): void {
    if (this.#fault !== undefined) throw this.#fault;
    if (!this.isInsideFrame) return;
    const wanted = this.#header?.payloadBytes ?? FRAME_HEADER_BYTES;
    const got = this.#header === undefined ? this.#headerFill : this.#payloadFill;
    this.#fail(
      'ERR_PROTOCOL_TRUNCATED',
      `the stream ended after ${got} of ${wanted} bytes of a frame's ${this.#header === undefined ? 'header' : 'payload'}`,
      { wantedBytes: wanted, gotBytes: got },
    );
  }

  #takeHeader(chunk: Uint8Array, offset: number): number {
    const take = Math.min(FRAME_HEADER_BYTES - this.#headerFill, chunk.byteLength - offset);
    this.#headerBytes.set(chunk.subarray(offset, offset + take), this.#headerFill);
    this.#headerFill += take;
    // A peer that speaks something else may never send 40 bytes: say so at the first that differ.
    this.#checkStart();
    if (this.#headerFill === FRAME_HEADER_BYTES) {
      this.#header = this.#decodeHeader();
      this.#headerFill = 0;
    }
    return offset + take;
  }

  #checkStart(): void {
    const view = new DataView(this.#headerBytes.buffer);
    for (let index = 0; index < Math.min(4, this.#headerFill); index += 1) {
      if (this.#headerBytes[index] !== ((FRAME_MAGIC >>> (8 * index)) & 0xff)) {
        this.#fail('ERR_PROTOCOL_MAGIC', 'the peer sent something that is not a Romulus frame', {
          firstBytesHex: hex(this.#headerBytes.subarray(0, this.#headerFill)),
        });
      }
    }
    const version = view.getUint8(OFFSET.version);
    if (this.#headerFill > OFFSET.version && version !== PROTOCOL_VERSION) {
      this.#fail(
        'ERR_VERSION_UNSUPPORTED',
        `the peer speaks protocol version ${version}, this node version ${PROTOCOL_VERSION}`,
        { peerVersion: version, version: PROTOCOL_VERSION },
      );
    }
  }

  #decodeHeader(): DecodedHeader {
    const bytes = this.#headerBytes;
    const view = new DataView(bytes.buffer);
    if (headerCrc(bytes) !== view.getUint32(OFFSET.headerCrc, true)) {
      this.#fail('ERR_INTEGRITY_FRAME_CRC', "a frame's header does not match its CRC", {
        part: 'header',
        headerHex: hex(bytes),
      });
    }
    const kindNumber = view.getUint8(OFFSET.kind);
    const kind = kindOfNumber(kindNumber);
    if (kind === undefined) {
      this.#fail('ERR_PROTOCOL_FRAME_KIND', `there is no frame kind ${kindNumber}`, { kindNumber });
    }
    const flags = view.getUint16(OFFSET.flags, true);
    const compressed = (flags & FLAG_LZ4) !== 0;
    if ((flags & ~KNOWN_FLAGS) !== 0 || (compressed && !COMPRESSIBLE_KINDS.has(kind))) {
      this.#fail('ERR_PROTOCOL_FRAME_FLAGS', `a ${kind} frame cannot have flags ${flags}`, {
        kind,
        flags,
      });
    }
    const reserved = view.getUint32(OFFSET.reserved, true);
    const generation = getUint64(view, OFFSET.generation);
    const epoch = getUint64(view, OFFSET.epoch);
    if (reserved !== 0 || generation > INTEGER_MAX || epoch > INTEGER_MAX) {
      this.#fail(
        'ERR_PROTOCOL_FRAME_FIELD',
        `a ${kind} frame has a reserved, generation or epoch field out of range`,
        { kind, headerHex: hex(bytes) },
      );
    }
    const payloadBytes = view.getUint32(OFFSET.payloadBytes, true);
    const limit = this.#limits[kind];
    if (payloadBytes > limit) {
      this.#fail(
        'ERR_LIMIT_FRAME',
        `a ${kind} frame of ${payloadBytes} bytes is over the limit of ${limit}`,
        { kind, payloadBytes, limitBytes: limit },
      );
    }
    return {
      kind,
      flags,
      generation: asGeneration(generation),
      epoch: asEpoch(epoch),
      payloadBytes,
      payloadCrc: view.getUint32(OFFSET.payloadCrc, true),
    };
  }

  #takePayload(
    header: DecodedHeader,
    chunk: Uint8Array,
    offset: number,
  ): { payload: Uint8Array | undefined; next: number } {
    const missing = header.payloadBytes - this.#payloadFill;
    const take = Math.min(missing, chunk.byteLength - offset);
    const piece = chunk.subarray(offset, offset + take);
    const next = offset + take;
    if (take > 0) this.#runningCrc = crc32c(piece, this.#runningCrc);
    if (this.#payloadFill === 0 && take === missing) return { payload: piece, next };
    // Not zeroed: every byte is overwritten before anyone sees the buffer.
    if (take > 0) this.#payload ??= Buffer.allocUnsafeSlow(header.payloadBytes);
    this.#payload?.set(piece, this.#payloadFill);
    this.#payloadFill += take;
    return { payload: take === missing ? this.#payload : undefined, next };
  }

  #finish(header: DecodedHeader, payload: Uint8Array): Frame {
    const actualCrc = this.#runningCrc;
    this.#header = undefined;
    this.#payload = undefined;
    this.#payloadFill = 0;
    this.#runningCrc = 0;
    if (actualCrc !== header.payloadCrc) {
      this.#fail(
        'ERR_INTEGRITY_FRAME_CRC',
        `the payload of a ${header.kind} frame does not match its CRC`,
        { part: 'payload', kind: header.kind, epoch: header.epoch, bytes: payload.byteLength },
      );
    }
    const { kind, flags, generation, epoch, payloadCrc } = header;
    return { kind, flags, generation, epoch, payload, payloadCrc };
  }

  #fail(code: ErrorCode, message: string, details: Record<string, unknown>): never {
    this.#fault = new RomulusError(code, message, { remedy: REMEDIES[code] ?? RESYNC, details });
    this.#payload = undefined;
    throw this.#fault;
  }
}

const RESYNC = 'Drop the connection and dial again: the nodes then agree on where to go on.';
const REMEDIES: Readonly<Record<string, string>> = {
  ERR_PROTOCOL_MAGIC: "Check that the address is that of a Romulus node's link.",
  ERR_VERSION_UNSUPPORTED: 'Install the same version of Romulus on both nodes.',
};

function setUint64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value % 0x1_0000_0000, true);
  view.setUint32(offset + 4, Math.floor(value / 0x1_0000_0000), true);
}

/** May be inexact above INTEGER_MAX, but is then above INTEGER_MAX. */
function getUint64(view: DataView, offset: number): number {
  return view.getUint32(offset + 4, true) * 0x1_0000_0000 + view.getUint32(offset, true);
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
