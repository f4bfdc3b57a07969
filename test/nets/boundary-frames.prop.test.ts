/** Goal: any cutting of a stream gives the same frames; any bytes give frames or one typed error. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import {
  BOUNDARY_PAYLOAD_BYTES_MAX,
  BoundaryDecoder,
  payloadOf,
  toBoundaryFrame,
} from '../../src/nets/boundary-frames.ts';

describe('BoundaryDecoder', () => {
  it('gives the same frames however the stream is cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 20 }),
        fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 20 }),
        (payloads, cuts) => {
          const stream = Buffer.concat(payloads.map((payload) => toBoundaryFrame(payload)));
          const decoder = new BoundaryDecoder();
          const frames: Buffer[] = [];
          let offset = 0;
          for (let index = 0; offset < stream.byteLength; index += 1) {
            const end = offset + (cuts[index % cuts.length] ?? 1);
            frames.push(...decoder.push(stream.subarray(offset, end)));
            offset = end;
          }
          expect(frames.map((frame) => payloadOf(frame).toString('hex'))).toEqual(
            payloads.map((payload) => Buffer.from(payload).toString('hex')),
          );
          expect(decoder.pendingBytes).toBe(0);
        },
      ),
    );
  });

  it('gives frames or one typed error for any bytes, and stays broken', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 64 }), { maxLength: 30 }), (chunks) => {
        const decoder = new BoundaryDecoder();
        let broken: unknown = null;
        for (const chunk of chunks) {
          try {
            for (const frame of decoder.push(Buffer.from(chunk))) {
              expect(frame.byteLength).toBeLessThanOrEqual(BOUNDARY_PAYLOAD_BYTES_MAX + 4);
              expect(broken).toBeNull();
            }
          } catch (error) {
            expect(error).toBeInstanceOf(RomulusError);
            expect(error).toMatchObject({ code: 'ERR_LIMIT_NET_FRAME' });
            if (broken !== null) expect(error).toBe(broken);
            broken = error;
          }
        }
      }),
    );
  });

  it('takes the longest frame and refuses the next longer one, both ways', () => {
    const longest = Buffer.alloc(BOUNDARY_PAYLOAD_BYTES_MAX, 7);
    expect(new BoundaryDecoder().push(toBoundaryFrame(longest))).toHaveLength(1);
    const header = Buffer.alloc(4);
    header.writeUInt32BE(BOUNDARY_PAYLOAD_BYTES_MAX + 1);
    expect(() => new BoundaryDecoder().push(header)).toThrow(/69633/);
    expect(() => toBoundaryFrame(Buffer.alloc(BOUNDARY_PAYLOAD_BYTES_MAX + 1))).toThrow(/69633/);
  });
});
