/** Goal: what was written after an epoch is told, and what was not written since is not. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BLOCK_BYTES, BlockEpochs, type DiskStretch } from '../../src/disks/block-epochs.ts';

const DISKS = [5 * BLOCK_BYTES + 512, 3 * BLOCK_BYTES];

const stretch = fc
  .record({
    disk: fc.nat(1),
    from: fc.double({ min: 0, max: 1, noNaN: true }),
    byteCount: fc.integer({ min: 1, max: 2 * BLOCK_BYTES }),
  })
  .map(({ disk, from, byteCount }) => {
    const diskBytes = DISKS[disk] ?? 0;
    const offset = Math.floor(from * (diskBytes - 1));
    return { disk, offset, byteCount: Math.min(byteCount, diskBytes - offset) };
  });

function blocksOf({ offset, byteCount }: DiskStretch): number[] {
  const first = Math.floor(offset / BLOCK_BYTES);
  const last = Math.floor((offset + byteCount - 1) / BLOCK_BYTES);
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}

function bitsOf(blocks: readonly number[]): Uint8Array {
  const bits = new Uint8Array(1);
  for (const block of blocks) bits[0] = (bits[0] ?? 0) | (1 << block);
  return bits;
}

describe('BlockEpochs', () => {
  it('agrees with a list of all writes', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({ stretch, epoch: fc.integer({ min: 1, max: 9 }), later: fc.boolean() }),
          {
            maxLength: 30,
          },
        ),
        fc.nat(9),
        (writes, since) => {
          const epochs = new BlockEpochs(DISKS);
          const wanted = new Set<string>();
          for (const { stretch: at, epoch, later } of writes) {
            const blocks = blocksOf(at);
            if (later) epochs.noteLater(at.disk, bitsOf(blocks));
            else epochs.note(at, epoch);
            if (!later && epoch <= since) continue;
            for (const block of blocks) wanted.add(`${at.disk}/${block}`);
          }
          const told = new Set<string>();
          let bytes = 0;
          for (const { disk, offset, byteCount } of epochs.changedSince(since, 2 * BLOCK_BYTES)) {
            expect(byteCount).toBeGreaterThan(0);
            expect(byteCount).toBeLessThanOrEqual(2 * BLOCK_BYTES);
            expect(offset + byteCount).toBeLessThanOrEqual(DISKS[disk] ?? 0);
            for (let at = offset; at < offset + byteCount; at += BLOCK_BYTES)
              told.add(`${disk}/${at / BLOCK_BYTES}`);
            bytes += byteCount;
          }
          expect(told).toEqual(wanted);
          expect(epochs.bytesSince(since)).toBe(bytes);
        },
      ),
    );
  });

  it('counts what belongs to no epoch as later than all, until an image has it', () => {
    const epochs = new BlockEpochs(DISKS);
    epochs.noteLater(1, bitsOf([0]));
    expect(epochs.bytesSince(1e9)).toBe(BLOCK_BYTES);
    epochs.settle(7);
    expect(epochs.bytesSince(6)).toBe(BLOCK_BYTES);
    expect(epochs.bytesSince(7)).toBe(0);
  });
});
