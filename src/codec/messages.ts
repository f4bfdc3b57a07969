/**
 * Messages to frames and back. Encoding asserts that we send only what the protocol allows;
 * decoding checks every length and value, because all of it comes from a socket. The inside of a
 * page batch is left to the page decoder, which has to walk it anyway; here only its page count is
 * read.
 */
import { assert, unreachable } from '../base/assert.ts';
import { NO_EPOCH, type Epoch, type Generation } from '../base/units.ts';
import { type Compressor, decompress } from './compress.ts';
import { decodeBaseDisk, decodeDisk, encodeBaseDisk, encodeDisk } from './disk-payload.ts';
import { encodeFrame, type Frame } from './frame.ts';
import { COMPRESSIBLE_KINDS, FLAG_LZ4, type FrameKind } from './kinds.ts';
import { DEVICE_STATE_BYTES_MAX, INSTANCE_BYTES_MAX, PAGE_BATCH_PAGES_MAX } from './limits.ts';
import { decodeJson, encodeJson, isJsonKind } from './message-json.ts';
import type { Message } from './message-types.ts';
import { malformedPayload, PayloadReader, PayloadWriter } from './payload-bytes.ts';

export type * from './message-types.ts';

const BATCH_HEADER_BYTES = 16;
const DIGEST_PATTERN = /^[0-9a-f]{16}$/;
const EMPTY = new Uint8Array(0);

/** How to make the frame of a message. */
export interface EncodeOptions {
  /** The sender's generation, NO_GENERATION while it has none. */
  readonly generation: Generation;
  /** CRC-32C of the batch of a `pages` or `baseImage` message, when it is known already. */
  readonly payloadCrc?: number;
  /** Given, a bulky payload is compressed when that pays. */
  readonly compressor?: Compressor;
}

/** The frame of a message, in parts, of which the bulky ones are the caller's own bytes. */
export function encodeMessage(message: Message, options: EncodeOptions): Uint8Array[] {
  const { kind } = message;
  const epoch = 'epoch' in message ? message.epoch : NO_EPOCH;
  const header = { kind, flags: 0, generation: options.generation, epoch };
  const payload = encodePayload(message);
  if (options.compressor !== undefined && COMPRESSIBLE_KINDS.has(kind)) {
    const compressed = options.compressor.compress(kind, payload);
    if (compressed !== null) return encodeFrame({ ...header, flags: FLAG_LZ4 }, compressed);
  }
  const crcIsOfPayload = kind === 'pages' || kind === 'baseImage';
  return encodeFrame(header, payload, crcIsOfPayload ? options.payloadCrc : undefined);
}

/**
 * The message in a frame. Bulk data are views of the frame's payload, or of what it inflates to.
 * @throws {RomulusError} ERR_PROTOCOL_MESSAGE, ERR_PROTOCOL_LZ4, ERR_LIMIT_FRAME.
 */
export function decodeMessage(frame: Frame): Message {
  const { kind } = frame;
  if (EPOCH_KINDS.has(kind) !== frame.epoch > 0) {
    throw malformedPayload(kind, `it cannot belong to epoch ${frame.epoch}`);
  }
  const isCompressed = (frame.flags & FLAG_LZ4) !== 0;
  const payload = isCompressed ? decompress(kind, frame.payload) : frame.payload;
  if (isJsonKind(kind)) return decodeJson(kind, payload);
  const reader = new PayloadReader(kind, payload);
  const message = decodePayload(kind, frame.epoch, reader);
  reader.end();
  return message;
}

/** Pages in a batch, as its header says. */
export function pageCountOf(batch: Uint8Array): number {
  return new DataView(batch.buffer, batch.byteOffset, batch.byteLength).getUint32(0, true);
}

const EPOCH_KINDS: ReadonlySet<FrameKind> = new Set([
  'baseEnd',
  'epochBegin',
  'pages',
  'disk',
  'deviceState',
  'outputMark',
  'epochEnd',
  'ack',
  'applied',
  'scrubRequest',
  'scrubReply',
  'machinePaused',
] satisfies FrameKind[]);

function encodePayload(message: Message): Uint8Array[] {
  switch (message.kind) {
    case 'hello':
    case 'welcome':
    case 'ready':
    case 'paired':
    case 'goodbye':
    case 'error':
      return [encodeJson(message)];
    case 'baseImage':
    case 'pages':
      return [message.batch];
    case 'baseDisk':
      return encodeBaseDisk(message.write);
    case 'disk':
      return encodeDisk(message.writes);
    case 'deviceState':
      return [new PayloadWriter(4).u32(message.totalBytes).finish(), message.batch];
    case 'baseEnd': {
      const { pages, batches, diskBytes, digest } = message;
      return [new PayloadWriter(24).u64(pages).u32(batches).u64(diskBytes).u32(digest).finish()];
    }
    case 'epochBegin':
      return [new PayloadWriter(12).bigU64(message.startedAtNs).u32(message.flags).finish()];
    case 'outputMark':
      return [new PayloadWriter(16).u64(message.framesSent).u64(message.diskWrites).finish()];
    case 'epochEnd': {
      const { pages, batches, diskWrites, bytes, digest } = message;
      const writer = new PayloadWriter(24).u32(pages).u32(batches).u32(diskWrites);
      return [writer.u64(bytes).u32(digest).finish()];
    }
    case 'ack': {
      const { instance, promiseUs } = message;
      const writer = new PayloadWriter(5 + instance.length);
      return [writer.name(instance, INSTANCE_BYTES_MAX).u32(promiseUs).finish()];
    }
    case 'applied': {
      const writer = new PayloadWriter(1 + message.instance.length);
      return [writer.name(message.instance, INSTANCE_BYTES_MAX).finish()];
    }
    case 'heartbeat':
      return [new PayloadWriter(16).u64(message.seq).bigU64(message.sentAtNs).finish()];
    case 'heartbeatReply': {
      const { seq, sentAtNs, promiseUs, instance } = message;
      const writer = new PayloadWriter(21 + instance.length).u64(seq).bigU64(sentAtNs);
      return [writer.u32(promiseUs).name(instance, INSTANCE_BYTES_MAX, 'allowed').finish()];
    }
    case 'scrubRequest':
    case 'machinePaused':
      return [EMPTY];
    case 'scrubReply':
      assert(DIGEST_PATTERN.test(message.digest), `not a digest: ${message.digest}`);
      return [new PayloadWriter(8).bigU64(BigInt(`0x${message.digest}`)).finish()];
    default:
      return unreachable(message, 'message');
  }
}

type BinaryKind = Exclude<
  FrameKind,
  'hello' | 'welcome' | 'ready' | 'paired' | 'goodbye' | 'error'
>;

// Properties are evaluated in the order in which they are written: that of the bytes.
function decodePayload(kind: BinaryKind, epoch: Epoch, reader: PayloadReader): Message {
  switch (kind) {
    case 'baseImage':
      return { kind, batch: readBatch(kind, reader) };
    case 'pages':
      return { kind, epoch, batch: readBatch(kind, reader) };
    case 'baseDisk':
      return { kind, write: decodeBaseDisk(reader) };
    case 'disk':
      return { kind, epoch, writes: decodeDisk(reader) };
    case 'deviceState': {
      const totalBytes = reader.u32();
      if (totalBytes > DEVICE_STATE_BYTES_MAX) {
        throw malformedPayload(kind, `a state of ${totalBytes} bytes is too long`);
      }
      const rest = reader.rest();
      const batch = rest.byteLength === 0 ? rest : checkedBatch(kind, rest);
      return { kind, epoch, totalBytes, batch };
    }
    case 'baseEnd': {
      const pages = reader.u64();
      const batches = reader.u32();
      return { kind, epoch, pages, batches, diskBytes: reader.u64(), digest: reader.u32() };
    }
    case 'epochBegin': {
      const startedAtNs = reader.bigU64();
      const flags = reader.u32();
      if (flags !== 0) throw malformedPayload(kind, `unknown flags ${flags}`);
      return { kind, epoch, startedAtNs, flags };
    }
    case 'outputMark':
      return { kind, epoch, framesSent: reader.u64(), diskWrites: reader.u64() };
    case 'epochEnd': {
      const [pages, batches, diskWrites] = [reader.u32(), reader.u32(), reader.u32()];
      return { kind, epoch, pages, batches, diskWrites, bytes: reader.u64(), digest: reader.u32() };
    }
    case 'ack':
      return { kind, epoch, instance: reader.name(INSTANCE_BYTES_MAX), promiseUs: reader.u32() };
    case 'applied':
      return { kind, epoch, instance: reader.name(INSTANCE_BYTES_MAX) };
    case 'heartbeat':
      return { kind, seq: reader.u64(), sentAtNs: reader.bigU64() };
    case 'heartbeatReply': {
      const seq = reader.u64();
      const sentAtNs = reader.bigU64();
      const promiseUs = reader.u32();
      const instance = reader.name(INSTANCE_BYTES_MAX, 'allowed');
      return { kind, seq, sentAtNs, promiseUs, instance };
    }
    case 'scrubRequest':
    case 'machinePaused':
      return { kind, epoch };
    case 'scrubReply':
      return { kind, epoch, digest: reader.bigU64().toString(16).padStart(16, '0') };
    default:
      return unreachable(kind, 'frame kind');
  }
}

function readBatch(kind: 'baseImage' | 'pages', reader: PayloadReader): Uint8Array {
  return checkedBatch(kind, reader.rest());
}

function checkedBatch(kind: FrameKind, batch: Uint8Array): Uint8Array {
  if (batch.byteLength < BATCH_HEADER_BYTES) {
    throw malformedPayload(kind, `a page batch of ${batch.byteLength} bytes`);
  }
  const pageCount = pageCountOf(batch);
  if (pageCount < 1 || pageCount > PAGE_BATCH_PAGES_MAX) {
    throw malformedPayload(kind, `a page batch of ${pageCount} pages`);
  }
  return batch;
}
