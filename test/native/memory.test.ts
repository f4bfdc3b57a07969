/** Memory: bounds, sharing between mappings, holes that stay holes, comparison. */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { MIB, PAGE_BYTES } from '../../src/base/units.ts';
import { Memory } from '../../src/native/memory.ts';

const open: Memory[] = [];
function keep(memory: Memory): Memory {
  open.push(memory);
  return memory;
}
function create(bytes: number): Memory {
  return keep(Memory.create({ name: 'romulus-test', bytes }));
}
afterEach(() => {
  for (const memory of open.splice(0)) memory.close();
});

describe('Memory', () => {
  test('starts as zeros that take no memory, and reading keeps it so', () => {
    const memory = create(16 * MIB);
    expect(memory.read(5 * MIB, PAGE_BYTES).equals(Buffer.alloc(PAGE_BYTES))).toBe(true);
    expect(memory.populatedBytes()).toBe(0);
  });

  test('is taken as a whole when it is allocated, also when it is closed meanwhile', async () => {
    const memory = create(16 * MIB);
    await memory.allocate();
    expect(memory.populatedBytes()).toBe(16 * MIB);
    expect(memory.read(5 * MIB, PAGE_BYTES).equals(Buffer.alloc(PAGE_BYTES))).toBe(true);
    const closed = create(16 * MIB);
    const allocated = closed.allocate();
    closed.close();
    await allocated;
    const refused = expect.objectContaining({ code: 'ERR_USAGE_CLOSED' });
    await expect(closed.allocate()).rejects.toEqual(refused);
  });

  test.each([0.5, 3000, PAGE_BYTES, 3 * MIB])('has no huge pages of %d bytes', (hugePageBytes) => {
    expect(() => Memory.create({ name: 'odd', bytes: MIB, hugePageBytes })).toThrow(
      expect.objectContaining({ code: expect.stringMatching(/^ERR_USAGE_(NUMBER|MEMORY_SIZE)$/) }),
    );
  });

  test('a second mapping of the descriptor or the path shares the bytes', () => {
    const memory = create(MIB);
    const byFd = keep(Memory.map({ fd: memory.fd, bytes: MIB, writable: true }));
    const byPath = keep(
      Memory.map({ path: `/proc/self/fd/${memory.fd}`, bytes: MIB, writable: false }),
    );
    memory.write(8190, Buffer.from('across a page'));
    expect(byFd.read(8190, 13).toString()).toBe('across a page');
    byFd.write(0, Buffer.from('back'));
    expect(byPath.read(0, 4).toString()).toBe('back');
    expect(memory.populatedBytes()).toBe(3 * PAGE_BYTES);
    expect(() => byPath.write(0, Buffer.from('no'))).toThrow(
      expect.objectContaining({ code: 'ERR_USAGE_READ_ONLY' }),
    );
  });

  test('refuses what lies outside', () => {
    const memory = create(MIB);
    const outside = expect.objectContaining({ code: 'ERR_USAGE_RANGE' });
    expect(() => memory.read(MIB, 1)).toThrow(outside);
    expect(() => memory.read(1, MIB)).toThrow(outside);
    expect(() => memory.write(MIB - 1, Buffer.alloc(2))).toThrow(outside);
    expect(() => memory.read(Number.MAX_SAFE_INTEGER, 2)).toThrow(outside);
    expect(() => memory.read(-1, 2)).toThrow(expect.objectContaining({ code: 'ERR_USAGE_NUMBER' }));
    expect(() => memory.read(0.5, 2)).toThrow(
      expect.objectContaining({ code: 'ERR_USAGE_NUMBER' }),
    );
    expect(memory.read(MIB, 0).length).toBe(0);
  });

  test.each([0, 100, -PAGE_BYTES, 2 ** 45, Number.NaN])('refuses a size of %d bytes', (bytes) => {
    expect(() => Memory.create({ name: 'odd', bytes })).toThrow(
      expect.objectContaining({ name: 'RomulusError', remedy: expect.any(String) }),
    );
  });

  test('refuses a file that is too small, a missing path and a closed descriptor', () => {
    const folder = mkdtempSync(join(tmpdir(), 'romulus-memory-'));
    const path = join(folder, 'ram');
    const fd = openSync(path, 'w+');
    try {
      ftruncateSync(fd, PAGE_BYTES);
      expect(() => Memory.map({ path, bytes: MIB, writable: true })).toThrow(
        expect.objectContaining({ code: 'ERR_HOST_MEMORY_SIZE' }),
      );
      expect(() => Memory.map({ path: `${path}-none`, bytes: MIB, writable: true })).toThrow(
        expect.objectContaining({ code: 'ERR_HOST_MEMORY_MAP' }),
      );
      expect(() => Memory.map({ fd: 987_654, bytes: MIB, writable: true })).toThrow(
        expect.objectContaining({ code: 'ERR_HOST_MEMORY_MAP' }),
      );
      expect(() => Memory.map({ path: '/dev/null', bytes: MIB, writable: true })).toThrow(
        expect.objectContaining({ code: 'ERR_HOST_MEMORY_SIZE' }),
      );
    } finally {
      closeSync(fd);
      rmSync(folder, { recursive: true });
    }
  });

  test('finds the first page that differs, and takes holes for zeros', () => {
    const left = create(64 * MIB);
    const right = create(64 * MIB);
    expect(left.compare(right)).toBe(-1);
    left.write(7 * PAGE_BYTES, Buffer.alloc(PAGE_BYTES));
    right.write(9000 * PAGE_BYTES, Buffer.alloc(3 * PAGE_BYTES));
    expect(left.compare(right)).toBe(-1);
    right.write(9001 * PAGE_BYTES + 4095, Buffer.from([1]));
    expect(left.compare(right)).toBe(9001);
    expect(right.compare(left)).toBe(9001);
    left.write(9001 * PAGE_BYTES + 4095, Buffer.from([1]));
    expect(left.compare(right)).toBe(-1);
    left.write(64 * MIB - 1, Buffer.from([7]));
    expect(right.compare(left)).toBe((64 * MIB) / PAGE_BYTES - 1);
    left.write(0, Buffer.from([7]));
    expect(right.compare(left)).toBe(0);
    expect(left.populatedBytes()).toBe(4 * PAGE_BYTES);
    expect(() => left.compare(create(MIB))).toThrow(
      expect.objectContaining({ code: 'ERR_USAGE_MEMORY_SIZE' }),
    );
  });

  test('close is idempotent, and use after it is refused', () => {
    const memory = create(MIB);
    memory.close();
    memory.close();
    expect(() => memory.read(0, 1)).toThrow(expect.objectContaining({ code: 'ERR_USAGE_CLOSED' }));
  });
});
