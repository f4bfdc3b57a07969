/** Goal: whatever stands in a qcow2 file, its tables lead to places or to QEMU, never astray or to a crash. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RomulusError } from '../../../src/base/errors.ts';
import { ClusterMap } from '../../../src/disks/qcow2/cluster-map.ts';
import {
  clusterPlace,
  HEADER_BYTES,
  parseHeader,
  type Qcow2Header,
  tablePlace,
} from '../../../src/disks/qcow2/tables.ts';

const DISK_BYTES = 1024 * 1024;

/** A header of version 3 with clusters of 2^`clusterBits` bytes. */
function headerBytes(clusterBits: number, l1Offset: number, l1Entries: number): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES);
  bytes.writeUInt32BE(0x51_46_49_fb, 0);
  bytes.writeUInt32BE(3, 4);
  bytes.writeUInt32BE(clusterBits, 20);
  bytes.writeBigUInt64BE(BigInt(DISK_BYTES), 24);
  bytes.writeUInt32BE(l1Entries, 36);
  bytes.writeBigUInt64BE(BigInt(l1Offset), 40);
  return bytes;
}

function inMemory(bytes: Buffer): Parameters<typeof ClusterMap.open>[0] {
  return {
    path: 'memory',
    read: (offset, byteCount) => {
      if (offset + byteCount <= bytes.byteLength)
        return Promise.resolve(bytes.subarray(offset, offset + byteCount));
      return Promise.reject(new RomulusError('ERR_DISK_READ', 'too short', { remedy: 'none' }));
    },
  };
}

const header: Qcow2Header = {
  version: 3,
  clusterBytes: 65_536,
  diskBytes: DISK_BYTES,
  l1Offset: 65_536,
  l1Entries: 1,
  snapshots: 0,
};

describe('tables of a qcow2 file', () => {
  it('any header is read, or it is said why not', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 2 * HEADER_BYTES }), (noise) => {
        const parsed = parseHeader(Buffer.from(noise));
        expect(typeof parsed).toBe('string');
      }),
    );
    fc.assert(
      fc.property(fc.nat({ max: HEADER_BYTES - 1 }), fc.nat({ max: 255 }), (at, value) => {
        const bytes = headerBytes(16, 65_536, 1);
        bytes[at] = value;
        const parsed = parseHeader(bytes);
        if (typeof parsed === 'string') return;
        expect(parsed.clusterBytes).toBeGreaterThanOrEqual(512);
        expect(parsed.clusterBytes).toBeLessThanOrEqual(2 * 1024 * 1024);
        expect(parsed.l1Offset % 512).toBe(0);
      }),
    );
  });

  it.each([
    ['a backing file', 15, 1],
    ['encryption', 32, 2],
    ['corrupt', 79, 2],
    ['an external data file', 79, 4],
    ['extended L2 entries', 79, 16],
    ['a feature nobody knows', 72, 128],
    ['version 4', 7, 4],
  ])('leaves to QEMU: %s', (_, at, value) => {
    const bytes = headerBytes(16, 65_536, 1);
    expect(parseHeader(bytes)).toMatchObject({ clusterBytes: 65_536, l1Offset: 65_536 });
    bytes[at] = value;
    expect(typeof parseHeader(bytes)).toBe('string');
  });

  it('an entry leads to an aligned place, to zeros, or to QEMU', () => {
    const copied = 1n << 63n;
    expect(clusterPlace(copied | 0x50000n, header)).toBe(0x50000);
    // Shared with a snapshot: a write moves it.
    expect(clusterPlace(0x50000n, header)).toBe('unknown');
    expect(tablePlace(0x50000n, header)).toBe('unknown');
    expect(clusterPlace(0n, header)).toBe('zeros');
    expect(clusterPlace(copied | 0x50001n, header)).toBe('zeros');
    expect(clusterPlace(1n << 62n, header)).toBe('unknown');
    expect(tablePlace(0n, header)).toBeNull();
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (entry) => {
        for (const place of [clusterPlace(entry, header), tablePlace(entry, header)])
          if (typeof place === 'number') {
            expect(place % header.clusterBytes).toBe(0);
            expect(Number.isSafeInteger(place)).toBe(true);
          }
      }),
    );
  });

  it('any tables give runs that cover the stretch, or one typed error', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ minLength: 512, maxLength: 4096 }),
        fc.nat({ max: DISK_BYTES - 1 }),
        fc.integer({ min: 1, max: DISK_BYTES }),
        async (noise, offset, length) => {
          const byteCount = Math.min(length, DISK_BYTES - offset);
          const file = Buffer.concat([headerBytes(9, 512, 4), Buffer.alloc(408), noise]);
          const map = await ClusterMap.open(inMemory(file), DISK_BYTES);
          try {
            const runs = await map.runs(offset, byteCount);
            expect(runs.reduce((sum, run) => sum + run.byteCount, 0)).toBe(byteCount);
            expect(typeof (await map.isMostlyPlain())).toBe('boolean');
          } catch (error) {
            expect(error).toMatchObject({ code: 'ERR_DISK_READ' });
          }
        },
      ),
    );
  });
});
