import fastCrc32c from 'fast-crc32c';
import { describe, expect, it } from 'vitest';
import { asEpoch, asGeneration } from '../../src/base/units.ts';
import { crc32c, crc32cOfParts, PayloadDigest, useCrc32c } from '../../src/codec/checksum.ts';
import {
  encodedPayloadFacts,
  encodeFrame,
  FRAME_HEADER_BYTES,
  FrameDecoder,
} from '../../src/codec/frame.ts';
import { FLAG_LZ4, KIND_NUMBERS, kindOfNumber } from '../../src/codec/kinds.ts';
import { PAYLOAD_BYTES_MAX } from '../../src/codec/limits.ts';

const HEADER = { kind: 'pages', flags: 0, generation: asGeneration(3), epoch: asEpoch(9) } as const;

/** A frame in one piece, with some header bytes changed and the header CRC made right again. */
function forged(change: (view: DataView) => void, payload = Uint8Array.of(1, 2, 3)): Uint8Array {
  const bytes = Buffer.concat(encodeFrame(HEADER, payload));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  change(view);
  const before = crc32c(bytes.subarray(0, 28));
  view.setUint32(28, crc32c(bytes.subarray(32, 40), before), true);
  return bytes;
}

function errorOf(bytes: Uint8Array): object {
  try {
    new FrameDecoder().push(bytes);
  } catch (error) {
    return error as object;
  }
  return {};
}

describe('crc32c', () => {
  it('is the Castagnoli CRC', () => {
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe306_9283);
    expect(crc32c(new Uint8Array(32))).toBe(0x8a91_36aa);
  });

  it('continues over parts', () => {
    const parts = [Buffer.from('1234'), new Uint8Array(0), Buffer.from('56789')];
    expect(crc32cOfParts(parts)).toBe(0xe306_9283);
  });

  it('takes another implementation only if it computes the same', () => {
    const known = crc32c;
    let bytesSeen = 0;
    const counting = (data: Uint8Array, initial = 0): number => {
      bytesSeen += data.byteLength;
      return fastCrc32c.calculate(data, initial);
    };
    expect(useCrc32c(() => 7)).toBe(false);
    expect(useCrc32c((data) => fastCrc32c.calculate(data))).toBe(false);
    expect(useCrc32c(counting)).toBe(true);
    bytesSeen = 0;
    expect(known(Buffer.from('123456789'))).toBe(0xe306_9283);
    expect(bytesSeen).toBe(9);
  });

  it('digests a sequence of CRCs as their little-endian concatenation', () => {
    const digest = new PayloadDigest();
    digest.add(0x0403_0201);
    digest.add(0xffff_fffe);
    expect(digest.value).toBe(crc32c(Uint8Array.of(1, 2, 3, 4, 0xfe, 0xff, 0xff, 0xff)));
  });
});

describe('encodeFrame', () => {
  it('lays the header out as the protocol says', () => {
    const [header, payload] = encodeFrame(
      {
        kind: 'ack',
        flags: 0,
        generation: asGeneration(2 ** 40 + 5),
        epoch: asEpoch(2 ** 53 - 1),
      },
      Uint8Array.of(0xff),
    );
    expect(Buffer.from(header ?? []).toString('hex')).toBe(
      '524d4c53' +
        '01' +
        '30' +
        '0000' +
        '0500000000010000' +
        'ffffffffffff1f00' +
        '01000000' +
        '64941712' +
        '000000ff' +
        '00000000',
    );
    expect(payload).toEqual(Uint8Array.of(0xff));
  });

  it('does not copy the payload and leaves empty parts out', () => {
    const part = new Uint8Array(10);
    const parts = encodeFrame(HEADER, [part, new Uint8Array(0), part]);
    expect(parts).toHaveLength(3);
    expect(parts[1]).toBe(part);
    expect(parts[2]).toBe(part);
    expect(encodedPayloadFacts(parts)).toEqual({
      payloadBytes: 20,
      payloadCrc: crc32c(new Uint8Array(20)),
    });
  });

  it('believes a CRC that it is given', () => {
    const parts = encodeFrame(HEADER, Uint8Array.of(1), 77);
    expect(encodedPayloadFacts(parts).payloadCrc).toBe(77);
    expect(errorOf(Buffer.concat(parts))).toMatchObject({ code: 'ERR_INTEGRITY_FRAME_CRC' });
  });

  it('refuses to make a frame over the limit of its kind', () => {
    const tooLong = new Uint8Array(PAYLOAD_BYTES_MAX.ack + 1);
    expect(() => encodeFrame({ ...HEADER, kind: 'ack' }, tooLong)).toThrow(/over 512/);
  });
});

describe('FrameDecoder', () => {
  it('returns a payload within the chunk as a view of it', () => {
    const chunk = Buffer.concat(encodeFrame(HEADER, Uint8Array.of(1, 2, 3)));
    const [frame] = new FrameDecoder().push(chunk);
    expect(frame).toMatchObject({ ...HEADER, payloadCrc: crc32c(Uint8Array.of(1, 2, 3)) });
    expect(frame?.payload.buffer).toBe(chunk.buffer);
    expect([...(frame?.payload ?? [])]).toEqual([1, 2, 3]);
  });

  it('delivers a frame without payload as soon as its header is there', () => {
    const decoder = new FrameDecoder();
    expect(decoder.push(Buffer.concat(encodeFrame(HEADER, [])))).toHaveLength(1);
    expect(decoder.isInsideFrame).toBe(false);
  });

  const FAULTS: readonly [string, Uint8Array, object][] = [
    ['another magic', forged((view) => view.setUint8(0, 0x47)), { code: 'ERR_PROTOCOL_MAGIC' }],
    ['HTTP, as soon as it differs', Buffer.from('G'), { code: 'ERR_PROTOCOL_MAGIC' }],
    [
      'another version',
      forged((view) => view.setUint8(4, 2)),
      { code: 'ERR_VERSION_UNSUPPORTED', details: { peerVersion: 2, version: 1 } },
    ],
    [
      'an unknown kind',
      forged((view) => view.setUint8(5, 0xee)),
      { code: 'ERR_PROTOCOL_FRAME_KIND', details: { kindNumber: 0xee } },
    ],
    [
      'an unknown flag',
      forged((view) => view.setUint16(6, 2, true)),
      { code: 'ERR_PROTOCOL_FRAME_FLAGS' },
    ],
    [
      'compression of a kind that has none',
      forged((view) => {
        view.setUint8(5, KIND_NUMBERS.ack);
        view.setUint16(6, FLAG_LZ4, true);
      }),
      { code: 'ERR_PROTOCOL_FRAME_FLAGS' },
    ],
    [
      'a generation beyond exact numbers',
      forged((view) => view.setUint32(12, 0x0020_0000, true)),
      { code: 'ERR_PROTOCOL_FRAME_FIELD' },
    ],
    [
      'an epoch beyond exact numbers',
      forged((view) => view.setUint32(20, 0xffff_ffff, true)),
      { code: 'ERR_PROTOCOL_FRAME_FIELD' },
    ],
    [
      'a reserved field in use',
      forged((view) => view.setUint8(36, 1)),
      { code: 'ERR_PROTOCOL_FRAME_FIELD' },
    ],
    [
      'a length over the limit',
      forged((view) => view.setUint32(24, PAYLOAD_BYTES_MAX.pages + 1, true)),
      { code: 'ERR_LIMIT_FRAME', details: { limitBytes: PAYLOAD_BYTES_MAX.pages } },
    ],
  ];
  it.each(FAULTS)('refuses %s', (_name, bytes, error) => {
    expect(errorOf(bytes)).toMatchObject({
      ...error,
      remedy: expect.stringMatching(/\.$/) as string,
    });
  });

  it('refuses every single damaged byte of a frame', () => {
    const good = Buffer.concat(encodeFrame(HEADER, Uint8Array.of(1, 2, 3)));
    for (let index = 0; index < good.byteLength; index += 1) {
      const bad = Buffer.from(good);
      bad[index] = (bad[index] ?? 0) ^ 0x10;
      expect(errorOf(bad), `byte ${index}`).toHaveProperty('code');
    }
  });

  it('is dead after the first fault', () => {
    const decoder = new FrameDecoder();
    const good = Buffer.concat(encodeFrame(HEADER, []));
    expect(() => decoder.push(Buffer.alloc(40))).toThrow('not a Romulus frame');
    expect(() => decoder.push(good)).toThrow('not a Romulus frame');
    expect(() => decoder.end()).toThrow('not a Romulus frame');
  });

  it('reports a stream that ends inside a frame', () => {
    const whole = Buffer.concat(encodeFrame(HEADER, Uint8Array.of(1, 2, 3)));
    for (const cut of [1, 39, 40, 42]) {
      const decoder = new FrameDecoder();
      decoder.push(whole.subarray(0, cut));
      expect(() => decoder.end(), `cut at ${cut}`).toThrow(
        expect.objectContaining({ code: 'ERR_PROTOCOL_TRUNCATED' }),
      );
    }
    const decoder = new FrameDecoder();
    decoder.push(whole);
    expect(() => decoder.end()).not.toThrow();
  });

  it('does not allocate for a payload before the header is proved', () => {
    const bytes = Buffer.concat(encodeFrame(HEADER, new Uint8Array(FRAME_HEADER_BYTES)));
    bytes.writeUInt32LE(PAYLOAD_BYTES_MAX.pages, 24);
    expect(errorOf(bytes)).toMatchObject({
      code: 'ERR_INTEGRITY_FRAME_CRC',
      details: { part: 'header' },
    });
  });

  it('knows every kind by its number', () => {
    for (const [kind, number] of Object.entries(KIND_NUMBERS))
      expect(kindOfNumber(number)).toBe(kind);
    expect(new Set(Object.values(KIND_NUMBERS)).size).toBe(Object.keys(KIND_NUMBERS).length);
  });
});
