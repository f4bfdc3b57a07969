/**
 * Cuts the byte stream of a node's outside line into frames: `[u32 big-endian length][payload]`, as
 * QEMU's filter-redirector writes them. Incremental; a payload that arrives whole is not copied.
 */
import { RomulusError } from '../base/errors.ts';

/** Longest payload on the line (docs/ARCHITECTURE.md, "Frames at the machine's boundary"). */
export const LINE_FRAME_BYTES_MAX = 69_632;
const LENGTH_BYTES = 4;

/** Collects chunks and gives back whole payloads, in order. */
export class FrameSplitter {
  #rest: Buffer = Buffer.alloc(0);

  /**
   * The payloads that this chunk completes. They may share memory with the chunk.
   * @throws {RomulusError} ERR_LIMIT_LINE_FRAME when a length is beyond the bound.
   */
  push(chunk: Buffer): Buffer[] {
    let bytes = this.#rest.byteLength === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const payloads: Buffer[] = [];
    while (bytes.byteLength >= LENGTH_BYTES) {
      const length = bytes.readUInt32BE(0);
      if (length > LINE_FRAME_BYTES_MAX)
        throw new RomulusError('ERR_LIMIT_LINE_FRAME', `a frame of ${length} bytes on the line`, {
          remedy: 'Check that the address is the --net-listen address of a node.',
          details: { lengthBytes: length, limitBytes: LINE_FRAME_BYTES_MAX },
        });
      if (bytes.byteLength < LENGTH_BYTES + length) break;
      payloads.push(bytes.subarray(LENGTH_BYTES, LENGTH_BYTES + length));
      bytes = bytes.subarray(LENGTH_BYTES + length);
    }
    this.#rest = bytes;
    return payloads;
  }
}

/** A payload with its length before it, ready for the line. */
export function frameForLine(payload: Uint8Array): Buffer {
  const framed = Buffer.allocUnsafe(LENGTH_BYTES + payload.byteLength);
  framed.writeUInt32BE(payload.byteLength, 0);
  framed.set(payload, LENGTH_BYTES);
  return framed;
}
