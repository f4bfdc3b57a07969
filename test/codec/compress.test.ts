import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.ts';
import { Compressor, decompress } from '../../src/codec/compress.ts';

const text = (bytes: number): Buffer => Buffer.alloc(bytes, 'the quick brown fox jumps over it. ');

function noise(bytes: number, seed = 1): Buffer {
  const prng = new Prng(seed);
  const buffer = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += 1) buffer[at] = prng.nextBelow(256);
  return buffer;
}

describe('Compressor', () => {
  it('compresses what shrinks, and what comes back is the same', () => {
    const payload = text(100_000);
    const compressed = new Compressor().compress('pages', [payload]);
    expect(compressed?.byteLength).toBeLessThan(2000);
    expect(payload.equals(decompress('pages', compressed ?? Buffer.alloc(0)))).toBe(true);
  });

  it('takes a payload in parts as one', () => {
    const parts = [text(1000), noise(100), text(1000)];
    const compressed = new Compressor().compress('disk', parts);
    expect(Buffer.concat(parts).equals(decompress('disk', compressed ?? Buffer.alloc(0)))).toBe(
      true,
    );
  });

  it('keeps a result only when it saves an eighth', () => {
    const barely = Buffer.concat([noise(9000), Buffer.alloc(900)]);
    const enough = Buffer.concat([noise(8000), Buffer.alloc(1500)]);
    expect(new Compressor().compress('pages', [barely])).toBeNull();
    const kept = new Compressor().compress('pages', [enough]);
    expect(kept?.byteLength).toBeLessThanOrEqual(Math.floor(9500 * (7 / 8)));
  });

  it('leaves short payloads alone', () => {
    expect(new Compressor().compress('pages', [Buffer.alloc(255)])).toBeNull();
  });

  it('tries ever less often what never shrinks, and notices when it does', () => {
    const compressor = new Compressor();
    const payload = noise(4096);
    for (let frame = 0; frame < 1000; frame += 1) {
      expect(compressor.compress('pages', [payload])).toBeNull();
    }
    let frames = 0;
    while (compressor.compress('pages', [text(4096)]) === null) frames += 1;
    expect(frames).toBeLessThanOrEqual(64);
    // From the first success on, every frame is tried again.
    for (let frame = 0; frame < 10; frame += 1) {
      expect(compressor.compress('pages', [text(4096)])).not.toBeNull();
    }
  });

  it('remembers each kind by itself', () => {
    const compressor = new Compressor();
    for (let frame = 0; frame < 100; frame += 1) compressor.compress('pages', [noise(4096, frame)]);
    expect(compressor.compress('disk', [text(4096)])).not.toBeNull();
  });

  it('does not hand out memory that it will use again', () => {
    const compressor = new Compressor();
    const first = compressor.compress('pages', [text(5000)]);
    const copy = Buffer.from(first ?? []);
    compressor.compress('pages', [Buffer.alloc(5000, 'xyz')]);
    expect(copy.equals(first ?? Buffer.alloc(0))).toBe(true);
  });
});

describe('decompress', () => {
  it('gives back any payload, or refuses any bytes with a typed error', () => {
    const payloads = fc.oneof(
      fc.uint8Array({ minLength: 256, maxLength: 2000 }),
      fc
        .tuple(fc.uint8Array({ minLength: 1, maxLength: 8 }), fc.integer({ min: 50, max: 500 }))
        .map(([unit, count]) => Buffer.concat(Array.from({ length: count }, () => unit))),
    );
    fc.assert(
      fc.property(payloads, fc.nat(), fc.nat(255), (payload, at, value) => {
        const compressed = new Compressor().compress('pages', [payload]);
        if (compressed === null) return;
        expect(Buffer.compare(decompress('pages', compressed), payload)).toBe(0);
        compressed[at % compressed.byteLength] = value;
        try {
          decompress('pages', compressed);
        } catch (error) {
          expect(error).toHaveProperty(
            'code',
            expect.stringMatching(/^ERR_(PROTOCOL_LZ4|LIMIT_FRAME)$/),
          );
        }
      }),
    );
  });
});
