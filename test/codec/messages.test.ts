import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { asEpoch, asGeneration } from '../../src/base/units.ts';
import { crc32c } from '../../src/codec/checksum.ts';
import { Compressor } from '../../src/codec/compress.ts';
import {
  encodedPayloadFacts,
  encodeFrame,
  FrameDecoder,
  type Frame,
} from '../../src/codec/frame.ts';
import { FLAG_LZ4, KIND_NUMBERS, type FrameKind } from '../../src/codec/kinds.ts';
import { PAYLOAD_BYTES_MAX } from '../../src/codec/limits.ts';
import { decodeMessage, encodeMessage, type Message } from '../../src/codec/messages.ts';
import { applyPageBatch, decodePageBatch } from '../../src/codec/page-batch.ts';
import { GENERATION, SAMPLE_LIST, SAMPLES } from './samples.ts';
import { vectorOf, type ProtocolVector } from './vectors.ts';

function frameOf(parts: readonly Uint8Array[]): Frame {
  const [frame] = new FrameDecoder().push(Buffer.concat(parts));
  if (frame === undefined) throw new Error('no frame');
  return frame;
}

function frameWith(kind: FrameKind, payload: Uint8Array, epoch = 0, flags = 0): Frame {
  const header = { kind, flags, generation: GENERATION, epoch: asEpoch(epoch) };
  return frameOf(encodeFrame(header, payload));
}

function codeOf(frame: Frame): string | undefined {
  try {
    decodeMessage(frame);
  } catch (error) {
    return (error as RomulusError).code;
  }
  return undefined;
}

/** Buffers and arrays of the same bytes are the same to the protocol. */
function plain(message: Message): unknown {
  return JSON.parse(
    JSON.stringify(message, (_key, value: unknown) => {
      if (typeof value === 'bigint') return `${value}n`;
      const bytes = value as { type?: string; data?: number[] };
      return bytes?.type === 'Buffer' || value instanceof Uint8Array
        ? Array.from(bytes.data ?? (value as Uint8Array))
        : value;
    }),
  );
}

describe('messages', () => {
  it.each(SAMPLE_LIST.map((message) => [message.kind, message] as const))(
    '%s survives the wire',
    (_kind, message) => {
      const frame = frameOf(encodeMessage(message, { generation: GENERATION }));
      expect(frame.generation).toBe(GENERATION);
      expect(plain(decodeMessage(frame))).toEqual(plain(message));
    },
  );

  it('has a sample of every kind', () => {
    expect(Object.keys(SAMPLES).sort()).toEqual(Object.keys(KIND_NUMBERS).sort());
  });

  it('matches the published vectors byte for byte', () => {
    const file = new URL('../fixtures/protocol/vectors.json', import.meta.url);
    const published = JSON.parse(readFileSync(file, 'utf8')) as { vectors: ProtocolVector[] };
    expect(published.vectors).toEqual(SAMPLE_LIST.map((message) => vectorOf(message)));
    for (const { frameHex } of published.vectors) {
      const frame = frameOf([Buffer.from(frameHex, 'hex')]);
      expect(plain(decodeMessage(frame))).toEqual(plain(SAMPLES[frame.kind]));
    }
  });

  it('publishes batches that hold', () => {
    const target = Buffer.alloc(8 * 4096);
    target.fill(0xff, 3 * 4096, 4 * 4096);
    expect(applyPageBatch(SAMPLES.pages.batch, target)).toBe(3);
    expect(target.subarray(3 * 4096, 4 * 4096).every((byte) => byte === 0)).toBe(true);
    expect([...target.subarray(5 * 4096 + 8, 5 * 4096 + 11)]).toEqual([0xaa, 0xbb, 0]);
    expect(target[6 * 4096 + 23 * 7]).toBe(24);
    expect(
      new Set(decodePageBatch(SAMPLES.pages.batch, 8).pages.map((page) => page.encoding)),
    ).toEqual(new Set([0, 2, 3]));
  });

  it('sends a batch as it is, with the CRC that came with it', () => {
    const { batch } = SAMPLES.pages;
    const parts = encodeMessage(SAMPLES.pages, {
      generation: GENERATION,
      payloadCrc: crc32c(batch),
    });
    expect(parts[1]).toBe(batch);
    expect(encodedPayloadFacts(parts).payloadCrc).toBe(crc32c(batch));
    expect(() => decodeMessage(frameOf(parts))).not.toThrow();
  });

  it('compresses what shrinks, and says so in the flags', () => {
    const batch = Buffer.concat([SAMPLES.pages.batch, Buffer.alloc(10_000, 'abcd')]);
    const message = { ...SAMPLES.pages, batch };
    const parts = encodeMessage(message, {
      generation: GENERATION,
      payloadCrc: 1,
      compressor: new Compressor(),
    });
    const frame = frameOf(parts);
    expect(frame.flags).toBe(FLAG_LZ4);
    expect(frame.payload.byteLength).toBeLessThan(1000);
    expect(plain(decodeMessage(frame))).toEqual(plain(message));
  });

  it('never compresses what must be small and quick', () => {
    const text = 'a'.repeat(4000);
    const message = { ...SAMPLES.goodbye, text };
    const compressor = new Compressor();
    expect(frameOf(encodeMessage(message, { generation: GENERATION, compressor })).flags).toBe(0);
  });

  it('asserts that it sends nothing that the other side would refuse', () => {
    const options = { generation: GENERATION };
    const bad: Message[] = [
      { ...SAMPLES.ack, instance: '' },
      { ...SAMPLES.ack, instance: 'has space' },
      { ...SAMPLES.ack, promiseUs: -1 },
      { ...SAMPLES.disk, writes: [] },
      { ...SAMPLES.disk, writes: [{ disk: 0, offset: 0, lengthBytes: 2, data: Uint8Array.of(1) }] },
      { ...SAMPLES.disk, writes: [{ disk: 65_536, offset: 0, lengthBytes: 1, data: null }] },
      { ...SAMPLES.scrubReply, digest: 'xyz' },
      { ...SAMPLES.outputMark, framesSent: 1.5 },
    ];
    for (const message of bad) expect(() => encodeMessage(message, options)).toThrow();
  });

  it('takes an empty instance in a heartbeat reply only', () => {
    const reply = { ...SAMPLES.heartbeatReply, instance: '', promiseUs: 0 };
    const frame = frameOf(encodeMessage(reply, { generation: GENERATION }));
    expect(decodeMessage(frame)).toEqual(reply);
    expect(codeOf(frameWith('applied', Uint8Array.of(0), 4))).toBe('ERR_PROTOCOL_MESSAGE');
  });
});

describe('decodeMessage refuses', () => {
  const json = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value));
  const u32 = (...values: number[]): Uint8Array => new Uint8Array(Uint32Array.from(values).buffer);
  const CASES: readonly [string, Frame][] = [
    ['an epoch where there is none', frameWith('heartbeat', Buffer.alloc(16), 5)],
    ['a missing epoch', frameWith('epochEnd', Buffer.alloc(24), 0)],
    ['bytes left over', frameWith('heartbeat', Buffer.alloc(17))],
    ['a number beyond exact ones', frameWith('heartbeat', Buffer.alloc(16, 0xff))],
    ['an instance that is not a name', frameWith('applied', Buffer.from('\x02a b'.slice(0, 3)), 4)],
    ['a name that is cut off', frameWith('applied', Buffer.from('\x09abc'), 4)],
    ['flags that it does not know', frameWith('epochBegin', Buffer.alloc(12, 1), 4)],
    ['a batch shorter than its header', frameWith('pages', Buffer.alloc(15), 4)],
    ['a batch of no pages', frameWith('pages', Buffer.alloc(16), 4)],
    ['a batch of too many pages', frameWith('pages', u32(65_537, 0, 0, 0), 4)],
    ['a device state that is too long', frameWith('deviceState', u32(0xffff_ffff), 4)],
    ['no disk writes', frameWith('disk', u32(0), 4)],
    ['more disk writes than there are bytes', frameWith('disk', u32(60_000), 4)],
    ['too many disk writes', frameWith('disk', u32(65_537), 4)],
    ['a write without length', frameWith('baseDisk', u32(0, 0, 0, 1))],
    ['zeros without bound', frameWith('disk', u32(1, 0, 0, 8 * 1024 * 1024 + 1, 1), 4)],
    ['a write with unknown flags', frameWith('baseDisk', u32(0, 0, 1, 2))],
    ['a write without its data', frameWith('baseDisk', u32(0, 0, 1, 0))],
    ['a write beyond exact numbers', frameWith('baseDisk', u32(0xffff_ffff, 0x001f_ffff, 9, 1))],
    ['text that is not JSON', frameWith('ready', Buffer.from('{'))],
    ['text that is not UTF-8', frameWith('ready', Buffer.from([0x22, 0xff, 0x22]))],
    ['JSON that is not an object', frameWith('ready', json(['b']))],
    ['a missing field', frameWith('ready', json({}))],
    ['a wrong type', frameWith('paired', json({ generation: '8', instance: 'b' }))],
    ['an unknown plan', frameWith('welcome', json({ ...SAMPLES.welcome, plan: 'half' }))],
    ['an unknown reason', frameWith('goodbye', json({ reason: 'bored', text: '' }))],
    ['a code that is not ours', frameWith('error', json({ code: 'E', message: '', remedy: '' }))],
    [
      'two RAM blocks with one id',
      frameWith(
        'hello',
        json({
          ...SAMPLES.hello,
          guest: {
            ...SAMPLES.hello.guest,
            blocks: [
              { id: 1, name: 'a', bytes: 1 },
              { id: 1, name: 'b', bytes: 1 },
            ],
          },
        }),
      ),
    ],
  ];
  it.each(CASES)('%s', (_name, frame) => {
    expect(codeOf(frame)).toBe('ERR_PROTOCOL_MESSAGE');
  });

  it('LZ4 blocks that are malformed, of another size, or too large', () => {
    const payload = (size: number, block: number[]): Buffer =>
      Buffer.concat([u32(size), Uint8Array.from(block)]);
    const lz4 = (bytes: Uint8Array): string | undefined =>
      codeOf(frameWith('pages', bytes, 4, FLAG_LZ4));
    expect(lz4(Uint8Array.of(1))).toBe('ERR_PROTOCOL_LZ4');
    expect(lz4(payload(16, [0xff, 0xff]))).toBe('ERR_PROTOCOL_LZ4');
    expect(lz4(payload(17, [0x10, 0x41]))).toBe('ERR_PROTOCOL_LZ4');
    expect(lz4(payload(PAYLOAD_BYTES_MAX.pages + 1, [0x10, 0x41]))).toBe('ERR_LIMIT_FRAME');
  });

  it('a poisoned prototype: it stays data', () => {
    const text = JSON.stringify({ ...SAMPLES.hello, kind: undefined }).replace(
      '"seed":1',
      '"__proto__":{"polluted":true},"seed":1',
    );
    const message = decodeMessage(frameWith('hello', Buffer.from(text)));
    expect(({} as { polluted?: boolean }).polluted).toBeUndefined();
    if (message.kind !== 'hello') throw new Error('not a hello');
    expect(message.guest?.profile['polluted']).toBeUndefined();
  });
});

describe('any payload of any kind', () => {
  it('is a message or one typed error', () => {
    const kinds = fc.constantFrom(...(Object.keys(KIND_NUMBERS) as FrameKind[]));
    const payloads = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.json().map((text) => Buffer.from(text)),
    );
    fc.assert(
      fc.property(kinds, payloads, fc.nat(3), fc.boolean(), (kind, payload, epoch, isLz4) => {
        const frame = {
          kind,
          payload,
          payloadCrc: 0,
          flags: isLz4 ? FLAG_LZ4 : 0,
          generation: asGeneration(1),
          epoch: asEpoch(epoch),
        };
        try {
          const message = decodeMessage(frame);
          expect(message.kind).toBe(kind);
        } catch (error) {
          expect(error).toBeInstanceOf(RomulusError);
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('decodes to what encodes to the same bytes', () => {
    const binary = fc.constantFrom<FrameKind>(
      'ack',
      'epochEnd',
      'heartbeat',
      'heartbeatReply',
      'disk',
      'baseDisk',
    );
    fc.assert(
      fc.property(binary, fc.uint8Array({ maxLength: 60 }), (kind, payload) => {
        const epoch = asEpoch(kind.startsWith('heart') || kind === 'baseDisk' ? 0 : 3);
        const frame = { kind, payload, payloadCrc: 0, flags: 0, generation: GENERATION, epoch };
        let message: Message;
        try {
          message = decodeMessage(frame);
        } catch {
          return;
        }
        const [, ...parts] = encodeMessage(message, { generation: GENERATION });
        expect(Buffer.concat(parts).equals(payload)).toBe(true);
      }),
      { numRuns: 3000 },
    );
  });
});
