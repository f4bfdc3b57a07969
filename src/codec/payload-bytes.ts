/**
 * Reading and writing the small binary payloads of messages, little-endian, with every read checked
 * against the end. Bulk data is never copied: it is returned as a view.
 */
import { assert } from '../base/assert.ts';
import { RomulusError } from '../base/errors.ts';
import type { FrameKind } from './kinds.ts';
import { INTEGER_MAX } from './limits.ts';

const NAME_PATTERN = /^[\x21-\x7e]+$/;

/** The one error for a payload that is not what its kind says. */
export function malformedPayload(
  kind: FrameKind,
  why: string,
  details: Readonly<Record<string, unknown>> = {},
): RomulusError {
  return new RomulusError('ERR_PROTOCOL_MESSAGE', `malformed ${kind} message: ${why}`, {
    remedy: 'Drop the connection and dial again; if it recurs, compare the versions of the nodes.',
    details: { kind, ...details },
  });
}

/** Whether a text can be the name of a node or an instance: visible ASCII, bounded. */
export function isName(text: string, maxBytes: number): boolean {
  return text.length <= maxBytes && NAME_PATTERN.test(text);
}

/** Walks through a payload; any step past its end is ERR_PROTOCOL_MESSAGE. */
export class PayloadReader {
  readonly #kind: FrameKind;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #offset = 0;

  constructor(kind: FrameKind, bytes: Uint8Array) {
    this.#kind = kind;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u8(): number {
    return this.#view.getUint8(this.#advance(1));
  }

  u32(): number {
    return this.#view.getUint32(this.#advance(4), true);
  }

  /** A u64 that must not exceed INTEGER_MAX. */
  u64(): number {
    const value = this.bigU64();
    if (value > INTEGER_MAX) throw malformedPayload(this.#kind, `number ${value} is too large`);
    return Number(value);
  }

  bigU64(): bigint {
    return this.#view.getBigUint64(this.#advance(8), true);
  }

  bytes(length: number): Uint8Array {
    const start = this.#advance(length);
    return this.#bytes.subarray(start, start + length);
  }

  /** All that is left. */
  rest(): Uint8Array {
    return this.bytes(this.#bytes.byteLength - this.#offset);
  }

  /** A name: u8 length, then that many bytes of visible ASCII; empty only where that is said. */
  name(maxBytes: number, empty: 'refused' | 'allowed' = 'refused'): string {
    const text = String.fromCharCode(...this.bytes(this.u8()));
    if (text === '' && empty === 'allowed') return text;
    if (!isName(text, maxBytes)) throw malformedPayload(this.#kind, 'a name is not one');
    return text;
  }

  /** @throws {RomulusError} ERR_PROTOCOL_MESSAGE when bytes are left over. */
  end(): void {
    const left = this.#bytes.byteLength - this.#offset;
    if (left !== 0) throw malformedPayload(this.#kind, `${left} bytes too many`);
  }

  #advance(length: number): number {
    const start = this.#offset;
    if (length > this.#bytes.byteLength - start) {
      throw malformedPayload(this.#kind, `it ends at byte ${this.#bytes.byteLength}, too early`, {
        offset: start,
        wantedBytes: length,
      });
    }
    this.#offset = start + length;
    return start;
  }
}

/** Fills a buffer whose size is known beforehand. */
export class PayloadWriter {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #offset = 0;

  constructor(length: number) {
    this.#bytes = new Uint8Array(length);
    this.#view = new DataView(this.#bytes.buffer);
  }

  u32(value: number): this {
    assert(Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff, `not a u32: ${value}`);
    this.#view.setUint32(this.#offset, value, true);
    this.#offset += 4;
    return this;
  }

  u64(value: number): this {
    assert(Number.isSafeInteger(value) && value >= 0, `not a u64: ${value}`);
    return this.bigU64(BigInt(value));
  }

  bigU64(value: bigint): this {
    assert(value >= 0n && value < 1n << 64n, `not a u64: ${value}`);
    this.#view.setBigUint64(this.#offset, value, true);
    this.#offset += 8;
    return this;
  }

  /** See `PayloadReader.name`; takes `1 + text.length` bytes. */
  name(text: string, maxBytes: number, empty: 'refused' | 'allowed' = 'refused'): this {
    const isEmptyAllowed = text === '' && empty === 'allowed';
    assert(isEmptyAllowed || isName(text, maxBytes), `not a name: ${JSON.stringify(text)}`);
    this.#bytes[this.#offset] = text.length;
    for (let index = 0; index < text.length; index += 1) {
      this.#bytes[this.#offset + 1 + index] = text.charCodeAt(index);
    }
    this.#offset += 1 + text.length;
    return this;
  }

  /** The filled buffer. */
  finish(): Uint8Array {
    assert(this.#offset === this.#bytes.byteLength, 'a payload was not filled to its end');
    return this.#bytes;
  }
}
