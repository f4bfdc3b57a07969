/**
 * Goal: the parser reads everything that QEMU writes before its devices, and refuses the rest with
 * its one error and the place. Method: streams built by hand, one fault each.
 */
import { describe, expect, it } from 'vitest';
import { StreamParser } from '../../../../src/guests/qemu/stream/parser.ts';
import { buildStream, plain, type Said, testPage } from './stream-builder.ts';

const BLOCKS = [
  { name: 'pc.ram', usedBytes: 0x10000 },
  { name: 'pc.bios', usedBytes: 0x2000 },
];
const CONFIGURATION: Said = { kind: 'configuration', machine: 'pc-q35-7.2' };
const START: Said = { kind: 'start', id: 2, records: [{ kind: 'blocks', blocks: BLOCKS }] };
const page = (block: string, offset: number, repeat: boolean, value = 7): Said => ({
  kind: 'page',
  block,
  offset,
  value,
  repeat,
});

function parse(said: readonly Said[]): { items: unknown[]; isDone: boolean } {
  const parser = new StreamParser();
  const items = parser.push(buildStream(said));
  return { items: plain(items), isDone: parser.isDone };
}

function refusal(bytes: Uint8Array): string {
  const parser = new StreamParser();
  try {
    parser.push(bytes);
  } catch (error) {
    expect(error).toMatchObject({ code: 'ERR_PROTOCOL_MIGRATION_STREAM' });
    expect(() => parser.push(Buffer.of(0))).toThrow(error);
    return (error as Error).message;
  }
  return 'nothing was refused';
}

describe('a stream', () => {
  it('is read up to the devices, with pages in every form', () => {
    const { items, isDone } = parse([
      CONFIGURATION,
      START,
      {
        kind: 'part',
        id: 2,
        records: [
          page('pc.ram', 0x3000, false),
          { kind: 'fill', block: 'pc.ram', offset: 0x4000, value: 0, repeat: true },
        ],
      },
      { kind: 'command', command: 11, data: new Uint8Array(0) },
      { kind: 'end', id: 2, records: [page('pc.ram', 0xf000, true), page('pc.bios', 0, false)] },
      { kind: 'device', id: 0, name: 'timer' },
    ]);
    expect(isDone).toBe(true);
    const kinds = items.map((item) => (item as { kind: string }).kind);
    expect(kinds.join(' ')).toBe(
      'header configuration section blocks sectionEnd section page fill sectionEnd command section page page sectionEnd devices',
    );
    expect(items[2 + 1]).toEqual({
      kind: 'blocks',
      totalBytes: 0x12000,
      blocks: BLOCKS.map((block) => ({ ...block, address: null })),
    });
    // "Same block" reaches back over the end of a section.
    expect(items[11]).toEqual({
      kind: 'page',
      block: 'pc.ram',
      offset: 0xf000,
      content: testPage(0xf000, 7).toString('base64'),
    });
    expect(items.at(-1)).toMatchObject({ kind: 'devices', section: 'timer' });
  });

  it('keeps the configuration verbatim, with its subsections', () => {
    const parts = [
      { kind: 'targetPageBits', bits: 12 },
      { kind: 'capabilities', names: ['x-ignore-shared'] },
      { kind: 'uuid', bytes: Uint8Array.from({ length: 16 }, (_, index) => index) },
    ] as const;
    const said: Said = { kind: 'configuration', machine: 'pc-i440fx-11.1', parts };
    const bytes = buildStream([said]).subarray(8);
    const start: Said = {
      kind: 'start',
      id: 2,
      records: [{ kind: 'blocks', blocks: BLOCKS, withAddresses: true }],
    };
    const { items } = parse([said, start]);
    expect(items[1]).toMatchObject({
      machine: 'pc-i440fx-11.1',
      verbatim: bytes.toString('base64'),
      parts: [{ bits: 12 }, { names: ['x-ignore-shared'] }, { kind: 'uuid' }],
    });
    expect(items[3]).toMatchObject({ blocks: [{ address: '4294967296n' }, {}] });
  });

  it('may lack a configuration, and end with a description', () => {
    const { items, isDone } = parse([
      START,
      { kind: 'end', id: 2, records: [] },
      { kind: 'endOfSections' },
      { kind: 'description', text: '{}' },
    ]);
    expect(isDone).toBe(true);
    expect(items.slice(-2)).toEqual([
      { kind: 'endOfSections' },
      { kind: 'description', text: '{}' },
    ]);
  });
});

describe('a fault is refused:', () => {
  const FAULTS: readonly [string, readonly Said[], RegExp][] = [
    [
      'a page before the list',
      [{ kind: 'start', id: 1, records: [page('a', 0, false)] }],
      /before the list/,
    ],
    ['a start without a list', [{ kind: 'start', id: 1, records: [] }], /without block list/],
    ['a part of another id', [START, { kind: 'part', id: 3, records: [] }], /part of id 3/],
    ['a part before the start', [{ kind: 'part', id: 0, records: [] }], /part of id 0/],
    [
      'a part after the end',
      [START, { kind: 'end', id: 2, records: [] }, { kind: 'part', id: 2, records: [] }],
      /not open/,
    ],
    ['two starts', [START, START], /second start/],
    ['a late configuration', [START, CONFIGURATION], /late configuration/],
    ['two configurations', [CONFIGURATION, CONFIGURATION], /late configuration/],
    [
      'a page outside its block',
      [START, { kind: 'part', id: 2, records: [page('pc.bios', 0x2000, false)] }],
      /outside RAM block pc\.bios/,
    ],
    [
      'a page of an unlisted block',
      [START, { kind: 'part', id: 2, records: [page('pc.rom', 0, false)] }],
      /unlisted RAM block 'pc\.rom'/,
    ],
    [
      'a page of "the same block" before any',
      [START, { kind: 'part', id: 2, records: [page('', 0, true)] }],
      /unlisted RAM block ''/,
    ],
    [
      'a block listed twice',
      [{ kind: 'start', id: 1, records: [{ kind: 'blocks', blocks: [...BLOCKS, ...BLOCKS] }] }],
      /pc\.ram twice/,
    ],
    ['an end while RAM is open', [START, { kind: 'endOfSections' }], /RAM has not ended/],
    [
      'an announcement of postcopy',
      [{ kind: 'command', command: 3, data: new Uint8Array(16) }],
      /postcopy/,
    ],
    [
      'something after the end',
      [START, { kind: 'end', id: 2, records: [] }, { kind: 'endOfSections' }, CONFIGURATION],
      /after its end/,
    ],
  ];
  it.each(FAULTS)('%s', (_name, said, message) => {
    expect(refusal(buildStream(said))).toMatch(message);
  });

  const BYTES: readonly [string, string, RegExp][] = [
    ['no magic', '51455649 00000003', /magic/],
    ['another version', '5145564d 00000002', /version 2/],
    ['an unknown section', '5145564d 00000003 09', /section type 0x9/],
    ['a long machine name', '5145564d 00000003 07 ffffffff', /machine name of 4294967295/],
    ['an empty machine name', '5145564d 00000003 07 00000000', /empty machine name/],
    ['a name that is no text', '5145564d 00000003 07 00000002 6100', /no text/],
    ['an unknown subsection', '5145564d 00000003 07 00000001 61 05 01 62 00000001', /subsection b/],
    ['RAM of version 5', '5145564d 00000003 01 00000000 03 72616d 00000000 00000005', /version 5/],
    [
      'XBZRLE',
      '5145564d 00000003 01 00000000 03 72616d 00000000 00000004 0000000000000040',
      /capability xbzrle/,
    ],
    [
      'unknown flags',
      '5145564d 00000003 01 00000000 03 72616d 00000000 00000004 0000000000000400',
      /flags 0x400/,
    ],
    [
      'a block larger than all',
      '5145564d 00000003 01 00000000 03 72616d 00000000 00000004 0000000000001004 01 61 0000000000002000',
      /8192 bytes as the size/,
    ],
    [
      'an impossible size',
      '5145564d 00000003 01 00000000 03 72616d 00000000 00000004 fffffffffffff004',
      /impossible RAM size/,
    ],
    [
      'a missing footer',
      '5145564d 00000003 01 00000000 03 72616d 00000000 00000004 0000000000001004 01 61 0000000000001000 0000000000000010 02 00000000',
      /without footer/,
    ],
    ['a long description', '5145564d 00000003 00 06 ffffffff', /description of 4294967295/],
  ];
  it.each(BYTES)('%s', (_name, hex, message) => {
    expect(refusal(Buffer.from(hex.replaceAll(' ', ''), 'hex'))).toMatch(message);
  });

  it('with the place', () => {
    const parser = new StreamParser();
    parser.push(buildStream([CONFIGURATION]));
    expect(() => parser.push(Buffer.of(9))).toThrow(
      expect.objectContaining({ details: { offset: 8 + 15 + 1 } }) as Error,
    );
  });
});
