/**
 * CRC-32C (Castagnoli; RFC 3720 appendix B.4): reflected polynomial 0x82f63b78, initial value and
 * final exclusive-or 0xffffffff, so that crc32c("123456789") = 0xe3069283. It guards against
 * damage, not against forgery.
 */
import fastCrc32c from 'fast-crc32c';

/** A CRC-32C: of `data`, continuing from the CRC of what came before it (0 for nothing). */
export type Crc32c = (data: Uint8Array, initial?: number) => number;

let implementation: Crc32c = (data, initial = 0) => fastCrc32c.calculate(data, initial);

/** CRC-32C of the bytes; continues from `initial`. */
export const crc32c: Crc32c = (data, initial) => implementation(data, initial);

/**
 * Puts a faster implementation in the place of the default one, on this thread, if it gives the
 * same results on a few known inputs. Which one is in use changes nothing but speed.
 */
export function useCrc32c(candidate: Crc32c): boolean {
  const text = Uint8Array.from('123456789', (character) => character.charCodeAt(0));
  const long = Uint8Array.from({ length: 5003 }, (_, index) => (index * 167) & 0xff);
  const agrees =
    candidate(text) === 0xe306_9283 &&
    candidate(text.subarray(4), candidate(text.subarray(0, 4))) === 0xe306_9283 &&
    candidate(new Uint8Array(0), 7) === 7 &&
    candidate(long.subarray(1)) === fastCrc32c.calculate(long.subarray(1), 0);
  if (agrees) implementation = candidate;
  return agrees;
}

/** CRC-32C of the parts as if they were one run of bytes. */
export function crc32cOfParts(parts: readonly Uint8Array[]): number {
  let value = 0;
  for (const part of parts) value = crc32c(part, value);
  return value;
}

/**
 * One CRC-32C over the payload CRCs (little-endian u32) of a sequence of frames: cheap, because
 * the payloads themselves are not read again, and sensitive to a frame that is missing, repeated
 * or out of place.
 */
export class PayloadDigest {
  readonly #word = new DataView(new ArrayBuffer(4));
  readonly #bytes = new Uint8Array(this.#word.buffer);
  #value = 0;

  add(payloadCrc: number): void {
    this.#word.setUint32(0, payloadCrc, true);
    this.#value = crc32c(this.#bytes, this.#value);
  }

  /** The digest of all added so far, as u32. */
  get value(): number {
    return this.#value;
  }
}
