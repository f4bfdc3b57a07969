/** Goal: the replica equals the disk after every epoch, and nothing outside it is ever touched. */
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { compareDisks, digestDisk, DiskReplica } from '../../src/disks/replica.ts';

const DISK_BYTES = 2_500_000;

describe('DiskReplica', () => {
  let directory: string;
  let path: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'romulus-replica-'));
    path = join(directory, 'replica');
    writeFileSync(path, Buffer.alloc(DISK_BYTES, 0xaa));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true });
  });

  it.each(['commit', 'off'] as const)('applies a first copy and epochs in order (%s)', (sync) => {
    const replica = new DiskReplica({ target: { path }, diskBytes: DISK_BYTES, sync });
    const expected = Buffer.alloc(DISK_BYTES);
    expected.write('base', 0);
    replica.applyBase({ offset: 0, byteCount: 4, data: Buffer.from('base') });
    replica.applyBase({ offset: 4, byteCount: DISK_BYTES - 4, data: null });
    replica.apply([
      { offset: 1, data: Buffer.from('xyz') },
      { offset: 2, data: Buffer.from('Y') },
    ]);
    replica.apply([]);
    replica.apply([{ offset: 100, data: Buffer.from('gone') }]);
    replica.apply([{ offset: 100, byteCount: 4, data: null }]);
    expected.write('xYz', 1);
    expect(readFileSync(path).equals(expected)).toBe(true);
    expect(replica.writesApplied).toBe(4);
    expect(replica.digest()).toBe(digestDisk(replica.fd, DISK_BYTES));
    replica.close();
    replica.close();
  });

  it('applies nothing of an epoch with a write outside the disk', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.constantFrom(-1, Number.NaN, 0.5, Number.MAX_SAFE_INTEGER, DISK_BYTES),
          fc.integer({ min: DISK_BYTES - 3, max: DISK_BYTES + 1000 }),
        ),
        (offset) => {
          const replica = new DiskReplica({
            target: { path },
            diskBytes: DISK_BYTES,
            sync: 'off',
          });
          const before = replica.digest();
          const writes = [
            { offset: 0, data: Buffer.from('good') },
            { offset, data: Buffer.from('bad!') },
          ];
          expect(() => {
            replica.apply(writes);
          }).toThrow(/outside/);
          expect(replica.digest()).toBe(before);
          replica.close();
        },
      ),
      { numRuns: 20 },
    );
  });

  it('leaves a descriptor that was given to it open, and refuses a replica that is too small', () => {
    const fd = openSync(path, 'r+');
    const replica = new DiskReplica({ target: { fd }, diskBytes: DISK_BYTES, sync: 'off' });
    replica.close();
    expect(digestDisk(fd, DISK_BYTES)).toMatch(/^[0-9a-f]{64}$/);
    expect(
      () => new DiskReplica({ target: { fd }, diskBytes: DISK_BYTES + 1, sync: 'off' }),
    ).toThrow(/holds 2500000/);
    closeSync(fd);
    const missing = { path: join(directory, 'none') };
    expect(() => new DiskReplica({ target: missing, diskBytes: 1, sync: 'off' })).toThrow(/ENOENT/);
  });

  it('finds the first byte in which two disks differ', () => {
    const otherPath = join(directory, 'other');
    const other = readFileSync(path);
    other[1_500_001] = 1;
    writeFileSync(otherPath, other);
    const [left, right] = [openSync(path, 'r'), openSync(otherPath, 'r')];
    expect(compareDisks(left, right, DISK_BYTES)).toBe(1_500_001);
    expect(compareDisks(left, right, 1_500_001)).toBe(-1);
    closeSync(left);
    closeSync(right);
  });
});
