/**
 * Writes the stream by which a waiting QEMU becomes the machine: the configuration as the primary
 * sent it, RAM with the small blocks only (main RAM is in place already, in the file both QEMU and
 * we have mapped, and QEMU leaves alone what a stream does not mention), the device sections of the
 * last committed epoch, and an empty description.
 *
 * Every used byte of a small block is written: what QEMU's own firmware put there when it started
 * is replaced. A page of equal bytes takes nine bytes.
 */
import { assert } from '../../../base/assert.ts';
import { asciiBytes, joinBytes, u32Bytes } from './configuration.ts';
import { deviceSectionsOf } from './device-state.ts';
import {
  RAM_FLAG,
  RAM_SECTION,
  SECTION,
  STREAM_MAGIC,
  STREAM_PAGE_BYTES,
  STREAM_VERSION,
} from './format.ts';

/** A block whose content travels in the stream. */
export interface SmallBlock {
  readonly name: string;
  /** How much of the block is in use: what the primary's stream listed. */
  readonly bytes: number;
  /** At least `bytes` long. */
  readonly content: Uint8Array;
}

export interface SynthesizeOptions {
  /** The configuration section, verbatim. */
  readonly configuration: Uint8Array;
  readonly smallBlocks: readonly SmallBlock[];
  /** What `xen-save-devices-state` wrote. */
  readonly deviceState: Uint8Array;
}

/** Any id does, as no device section is checked against it; QEMU itself uses small ones. */
const RAM_SECTION_ID = 0xffff_fff0;

/**
 * The stream, in pieces; the big ones are views of what was given.
 * @throws {RomulusError} ERR_GUEST_STATE_CORRUPT before the first piece.
 */
export function synthesizeStream(options: SynthesizeOptions): Iterable<Uint8Array> {
  const devices = deviceSectionsOf(options.deviceState);
  return pieces(options, devices);
}

/** The part that is the same for every state: what goes out before the pages. */
export function streamHead(
  configuration: Uint8Array,
  smallBlocks: readonly Omit<SmallBlock, 'content'>[],
): Uint8Array {
  // Empty where the machine was told to send none (send-configuration=off).
  const isSection = configuration[0] === SECTION.configuration;
  assert(isSection || configuration.byteLength === 0, 'a configuration begins with its type');
  const totalBytes = smallBlocks.reduce((sum, block) => sum + block.bytes, 0);
  assert(totalBytes % STREAM_PAGE_BYTES === 0, 'blocks are whole pages');
  const parts: Uint8Array[] = [
    u32Bytes(STREAM_MAGIC),
    u32Bytes(STREAM_VERSION),
    configuration,
    Uint8Array.of(SECTION.start),
    u32Bytes(RAM_SECTION_ID),
    nameBytes(RAM_SECTION.name),
    u32Bytes(RAM_SECTION.instance),
    u32Bytes(RAM_SECTION.version),
    recordWord(totalBytes, RAM_FLAG.totalBytes),
  ];
  for (const { name, bytes } of smallBlocks) parts.push(nameBytes(name), recordWord(bytes, 0));
  parts.push(endOfRamData());
  return joinBytes(parts);
}

/** One page that goes into a stream. */
export interface StreamPage {
  readonly block: string;
  readonly offset: number;
  /** STREAM_PAGE_BYTES long. */
  readonly content: Uint8Array;
}

/** Pages as a section of RAM: `part` may be followed by more, `end` is the last. */
export function ramSection(phase: 'part' | 'end', pages: Iterable<StreamPage>): Uint8Array {
  const parts: Uint8Array[] = [Uint8Array.of(SECTION[phase]), u32Bytes(RAM_SECTION_ID)];
  let blockBefore: string | null = null;
  for (const { block, offset, content } of pages) {
    assert(content.byteLength === STREAM_PAGE_BYTES, 'a stream carries whole pages');
    const value = content[0] ?? 0;
    const isFill = isFilledWith(content, value);
    const isSame = block === blockBefore;
    const flags = (isFill ? RAM_FLAG.fill : RAM_FLAG.page) | (isSame ? RAM_FLAG.sameBlock : 0);
    parts.push(recordWord(offset, flags));
    if (!isSame) parts.push(nameBytes(block));
    parts.push(isFill ? Uint8Array.of(value) : content);
    blockBefore = block;
  }
  parts.push(endOfRamData());
  return joinBytes(parts);
}

/** All used pages of the blocks, in order. */
export function* pagesOf(blocks: readonly SmallBlock[]): Iterable<StreamPage> {
  for (const { name, bytes, content } of blocks) {
    assert(content.byteLength >= bytes, `the content of ${name} is too short`);
    for (let offset = 0; offset < bytes; offset += STREAM_PAGE_BYTES) {
      yield { block: name, offset, content: content.subarray(offset, offset + STREAM_PAGE_BYTES) };
    }
  }
}

/**
 * What goes out after the device sections: the mark that ends them, and a description that says nothing.
 * The mark is what makes a machine: a QEMU that has read it runs the machine even if the stream
 * then breaks off (qemu_loadvm_state in migration/savevm.c takes a missing description for no reason to
 * fail), while one that has not ends with an error.
 */
export function streamTail(): Uint8Array {
  const json = asciiBytes('{}');
  return joinBytes([
    Uint8Array.of(SECTION.endOfSections, SECTION.description),
    u32Bytes(json.byteLength),
    json,
  ]);
}

function* pieces(options: SynthesizeOptions, devices: Uint8Array): Iterable<Uint8Array> {
  yield streamHead(options.configuration, options.smallBlocks);
  yield ramSection('end', pagesOf(options.smallBlocks));
  yield devices;
  yield streamTail();
}

/** Whether all bytes of a page are the same; looks at words, as this stands before a promotion. */
function isFilledWith(page: Uint8Array, value: number): boolean {
  const isAligned = page.byteOffset % Uint32Array.BYTES_PER_ELEMENT === 0;
  const bytes = isAligned ? page : Uint8Array.from(page);
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, STREAM_PAGE_BYTES / 4);
  const word = (value * 0x01010101) >>> 0;
  for (let index = 0; index < words.length; index += 1) if (words[index] !== word) return false;
  return true;
}

function endOfRamData(): Uint8Array {
  return joinBytes([
    recordWord(0, RAM_FLAG.endOfSection),
    Uint8Array.of(SECTION.footer),
    u32Bytes(RAM_SECTION_ID),
  ]);
}

function recordWord(offset: number, flags: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(offset) | BigInt(flags));
  return bytes;
}

function nameBytes(name: string): Uint8Array {
  assert(name.length > 0 && name.length < 256, 'a name in the stream has 1 to 255 bytes');
  return joinBytes([Uint8Array.of(name.length), asciiBytes(name)]);
}
