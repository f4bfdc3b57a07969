import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  FrameSplitter,
  frameForLine,
  LINE_FRAME_BYTES_MAX,
} from '../../src/drill/frame-splitter.ts';

describe('the frame splitter', () => {
  it('gives back what was framed, however it is cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 20 }),
        fc.array(fc.integer({ min: 1, max: 97 }), { minLength: 1, maxLength: 40 }),
        (payloads, cuts) => {
          const bytes = Buffer.concat(payloads.map((payload) => frameForLine(payload)));
          const splitter = new FrameSplitter();
          const seen: Buffer[] = [];
          for (let at = 0, turn = 0; at < bytes.byteLength; turn += 1) {
            const step = cuts[turn % cuts.length] ?? 1;
            for (const payload of splitter.push(bytes.subarray(at, at + step)))
              seen.push(Buffer.from(payload));
            at += step;
          }
          expect(seen.map((one) => one.toString('hex'))).toEqual(
            payloads.map((one) => Buffer.from(one).toString('hex')),
          );
        },
      ),
    );
  });

  it('refuses a length beyond the bound at once', () => {
    const header = Buffer.alloc(4);
    header.writeUInt32BE(LINE_FRAME_BYTES_MAX + 1);
    expect(() => new FrameSplitter().push(header)).toThrow(/69633/);
  });
});
