/**
 * Goal: the parser gives the same items however a stream is cut, reads back what our writer wrote,
 * and answers any bytes whatever with items or its one error. Method: fast-check; a failure prints
 * its seed.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RomulusError } from '../../../../src/base/errors.ts';
import { checkDeviceState } from '../../../../src/guests/qemu/stream/device-state.ts';
import { StreamParser } from '../../../../src/guests/qemu/stream/parser.ts';
import { synthesizeStream } from '../../../../src/guests/qemu/stream/writer.ts';
import { buildStream, plain, type Said } from './stream-builder.ts';

const PAGE = 4096;
const BLOCKS = [
  { name: 'pc.ram', usedBytes: 16 * PAGE },
  { name: '/rom@etc/acpi/tables', usedBytes: 4 * PAGE },
  { name: 'pc.rom', usedBytes: PAGE },
];

const pageSaid: fc.Arbitrary<Said> = fc
  .tuple(fc.constantFrom(...BLOCKS), fc.nat(15), fc.nat(255), fc.boolean())
  .map(([block, index, value, isPage]) => ({
    kind: isPage ? 'page' : 'fill',
    block: block.name,
    offset: (index % (block.usedBytes / PAGE)) * PAGE,
    value,
    repeat: false,
  }));

const streamSaid: fc.Arbitrary<Said[]> = fc
  .tuple(
    fc.boolean(),
    fc.array(fc.array(pageSaid, { maxLength: 6 }), { maxLength: 4 }),
    fc.array(pageSaid, { maxLength: 4 }),
    fc.boolean(),
  )
  .map(([isConfigured, parts, last, hasCommand]) => {
    const said: Said[] = [];
    if (isConfigured) said.push({ kind: 'configuration', machine: 'pc-q35-7.2' });
    said.push({ kind: 'start', id: 2, records: [{ kind: 'blocks', blocks: BLOCKS }] });
    for (const records of parts) said.push({ kind: 'part', id: 2, records: compacted(records) });
    if (hasCommand) said.push({ kind: 'command', command: 11, data: Buffer.from('x') });
    said.push({ kind: 'end', id: 2, records: compacted(last) });
    said.push({ kind: 'device', id: 3, name: 'timer' });
    return said;
  });

/** Uses "same block as before" wherever a writer would. */
function compacted(records: readonly Said[]): Said[] {
  let before = '';
  return records.map((record) => {
    if (record.kind !== 'page' && record.kind !== 'fill') return record;
    const repeat = record.block === before;
    before = record.block;
    return { ...record, repeat };
  });
}

function parseInPieces(bytes: Uint8Array, cuts: readonly number[]): unknown[] {
  const parser = new StreamParser();
  const items: unknown[] = [];
  let from = 0;
  for (const cut of [...cuts, bytes.byteLength]) {
    const to = Math.min(bytes.byteLength, from + cut);
    items.push(...plain(parser.push(bytes.subarray(from, to))));
    from = to;
  }
  return items;
}

const state = (sections: readonly { name: string; data: Uint8Array }[]): Buffer =>
  Buffer.concat([
    Buffer.from('5145564d00000003', 'hex'),
    ...sections.map(({ name, data }, index) => {
      const id = Buffer.alloc(4);
      id.writeUInt32BE(index * 3);
      const head = [
        Buffer.of(4),
        id,
        Buffer.of(name.length),
        Buffer.from(name),
        Buffer.alloc(8, 0),
      ];
      return Buffer.concat([...head, data, Buffer.of(0x7e), id]);
    }),
    Buffer.of(0),
  ]);

const sections = fc.array(
  fc.record({
    name: fc.constantFrom('timer', 'cpu', '0000:00:02.0/virtio-net', 'fw_cfg'),
    // Bytes of footers and heads, so that data looks like structure as often as possible.
    data: fc
      .uint8Array({ maxLength: 60 })
      .map((bytes) => bytes.map((byte) => [0, 4, 0x7e, 3][byte & 3] ?? 0)),
  }),
  { minLength: 1, maxLength: 12 },
);

describe('any cutting', () => {
  it('gives the same items', () => {
    fc.assert(
      fc.property(streamSaid, fc.array(fc.integer({ min: 0, max: 5000 })), (said, cuts) => {
        const bytes = buildStream(said);
        expect(parseInPieces(bytes, cuts)).toEqual(parseInPieces(bytes, []));
      }),
    );
  });

  it('even into single bytes', () => {
    fc.assert(
      fc.property(streamSaid, (said) => {
        const bytes = buildStream(said);
        const cuts = Array.from({ length: bytes.byteLength }, () => 1);
        expect(parseInPieces(bytes, cuts)).toEqual(parseInPieces(bytes, []));
      }),
      { numRuns: 5 },
    );
  });
});

describe('our own stream', () => {
  it('is read back: the small blocks as given, then the devices', () => {
    // A page is a byte it is filled with, and whether another byte stands in it.
    const block = fc.array(fc.tuple(fc.constantFrom(0, 7, 255), fc.boolean()), {
      minLength: 1,
      maxLength: 4,
    });
    const contentOf = (pages: readonly (readonly [number, boolean])[]): Buffer =>
      Buffer.concat(
        pages.map(([value, isMarked]) => {
          const page = Buffer.alloc(PAGE, value);
          if (isMarked) page[4000] = 1;
          return page;
        }),
      );
    fc.assert(
      fc.property(fc.array(block, { maxLength: 4 }), sections, (blocks, devices) => {
        const contents = blocks.map(contentOf);
        const smallBlocks = contents.map((content, index) => ({
          name: `/rom@${index}`,
          bytes: content.byteLength,
          content,
        }));
        const configuration = buildStream([{ kind: 'configuration', machine: 'pc' }]).subarray(8);
        const stream = Buffer.concat([
          ...synthesizeStream({ configuration, smallBlocks, deviceState: state(devices) }),
        ]);
        const parser = new StreamParser();
        const seen = smallBlocks.map(({ bytes }) => Buffer.alloc(bytes, 0xaa));
        for (const item of parser.push(stream)) {
          if (item.kind !== 'page' && item.kind !== 'fill') continue;
          const into = seen[Number(item.block.slice('/rom@'.length))];
          if (item.kind === 'page') into?.set(item.content, item.offset);
          else into?.fill(item.value, item.offset, item.offset + PAGE);
        }
        expect(parser.isDone).toBe(true);
        expect(seen.every((bytes, index) => bytes.equals(contents[index] ?? bytes))).toBe(true);
        const tail = Buffer.concat([
          state(devices).subarray(8),
          Buffer.from('06000000027b7d', 'hex'),
        ]);
        expect(stream.subarray(-tail.byteLength)).toEqual(tail);
      }),
    );
  });
});

describe('any bytes', () => {
  const answered = (bytes: Uint8Array): void => {
    const parser = new StreamParser();
    try {
      parser.push(bytes);
    } catch (error) {
      expect(error).toBeInstanceOf(RomulusError);
      expect((error as RomulusError).code).toBe('ERR_PROTOCOL_MIGRATION_STREAM');
    }
  };

  it('are items or the one error', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), answered), { numRuns: 500 });
  });

  it('also after a true beginning', () => {
    const change = fc.tuple(fc.nat(), fc.nat(255));
    fc.assert(
      fc.property(streamSaid, fc.array(change, { minLength: 1, maxLength: 4 }), (said, changes) => {
        const bytes = buildStream(said);
        for (const [at, value] of changes) bytes[at % bytes.byteLength] = value;
        answered(bytes);
      }),
      { numRuns: 500 },
    );
  });
});

describe('a device state', () => {
  it('is taken apart into its sections, whatever its data looks like', () => {
    fc.assert(
      fc.property(sections, (devices) => {
        const bytes = state(devices);
        const found = checkDeviceState(bytes);
        const total = found.reduce((sum, section) => sum + section.bytes, 0);
        expect(total).toBe(bytes.byteLength - 8 - 1);
        expect(found[0]?.name).toBe(devices[0]?.name);
      }),
      { numRuns: 500 },
    );
  });

  it('is refused when it is cut short, or anything else', () => {
    fc.assert(
      fc.property(sections, fc.nat(), (devices, cut) => {
        const whole = state(devices.map(({ name }) => ({ name, data: Buffer.from('abcdefgh') })));
        const bytes = whole.subarray(0, cut % whole.byteLength);
        expect(() => checkDeviceState(bytes)).toThrow(
          expect.objectContaining({ code: 'ERR_GUEST_STATE_CORRUPT' }) as Error,
        );
      }),
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
        expect(() => checkDeviceState(bytes)).toThrow(
          expect.objectContaining({ code: 'ERR_GUEST_STATE_CORRUPT' }) as Error,
        );
      }),
    );
  });
});
