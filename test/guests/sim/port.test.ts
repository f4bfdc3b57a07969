import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RomulusError } from '../../../src/base/errors.ts';
import {
  decodeMachineFrame,
  decodeWorldFrame,
  encodeMachineFrame,
  encodeWorldFrame,
  INPUT_DATA_BYTES_MAX,
  type MachineFrame,
  type WorldFrame,
} from '../../../src/guests/sim/port.ts';

const count = fc.nat({ max: Number.MAX_SAFE_INTEGER });
const seq = fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER });
const stream = fc.nat({ max: 0xffff_ffff });
const data = fc.uint8Array({ maxLength: 300 });

const machineFrame: fc.Arbitrary<MachineFrame> = fc.oneof(
  fc.record({
    kind: fc.constant('emit' as const),
    op: fc.constantFrom('beacon' as const, 'data' as const, 'close' as const),
    stream,
    seq,
    step: count,
    inputSeq: count,
    data,
  }),
  fc.record({ kind: fc.constant('line-open' as const), seq: count, step: count, inputSeq: count }),
);
const worldFrame: fc.Arbitrary<WorldFrame> = fc.oneof(
  fc.record({
    kind: fc.constant('input' as const),
    op: fc.constantFrom('open' as const, 'data' as const, 'close' as const),
    stream,
    seq,
    data,
  }),
  fc.record({ kind: fc.constant('acknowledge' as const), seq: count }),
  fc.record({ kind: fc.constant('hello' as const) }),
);

describe('port protocol', () => {
  it('reads what it wrote', () => {
    fc.assert(
      fc.property(machineFrame, (frame) => {
        expect(decodeMachineFrame(encodeMachineFrame(frame))).toEqual(frame);
      }),
    );
    fc.assert(
      fc.property(worldFrame, (frame) => {
        expect(decodeWorldFrame(encodeWorldFrame(frame))).toEqual(frame);
      }),
    );
  });

  it('answers any bytes with a frame or one typed error', () => {
    for (const decode of [decodeMachineFrame, decodeWorldFrame]) {
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
          try {
            decode(bytes);
          } catch (error) {
            expect(error).toBeInstanceOf(RomulusError);
            expect((error as RomulusError).code).toBe('ERR_PROTOCOL_PORT_FRAME');
          }
        }),
      );
    }
  });

  it('has the bytes that the documentation gives', () => {
    const emit = encodeMachineFrame({
      kind: 'emit',
      op: 'close',
      stream: 0x01020304,
      seq: 5,
      step: 6,
      inputSeq: 7,
      data: Uint8Array.of(0xaa),
    });
    expect(Buffer.from(emit).toString('hex')).toBe(
      '0102000004030201050000000000000006000000000000000700000000000000aa',
    );
    const acknowledge = encodeWorldFrame({ kind: 'acknowledge', seq: 9 });
    expect(Buffer.from(acknowledge).toString('hex')).toBe('02000000000000000900000000000000');
  });

  it('refuses an input that is too long on both ends', () => {
    const frame = {
      kind: 'input',
      op: 'data',
      stream: 1,
      seq: 1,
      data: new Uint8Array(INPUT_DATA_BYTES_MAX + 1),
    } as const;
    expect(() => encodeWorldFrame(frame)).toThrow(/too long/);
    const bytes = new Uint8Array(16 + INPUT_DATA_BYTES_MAX + 1);
    bytes[0] = 1;
    bytes[8] = 1;
    expect(() => decodeWorldFrame(bytes)).toThrow(/too long/);
  });
});
