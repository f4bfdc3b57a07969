// Goal: only an epoch whose every frame is here, in place, counts as whole.
import { describe, expect, it } from 'vitest';
import { asEpoch, asGeneration } from '../../src/base/units.ts';
import { Compressor } from '../../src/codec/compress.ts';
import { type Frame, FrameDecoder } from '../../src/codec/frame.ts';
import { decodeMessage } from '../../src/codec/messages.ts';
import type { CheckpointResult } from '../../src/engine/capture-types.ts';
import { EpochAssembler, type WholeEpoch } from '../../src/engine/epoch-assembler.ts';
import { epochFrames } from '../../src/engine/epoch-frames.ts';

const GENERATION = asGeneration(3);

function checkpoint(epoch: number): CheckpointResult {
  const batch = new Uint8Array(16 + 8);
  new DataView(batch.buffer).setUint32(0, 1, true);
  return {
    epoch,
    framesSent: 7,
    diskWrites: 1,
    position: 0,
    batches: [{ payload: batch, crc: null, compressed: false, pages: 1 }],
    deviceState: new Uint8Array(0),
    deviceStateBytes: 100,
    totals: { pages: 1, unchanged: 0, rawBytes: 4096, sealedBytes: 24, encodeMs: 0 },
    pauseMs: 1,
    stopMs: 0,
    scanMs: 0,
    copyMs: 0,
    stateMs: 0,
    resumeMs: 0,
  };
}

function framesOf(epoch: number): Frame[] {
  const { frames } = epochFrames(
    checkpoint(epoch),
    [{ disk: 0, offset: 512, lengthBytes: 4, data: Uint8Array.of(1, 2, 3, 4) }],
    { generation: GENERATION, compressor: new Compressor(), startedAtNs: 5n },
  );
  const decoder = new FrameDecoder();
  return frames.flatMap((parts) => decoder.push(Buffer.concat(parts)));
}

function assemble(frames: readonly Frame[]): WholeEpoch | null {
  const assembler = new EpochAssembler();
  for (const frame of frames) {
    if (frame.kind === 'epochBegin') assembler.begin(frame.epoch);
    else if (frame.kind !== 'epochEnd') assembler.add(frame);
    else {
      const end = decodeMessage(frame);
      if (end.kind === 'epochEnd') return assembler.end(end);
    }
  }
  return null;
}

describe('EpochAssembler', () => {
  it('accepts what epochFrames made', () => {
    const whole = assemble(framesOf(4));
    expect(whole?.epoch).toBe(asEpoch(4));
    expect(whole?.frames.map((frame) => frame.kind)).toEqual([
      'pages',
      'disk',
      'deviceState',
      'outputMark',
    ]);
  });

  it('refuses an epoch in which any one frame is missing, repeated or swapped', () => {
    const frames = framesOf(4);
    for (let index = 1; index < frames.length - 1; index += 1) {
      const frame = frames[index] as Frame;
      expect(assemble(frames.toSpliced(index, 1)), `without ${frame.kind}`).toBeNull();
      expect(assemble(frames.toSpliced(index, 0, frame)), `twice ${frame.kind}`).toBeNull();
      if (index > 1) {
        const swapped = frames.toSpliced(index - 1, 2, frame, frames[index - 1] as Frame);
        expect(assemble(swapped), `swapped ${frame.kind}`).toBeNull();
      }
    }
  });

  it('throws when frames of two epochs mix', () => {
    const mixed = [...framesOf(4).slice(0, 2), ...framesOf(5).slice(1)];
    expect(() => assemble(mixed)).toThrow(/epoch 5/);
  });
});
