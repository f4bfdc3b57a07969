/**
 * Encodes migration streams from a list of what they are to say, written from QEMU's description of
 * the format and not from our writer, so that each checks the other.
 */
import { unreachable } from '../../../../src/base/assert.ts';
import type { StreamItem } from '../../../../src/guests/qemu/stream/items.ts';

/** What a test stream may hold. Pages give `repeat` to say "same block as before". */
export type Said =
  | { readonly kind: 'configuration'; readonly machine: string; readonly parts?: readonly Part[] }
  | { readonly kind: 'start'; readonly id: number; readonly records: readonly Said[] }
  | { readonly kind: 'part' | 'end'; readonly id: number; readonly records: readonly Said[] }
  | {
      readonly kind: 'blocks';
      readonly blocks: readonly { readonly name: string; readonly usedBytes: number }[];
      readonly withAddresses?: boolean;
    }
  | {
      readonly kind: 'page' | 'fill';
      readonly block: string;
      readonly offset: number;
      readonly value: number;
      readonly repeat: boolean;
    }
  | { readonly kind: 'command'; readonly command: number; readonly data: Uint8Array }
  | { readonly kind: 'device'; readonly id: number; readonly name: string }
  | { readonly kind: 'endOfSections' }
  | { readonly kind: 'description'; readonly text: string };

type Part =
  | { readonly kind: 'capabilities'; readonly names: readonly string[] }
  | { readonly kind: 'uuid'; readonly bytes: Uint8Array }
  | { readonly kind: 'targetPageBits'; readonly bits: number };

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
};
const u64 = (value: number | bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
};
const counted = (text: string): Buffer =>
  Buffer.concat([Buffer.of(text.length), Buffer.from(text)]);
const footer = (id: number): Buffer => Buffer.concat([Buffer.of(0x7e), u32(id)]);

/** The stream with its header. */
export function buildStream(said: readonly Said[]): Buffer {
  return Buffer.concat([Buffer.from('QEVM'), u32(3), ...said.map(encode)]);
}

/** A page whose bytes all tell its value and place, so that mixed-up pages show. */
export function testPage(offset: number, value: number): Buffer {
  const page = Buffer.alloc(4096, value);
  page.writeUInt32BE(offset / 4096, 1024);
  page[4095] = value ^ 0xff;
  return page;
}

function encode(said: Said): Buffer {
  switch (said.kind) {
    case 'configuration':
      return Buffer.concat([
        Buffer.of(7),
        u32(said.machine.length),
        Buffer.from(said.machine),
        ...(said.parts ?? []).map(encodePart),
      ]);
    case 'start':
      return Buffer.concat([
        Buffer.of(1),
        u32(said.id),
        counted('ram'),
        u32(0),
        u32(4),
        ...said.records.map(encode),
        u64(0x10),
        footer(said.id),
      ]);
    case 'part':
    case 'end':
      return Buffer.concat([
        Buffer.of(said.kind === 'part' ? 2 : 3),
        u32(said.id),
        ...said.records.map(encode),
        u64(0x10),
        footer(said.id),
      ]);
    case 'blocks':
      return Buffer.concat([
        u64(said.blocks.reduce((sum, block) => sum + block.usedBytes, 0) + 4),
        ...said.blocks.map((block) =>
          Buffer.concat([
            counted(block.name),
            u64(block.usedBytes),
            ...(said.withAddresses === true ? [u64(0x1_0000_0000n)] : []),
          ]),
        ),
      ]);
    case 'page':
    case 'fill': {
      const flags = (said.kind === 'page' ? 0x08 : 0x02) | (said.repeat ? 0x20 : 0);
      return Buffer.concat([
        u64(said.offset + flags),
        said.repeat ? Buffer.alloc(0) : counted(said.block),
        said.kind === 'fill' ? Buffer.of(said.value) : testPage(said.offset, said.value),
      ]);
    }
    case 'command': {
      const head = Buffer.alloc(5, 8);
      head.writeUInt16BE(said.command, 1);
      head.writeUInt16BE(said.data.byteLength, 3);
      return Buffer.concat([head, said.data]);
    }
    case 'device':
      return Buffer.concat([Buffer.of(4), u32(said.id), counted(said.name), u32(0), u32(1)]);
    case 'endOfSections':
      return Buffer.of(0);
    case 'description':
      return Buffer.concat([Buffer.of(6), u32(said.text.length), Buffer.from(said.text)]);
    default:
      return unreachable(said, 'thing to say');
  }
}

function encodePart(part: Part): Buffer {
  const head = (name: string): Buffer =>
    Buffer.concat([Buffer.of(5), counted(`configuration/${name}`), u32(1)]);
  switch (part.kind) {
    case 'capabilities':
      return Buffer.concat([
        head('capabilities'),
        u32(part.names.length),
        ...part.names.map(counted),
      ]);
    case 'uuid':
      return Buffer.concat([head('uuid'), part.bytes]);
    case 'targetPageBits':
      return Buffer.concat([head('target-page-bits'), u32(part.bits)]);
    default:
      return unreachable(part, 'part of a configuration');
  }
}

/** Items in a form that compares by value: bytes as base64, addresses as text. */
export function plain(items: readonly StreamItem[]): unknown[] {
  return items.map((item) => plainValue(item));
}

function plainValue(value: unknown): unknown {
  if (typeof value === 'bigint') return `${value}n`;
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64');
  if (Array.isArray(value)) return value.map(plainValue);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, held]) => [key, plainValue(held)]));
}
