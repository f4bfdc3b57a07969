import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { asEpoch, asGeneration } from '../../src/base/units.ts';
import { encodeFrame, FrameDecoder, type Frame } from '../../src/codec/frame.ts';
import { KIND_NUMBERS, type FrameKind } from '../../src/codec/kinds.ts';

const kinds = fc.constantFrom(...(Object.keys(KIND_NUMBERS) as FrameKind[]));
const frames = fc.array(
  fc.record({
    kind: kinds,
    generation: fc.maxSafeNat().map(asGeneration),
    epoch: fc.maxSafeNat().map(asEpoch),
    payload: fc.uint8Array({ maxLength: 300 }),
  }),
  { maxLength: 8 },
);

function streamOf(list: readonly { kind: FrameKind; payload: Uint8Array }[]): Buffer {
  return Buffer.concat(
    list.flatMap((item) => {
      const header = { generation: asGeneration(0), epoch: asEpoch(0), ...item };
      return encodeFrame({ ...header, flags: 0 }, item.payload);
    }),
  );
}

function pushAll(decoder: FrameDecoder, stream: Uint8Array, cuts: readonly number[]): Frame[] {
  const positions = [...cuts.map((cut) => cut % (stream.byteLength + 1)), stream.byteLength];
  const result: Frame[] = [];
  let start = 0;
  for (const end of positions.sort((left, right) => left - right)) {
    // A fresh copy each time: a decoder that kept a view of a chunk across calls would show.
    const chunk = Uint8Array.from(stream.subarray(start, end));
    result.push(...decoder.push(chunk));
    start = end;
  }
  return result;
}

describe('FrameDecoder', () => {
  it('gives back what was encoded, however the stream is cut', () => {
    fc.assert(
      fc.property(frames, fc.array(fc.nat(), { maxLength: 20 }), (list, cuts) => {
        const decoder = new FrameDecoder();
        const decoded = pushAll(decoder, streamOf(list), cuts);
        decoder.end();
        expect(
          decoded.map(({ kind, generation, epoch, payload }) => ({
            kind,
            generation,
            epoch,
            payload: Uint8Array.from(payload),
          })),
        ).toEqual(list);
      }),
    );
  });

  it('gives frames or one typed error for any bytes, and the same error ever after', () => {
    fc.assert(
      fc.property(
        frames,
        fc.array(fc.record({ at: fc.nat(), value: fc.nat(255) }), { maxLength: 4 }),
        fc.array(fc.nat(), { maxLength: 10 }),
        fc.uint8Array({ maxLength: 60 }),
        (list, damage, cuts, tail) => {
          const stream = Buffer.concat([streamOf(list), tail]);
          for (const { at, value } of damage)
            if (stream.length > 0) stream[at % stream.length] = value;
          const decoder = new FrameDecoder();
          let fault: unknown;
          try {
            pushAll(decoder, stream, cuts);
            decoder.end();
          } catch (error) {
            fault = error;
          }
          if (fault === undefined) return;
          expect(fault).toBeInstanceOf(RomulusError);
          let again: unknown;
          try {
            decoder.push(Uint8Array.of(0));
          } catch (error) {
            again = error;
          }
          expect(again).toBe(fault);
        },
      ),
      { numRuns: 500 },
    );
  });

  it('never hands out damaged payloads: a changed byte is a fault or an untouched frame', () => {
    fc.assert(
      fc.property(frames, fc.nat(), fc.integer({ min: 1, max: 255 }), (list, at, flip) => {
        const stream = streamOf(list);
        if (stream.length === 0) return;
        const index = at % stream.length;
        stream[index] = (stream[index] ?? 0) ^ flip;
        expect(() => {
          const decoder = new FrameDecoder();
          decoder.push(stream);
          decoder.end();
        }).toThrow(RomulusError);
      }),
    );
  });
});
