/**
 * Frames at the machine's boundary: `[u32 big-endian length][payload]`, the format of QEMU's
 * filter-redirector and socket netdev (net/net.c, net_fill_rstate; its NET_BUFSIZE is the bound
 * of the length). The same bytes travel from the machine through us to the outside, so a frame
 * is kept *with* its length and never looked into.
 */
import { RomulusError } from '../base/errors.ts';

/** Largest payload: QEMU's NET_BUFSIZE, 4 KiB + 64 KiB. */
export const BOUNDARY_PAYLOAD_BYTES_MAX = 69632;
export const BOUNDARY_HEADER_BYTES = 4;

/** Puts the length in front of a payload: the frame as it travels. */
export function toBoundaryFrame(payload: Uint8Array): Buffer {
  if (payload.byteLength > BOUNDARY_PAYLOAD_BYTES_MAX) throw tooLong(payload.byteLength);
  const frame = Buffer.allocUnsafe(BOUNDARY_HEADER_BYTES + payload.byteLength);
  frame.writeUInt32BE(payload.byteLength, 0);
  frame.set(payload, BOUNDARY_HEADER_BYTES);
  return frame;
}

/** The payload of a frame, not copied. */
export function payloadOf(frame: Buffer): Buffer {
  return frame.subarray(BOUNDARY_HEADER_BYTES);
}

/**
 * Cuts a byte stream into frames. A frame that lies within one chunk is a view of that chunk; one
 * that spans chunks is collected in a buffer of its exact size. Never holds more than one frame.
 */
export class BoundaryDecoder {
  readonly #header = Buffer.alloc(BOUNDARY_HEADER_BYTES);
  #headerBytes = 0;
  #partial: Buffer | null = null;
  #partialBytes = 0;
  #broken: RomulusError | null = null;

  /**
   * Takes the next bytes and gives the frames they complete, each with its length in front.
   * @throws {RomulusError} ERR_LIMIT_NET_FRAME when a length exceeds the bound; the stream cannot
   *   be followed after that, and every later push throws again.
   */
  push(chunk: Buffer): Buffer[] {
    if (this.#broken !== null) throw this.#broken;
    const frames: Buffer[] = [];
    let offset = 0;
    while (offset < chunk.byteLength) {
      if (this.#partial === null) offset = this.#takeStart(chunk, offset, frames);
      else offset = this.#takeRest(chunk, offset, frames);
    }
    return frames;
  }

  /** Bytes of a frame that is not complete yet. */
  get pendingBytes(): number {
    return this.#partial === null ? this.#headerBytes : this.#partialBytes;
  }

  #takeStart(chunk: Buffer, offset: number, frames: Buffer[]): number {
    if (this.#headerBytes === 0 && chunk.byteLength - offset >= BOUNDARY_HEADER_BYTES) {
      const length = this.#checked(chunk.readUInt32BE(offset));
      const end = offset + BOUNDARY_HEADER_BYTES + length;
      if (end <= chunk.byteLength) {
        frames.push(chunk.subarray(offset, end));
        return end;
      }
    }
    const missing = BOUNDARY_HEADER_BYTES - this.#headerBytes;
    const taken = chunk.copy(this.#header, this.#headerBytes, offset, offset + missing);
    this.#headerBytes += taken;
    if (this.#headerBytes === BOUNDARY_HEADER_BYTES) {
      const length = this.#checked(this.#header.readUInt32BE(0));
      this.#partial = Buffer.allocUnsafe(BOUNDARY_HEADER_BYTES + length);
      this.#header.copy(this.#partial);
      this.#partialBytes = BOUNDARY_HEADER_BYTES;
      this.#headerBytes = 0;
      this.#finishIfWhole(frames);
    }
    return offset + taken;
  }

  #takeRest(chunk: Buffer, offset: number, frames: Buffer[]): number {
    const partial = this.#partial;
    if (partial === null) return offset;
    const taken = chunk.copy(partial, this.#partialBytes, offset);
    this.#partialBytes += taken;
    this.#finishIfWhole(frames);
    return offset + taken;
  }

  #finishIfWhole(frames: Buffer[]): void {
    if (this.#partial === null || this.#partialBytes < this.#partial.byteLength) return;
    frames.push(this.#partial);
    this.#partial = null;
    this.#partialBytes = 0;
  }

  #checked(length: number): number {
    if (length <= BOUNDARY_PAYLOAD_BYTES_MAX) return length;
    this.#broken = tooLong(length);
    throw this.#broken;
  }
}

function tooLong(length: number): RomulusError {
  return new RomulusError(
    'ERR_LIMIT_NET_FRAME',
    `a network frame announces ${length} bytes, more than the ${BOUNDARY_PAYLOAD_BYTES_MAX} allowed`,
    {
      remedy:
        'Check that the other end speaks [u32 big-endian length][payload] and nothing else does.',
      details: { lengthBytes: length, lengthBytesMax: BOUNDARY_PAYLOAD_BYTES_MAX },
    },
  );
}
