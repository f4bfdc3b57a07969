/**
 * Turns a migration stream, in chunks of any size, into typed items.
 *
 * The format gives no lengths to device sections: only the device's own code knows where one ends.
 * So the parser reads everything up to the first section that is not RAM, says so by the item
 * `devices`, and stops. Everything in the stream counts as hostile: every length is checked against
 * a bound before anything is allocated for it, and the first fault is final.
 *
 * It does not put pages anywhere and knows nothing of sockets; it holds at most one chunk and one
 * record (a description of up to DESCRIPTION_BYTES_MAX at worst).
 */
import { RomulusError } from '../../../base/errors.ts';
import { ByteQueue } from './byte-queue.ts';
import { readConfiguration } from './configuration.ts';
import {
  COMMAND_POSTCOPY_ADVISE,
  DESCRIPTION_BYTES_MAX,
  RAM_SECTION,
  SECTION,
  STREAM_HEADER_BYTES,
  STREAM_MAGIC,
  STREAM_VERSION,
} from './format.ts';
import type { StreamItem } from './items.ts';
import { RamReader } from './ram-section.ts';
import { type Reading, readName, streamError } from './reading.ts';

/** An incremental parser of one stream. */
export class StreamParser {
  readonly #queue = new ByteQueue();
  readonly #reading: Reading<void>;
  #items: StreamItem[] = [];
  #neededBytes = 0;
  #state: 'reading' | 'done' = 'reading';
  #error: RomulusError | null = null;

  constructor() {
    this.#reading = readStream(this.#queue, (item) => {
      this.#items.push(item);
    });
  }

  /** Whether it has stopped: the device sections began, or the stream ended in order. */
  get isDone(): boolean {
    return this.#state === 'done';
  }

  /** How many bytes of the stream were parsed. */
  get offset(): number {
    return this.#queue.offset;
  }

  /**
   * Takes the next bytes, which must not change until the items are used; they may hold pages by
   * reference. Once it is done, what is pushed is ignored.
   * @throws {RomulusError} ERR_PROTOCOL_MIGRATION_STREAM, the same one for every later push.
   */
  push(chunk: Uint8Array): StreamItem[] {
    if (this.#error !== null) throw this.#error;
    if (this.#state === 'done') return [];
    this.#queue.push(chunk);
    this.#items = [];
    try {
      while (this.#state === 'reading' && this.#queue.availableBytes >= this.#neededBytes) {
        const step = this.#reading.next();
        if (step.done === true) this.#state = 'done';
        else this.#neededBytes = step.value;
      }
    } catch (error) {
      this.#queue.clear();
      if (error instanceof RomulusError) this.#error = error;
      throw error;
    }
    if (this.#state === 'done') this.#queue.clear();
    return this.#items;
  }
}

function* readStream(queue: ByteQueue, emit: (item: StreamItem) => void): Reading<void> {
  yield STREAM_HEADER_BYTES;
  if (queue.u32() !== STREAM_MAGIC) throw streamError(queue, 'no magic number');
  const version = queue.u32();
  if (version !== STREAM_VERSION) throw streamError(queue, `version ${version}`);
  emit({ kind: 'header', version });

  const ram = new RamReader(queue, emit);
  const sections = new RamSections(queue, emit, ram);
  let isConfigured = false;
  for (;;) {
    yield 1;
    const streamOffset = queue.offset;
    const type = queue.u8();
    switch (type) {
      case SECTION.configuration: {
        if (isConfigured || sections.haveBegun) throw streamError(queue, 'a late configuration');
        isConfigured = true;
        const item = yield* readConfiguration(queue);
        ram.hasAddresses = item.parts.some(
          (part) => part.kind === 'capabilities' && part.names.includes('x-ignore-shared'),
        );
        emit(item);
        break;
      }
      case SECTION.start:
      case SECTION.full: {
        const isRam = yield* sections.begin(type, streamOffset);
        if (!isRam) return;
        break;
      }
      case SECTION.part:
        yield* sections.go('part');
        break;
      case SECTION.end:
        yield* sections.go('end');
        break;
      case SECTION.command:
        yield* readCommand(queue, emit);
        break;
      case SECTION.endOfSections:
        sections.finish();
        emit({ kind: 'endOfSections' });
        yield* readDescription(queue, emit);
        return;
      default:
        throw streamError(queue, `an unknown section type 0x${type.toString(16)}`);
    }
  }
}

/** The RAM section's start, parts and end, with their order and footers. */
class RamSections {
  readonly #queue: ByteQueue;
  readonly #emit: (item: StreamItem) => void;
  readonly #ram: RamReader;
  #id: number | null = null;
  #hasEnded = false;

  constructor(queue: ByteQueue, emit: (item: StreamItem) => void, ram: RamReader) {
    this.#queue = queue;
    this.#emit = emit;
    this.#ram = ram;
  }

  get haveBegun(): boolean {
    return this.#id !== null;
  }

  /** Reads a section's head; false, with the item `devices`, when it is not RAM's start. */
  *begin(type: number, streamOffset: number): Reading<boolean> {
    const queue = this.#queue;
    yield 4;
    const id = queue.u32();
    const name = yield* readName(queue, 'section name');
    if (name !== RAM_SECTION.name || type !== SECTION.start) {
      this.#emit({ kind: 'devices', section: name, streamOffset });
      return false;
    }
    yield 8;
    const instance = queue.u32();
    const version = queue.u32();
    if (instance !== RAM_SECTION.instance || version !== RAM_SECTION.version) {
      throw streamError(queue, `RAM of instance ${instance} and version ${version}`);
    }
    if (this.#id !== null) throw streamError(queue, 'a second start of RAM');
    this.#id = id;
    yield* this.#body('start', id);
    return true;
  }

  /** Reads a part or the end. */
  *go(phase: 'part' | 'end'): Reading<void> {
    yield 4;
    const id = this.#queue.u32();
    if (id !== this.#id || this.#hasEnded) {
      throw streamError(this.#queue, `a section ${phase} of id ${id}, which is not open`);
    }
    if (phase === 'end') this.#hasEnded = true;
    yield* this.#body(phase, id);
  }

  /** Called where no more sections follow. */
  finish(): void {
    if (this.#id !== null && !this.#hasEnded) {
      throw streamError(this.#queue, 'the end of all sections while RAM has not ended');
    }
  }

  *#body(phase: 'start' | 'part' | 'end', id: number): Reading<void> {
    this.#emit({ kind: 'section', phase, id });
    yield* this.#ram.records(phase);
    yield 5;
    if (this.#queue.u8() !== SECTION.footer || this.#queue.u32() !== id) {
      throw streamError(
        this.#queue,
        'a section without footer',
        'Use a machine type of QEMU 2.4 or newer, and leave send-section-footer on.',
      );
    }
    this.#emit({ kind: 'sectionEnd', id });
  }
}

function* readCommand(queue: ByteQueue, emit: (item: StreamItem) => void): Reading<void> {
  yield 4;
  const command = queue.u16();
  const byteCount = queue.u16();
  if (command === COMMAND_POSTCOPY_ADVISE) {
    throw streamError(
      queue,
      'an announcement of postcopy',
      'Turn the capability postcopy-ram off.',
    );
  }
  yield byteCount;
  emit({ kind: 'command', command, data: Uint8Array.from(queue.take(byteCount)) });
}

function* readDescription(queue: ByteQueue, emit: (item: StreamItem) => void): Reading<void> {
  // The stream may end here: a description can be switched off.
  yield 1;
  const type = queue.u8();
  if (type !== SECTION.description) throw streamError(queue, 'something after its end');
  yield 4;
  const byteCount = queue.u32();
  if (byteCount > DESCRIPTION_BYTES_MAX) {
    throw streamError(queue, `a description of ${byteCount} bytes`);
  }
  yield byteCount;
  const text = new TextDecoder().decode(queue.take(byteCount));
  emit({ kind: 'description', text });
}
