/**
 * LZ4 over a frame's payload, when it pays. Whether it does is learned from the payloads
 * themselves: a kind whose last payloads did not shrink is left alone for a growing number of
 * frames and then tried again, so that incompressible pages cost one attempt in many. Pure and
 * deterministic: the same payloads in the same order give the same decisions.
 *
 * A compressed payload is a u32 little-endian uncompressed size and one LZ4 block
 * (lz4_Block_format.md of the LZ4 project), without a frame of LZ4's own: our header has the CRC.
 */
import lz4 from 'lz4';
import { RomulusError } from '../base/errors.ts';
import type { FrameKind } from './kinds.ts';
import { PAYLOAD_BYTES_MAX } from './limits.ts';

const SIZE_BYTES = 4;
/** Below this the header outweighs the saving. */
const PAYLOAD_BYTES_MIN = 256;
/** A compressed payload must be at least this fraction smaller. */
const SAVING_MIN = 1 / 8;
/** Longest run of frames of a kind that are not tried. */
const SKIPS_MAX = 64;

interface KindState {
  /** Frames still to be left alone. */
  skips: number;
  /** How many to leave alone after the next failure. */
  nextSkips: number;
}

/** Decides and compresses; keeps one history per kind. */
export class Compressor {
  readonly #states = new Map<FrameKind, KindState>();
  #scratch = Buffer.alloc(0);

  /**
   * The compressed payload, or null when it is to be sent as it is. The result is a buffer of its
   * own.
   */
  compress(kind: FrameKind, parts: readonly Uint8Array[]): Uint8Array | null {
    let payloadBytes = 0;
    for (const part of parts) payloadBytes += part.byteLength;
    if (payloadBytes < PAYLOAD_BYTES_MIN) return null;

    const state = this.#states.get(kind) ?? { skips: 0, nextSkips: 1 };
    this.#states.set(kind, state);
    if (state.skips > 0) {
      state.skips -= 1;
      return null;
    }
    const only = parts[0];
    const payload = parts.length === 1 && only !== undefined ? only : Buffer.concat(parts);
    const sizeMax = Math.floor(payloadBytes * (1 - SAVING_MIN));
    if (this.#scratch.byteLength < sizeMax) this.#scratch = Buffer.allocUnsafeSlow(sizeMax);
    const blockBytes = lz4.encodeBlock(payload, this.#scratch, SIZE_BYTES, sizeMax);
    if (blockBytes <= 0) {
      state.skips = state.nextSkips;
      state.nextSkips = Math.min(state.nextSkips * 2, SKIPS_MAX);
      return null;
    }
    state.nextSkips = 1;
    this.#scratch.writeUInt32LE(payloadBytes, 0);
    // Never from Node's pool, which other threads cannot be given.
    const compressed = Buffer.allocUnsafeSlow(SIZE_BYTES + blockBytes);
    this.#scratch.copy(compressed, 0, 0, compressed.byteLength);
    return compressed;
  }
}

/**
 * The payload that was compressed.
 * @throws {RomulusError} ERR_LIMIT_FRAME when it says to be longer than its kind may be,
 *   ERR_PROTOCOL_LZ4 when the block is malformed or not of the size it says.
 */
export function decompress(kind: FrameKind, payload: Uint8Array): Uint8Array {
  if (payload.byteLength <= SIZE_BYTES) throw malformed(kind, 'it is too short');
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const size = view.getUint32(0, true);
  const limit = PAYLOAD_BYTES_MAX[kind];
  if (size > limit) {
    throw new RomulusError(
      'ERR_LIMIT_FRAME',
      `a ${kind} frame of ${size} bytes uncompressed is over the limit of ${limit}`,
      { remedy: REMEDY, details: { kind, payloadBytes: size, limitBytes: limit } },
    );
  }
  const target = Buffer.allocUnsafeSlow(size);
  const written = lz4.decodeBlock(payload.subarray(SIZE_BYTES), target);
  if (written !== size) throw malformed(kind, `it gives ${written} bytes instead of ${size}`);
  return target;
}

const REMEDY = 'Drop the connection and dial again; if it recurs, compare the nodes versions.';

function malformed(kind: FrameKind, why: string): RomulusError {
  return new RomulusError('ERR_PROTOCOL_LZ4', `bad LZ4 block in a ${kind} frame: ${why}`, {
    remedy: REMEDY,
    details: { kind },
  });
}
