/**
 * The configuration section: the machine's name and a few facts that QEMU checks on both sides.
 * It is kept verbatim, because the backup's QEMU compares it with its own. Its subsections have no
 * lengths: one that is not known here ends the parsing.
 */
import type { ByteQueue } from './byte-queue.ts';
import {
  MACHINE_NAME_BYTES_MAX,
  SECTION,
  STREAM_CAPABILITIES_MAX,
  SUBSECTIONS_MAX,
} from './format.ts';
import type { ConfigurationItem, ConfigurationPart } from './items.ts';
import { type Reading, readName, readText, streamError } from './reading.ts';

const UUID_BYTES = 16;
const PAGE_BITS = { min: 10, max: 20 } as const;

/** Reads the section after its first byte, 0x07. */
export function* readConfiguration(queue: ByteQueue): Reading<ConfigurationItem> {
  const tape = new Tape(queue);
  tape.keep(Uint8Array.of(SECTION.configuration));
  yield 4;
  const nameBytes = tape.u32();
  if (nameBytes > MACHINE_NAME_BYTES_MAX) {
    throw streamError(queue, `a machine name of ${nameBytes} bytes`);
  }
  const machine = yield* tape.text(nameBytes, 'machine name');
  const parts: ConfigurationPart[] = [];
  for (;;) {
    // What follows the configuration begins with another byte, and something always follows.
    yield 1;
    if (queue.peek() !== SECTION.subsection) break;
    if (parts.length === SUBSECTIONS_MAX) throw streamError(queue, 'too many subsections');
    parts.push(yield* readPart(queue, tape));
  }
  return { kind: 'configuration', machine, parts, verbatim: tape.joined() };
}

function* readPart(queue: ByteQueue, tape: Tape): Reading<ConfigurationPart> {
  tape.bytes(1);
  const name = yield* tape.name('subsection name');
  yield 4;
  const version = tape.u32();
  if (version !== 1) throw streamError(queue, `version ${version} of ${name}`);
  switch (name) {
    case 'configuration/capabilities': {
      yield 4;
      const count = tape.u32();
      if (count > STREAM_CAPABILITIES_MAX) throw streamError(queue, `${count} capabilities`);
      const names: string[] = [];
      for (let index = 0; index < count; index += 1) names.push(yield* tape.name('capability'));
      return { kind: 'capabilities', names };
    }
    case 'configuration/uuid':
      yield UUID_BYTES;
      return { kind: 'uuid', bytes: Uint8Array.from(tape.bytes(UUID_BYTES)) };
    case 'configuration/target-page-bits': {
      yield 4;
      const bits = tape.u32();
      if (bits < PAGE_BITS.min || bits > PAGE_BITS.max) {
        throw streamError(queue, `pages of 2^${bits} bytes`);
      }
      return { kind: 'targetPageBits', bits };
    }
    default:
      throw streamError(queue, `the unknown subsection ${name}`);
  }
}

/** Keeps a copy of everything that is read through it. */
class Tape {
  readonly #queue: ByteQueue;
  readonly #kept: Uint8Array[] = [];

  constructor(queue: ByteQueue) {
    this.#queue = queue;
  }

  keep(bytes: Uint8Array): void {
    this.#kept.push(Uint8Array.from(bytes));
  }

  bytes(byteCount: number): Uint8Array {
    const bytes = this.#queue.take(byteCount);
    this.keep(bytes);
    return bytes;
  }

  u32(): number {
    const value = this.#queue.u32();
    this.keep(u32Bytes(value));
    return value;
  }

  *text(byteCount: number, what: string): Reading<string> {
    const text = yield* readText(this.#queue, byteCount, what);
    this.keep(asciiBytes(text));
    return text;
  }

  *name(what: string): Reading<string> {
    const name = yield* readName(this.#queue, what);
    this.keep(Uint8Array.of(name.length));
    this.keep(asciiBytes(name));
    return name;
  }

  joined(): Uint8Array {
    return joinBytes(this.#kept);
  }
}

/** One array of all the bytes. */
export function joinBytes(parts: readonly Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let filled = 0;
  for (const part of parts) {
    joined.set(part, filled);
    filled += part.byteLength;
  }
  return joined;
}

/** A number as four bytes, big-endian. */
export function u32Bytes(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value);
  return bytes;
}

/** A name as bytes; names are ASCII, which the parser checked. */
export function asciiBytes(text: string): Uint8Array {
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}
