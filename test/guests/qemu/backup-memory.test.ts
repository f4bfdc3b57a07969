/**
 * Goal: the backup's memory cannot be missing when it is touched, wherever it is kept, and a place without
 * room says so in time. Method: a small tmpfs, and the host's huge pages, that others fill.
 */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MIB, PAGE_BYTES } from '../../../src/base/units.ts';
import {
  type BackupBlock,
  type MainMemory,
  makeBackupMemory,
  reserveBackupMemory,
} from '../../../src/guests/qemu/incoming/backup-memory.ts';
import { directoryRoom, hostRoom } from '../../../src/guests/qemu/incoming/memory-room.ts';
import { hugepageBytesOf } from '../../../src/guests/qemu/profile/process.ts';
import { Baseline, PageImage } from '../../../src/native/page-store.ts';
import {
  filledUp,
  freeHugePages,
  HUGE_PAGE_BYTES,
  moreHugePages,
  mounted,
} from '../../support/memory-places.ts';
import { requireRoot } from '../../support/require.ts';

const isRoot = requireRoot('tests that mount a small tmpfs');
const BLOCKS = [
  { id: 0, name: 'main', bytes: 16 * MIB },
  { id: 1, name: 'rom', bytes: 64 * 1024 },
];
const MAIN: MainMemory = { isMain: ({ name }) => name === 'main' };

let folder: string;
const cleanups: (() => void)[] = [];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'romulus-ram-'));
  cleanups.push(() => rmSync(folder, { recursive: true }));
});
afterEach(() => {
  for (const cleanup of cleanups.splice(0).toReversed()) cleanup();
});

function made(main: MainMemory, blocks = BLOCKS): { main: BackupBlock; rom: BackupBlock } {
  const all = makeBackupMemory(blocks, main);
  cleanups.push(() => all.forEach(({ memory }) => memory.close()));
  const [first, second] = all;
  if (first === undefined || second === undefined) throw new Error('blocks are missing');
  return { main: first, rom: second };
}

/** Writes every page: who lacks one dies of it. */
function touchAll({ memory, bytes }: BackupBlock): void {
  for (let at = 0; at < bytes; at += PAGE_BYTES) memory.write(at, Buffer.from([7]));
}

describe('the memory of a copy', () => {
  it('is taken page by page where only the host bounds it', async () => {
    const { main, rom } = made(MAIN);
    await reserveBackupMemory([main, rom], MAIN);
    expect([main.isReserved, rom.isReserved]).toEqual([false, false]);
    expect(main.memory.populatedBytes()).toBe(0);
  });

  it('is refused with the numbers where the host has it not, and nothing is made', () => {
    const blocks = [{ id: 0, name: 'main', bytes: 2 ** 43 }];
    expect(() => makeBackupMemory(blocks, MAIN)).toThrow(
      expect.objectContaining({
        code: 'ERR_HOST_SPACE',
        message: expect.stringMatching(/8388608 MiB/),
      }),
    );
    const huge = { ...MAIN, hugePageBytes: new Map([['main', 3 * MIB]]) };
    expect(() => makeBackupMemory(blocks, huge)).toThrow(/pool of 3072 KiB pages has 0 MiB free/);
    const nowhere = { ...MAIN, directory: join(folder, 'nowhere') };
    expect(() => makeBackupMemory(BLOCKS, nowhere)).toThrow(/no memory can be had at .*nowhere/);
  });
});

describe('the room of a host', () => {
  /** A host of 8 GiB whose control groups say this, by their files. */
  function room(membership: string, files: Readonly<Record<string, string>>): number {
    const all = {
      'proc/meminfo': 'MemTotal: 9999999 kB\nMemAvailable:    8388608 kB\n',
      'proc/self/cgroup': membership,
      ...files,
    };
    for (const [path, text] of Object.entries(all)) {
      mkdirSync(join(folder, dirname(path)), { recursive: true });
      writeFileSync(join(folder, path), `${text}\n`);
    }
    return hostRoom(folder).freeBytes / MIB;
  }

  it('is what is available where no control group limits it', () => {
    expect(room('0::/\n', {})).toBe(8192);
    const group = 'sys/fs/cgroup/a';
    expect(
      room('0::/a\n', { [`${group}/memory.max`]: 'max', [`${group}/memory.current`]: '1' }),
    ).toBe(8192);
  });

  it('is what the tightest of its control groups leaves, what is cached counted as free', () => {
    const { outer, inner } = { outer: 'sys/fs/cgroup/a', inner: 'sys/fs/cgroup/a/b.service' };
    const limits = (outerMib: number): Record<string, string> => ({
      [`${outer}/memory.max`]: `${outerMib * MIB}`,
      [`${outer}/memory.current`]: `${600 * MIB}`,
      [`${outer}/memory.stat`]: `anon 5\ninactive_file ${64 * MIB}\nactive_file ${36 * MIB}\nshmem 7`,
      [`${inner}/memory.max`]: `${2048 * MIB}`,
      [`${inner}/memory.current`]: `${48 * MIB}`,
    });
    expect(room('0::/a/b.service\n', limits(1000))).toBe(500);
    expect(room('0::/a/b.service\n', limits(9000))).toBe(2000);
    expect(room('0::/a/b.service\n', limits(100))).toBe(0);
  });

  it('is what is available where a control group does not tell its limit', () => {
    // Whoever reads a directory fails, root too.
    mkdirSync(join(folder, 'sys/fs/cgroup/a/memory.max'), { recursive: true });
    expect(room('0::/a\n', {})).toBe(8192);
  });

  it('knows the groups of the first version, also from inside a container', () => {
    const mount = 'sys/fs/cgroup/memory';
    const limits = {
      [`${mount}/memory.limit_in_bytes`]: `${300 * MIB}`,
      [`${mount}/memory.usage_in_bytes`]: `${200 * MIB}`,
      [`${mount}/memory.stat`]: `inactive_file 99\ntotal_inactive_file ${20 * MIB}`,
    };
    expect(room('5:cpu,memory:/docker/1234\n0::/\n', limits)).toBe(120);
  });
});

describe.runIf(isRoot)('the memory of a copy on a small tmpfs', () => {
  let small: string;
  beforeEach(() => {
    small = join(folder, 'small');
    cleanups.push(mounted('tmpfs', small, 'size=20M'));
  });

  it('is there however full the tmpfs gets, and zeros do not give it back', async () => {
    const places = { ...MAIN, directory: small };
    const { main, rom } = made(places);
    await reserveBackupMemory([main, rom], places);
    expect(readdirSync(small)).toEqual([]);
    expect(main.memory.populatedBytes()).toBe(BLOCKS[0]?.bytes);
    filledUp(small);
    expect(statfsSync(small).bavail).toBe(0);
    touchAll(main);
    const pages = main.bytes / PAGE_BYTES;
    const baseline = new Baseline({ pages });
    cleanups.push(() => baseline.close());
    const image = new PageImage({ memory: main.memory, blockId: 0, keepsPages: main.isReserved });
    const indexes = Uint32Array.from({ length: pages }, (_, index) => index);
    const zeros = new Uint8Array(main.bytes);
    for (const batch of baseline.encodePages(indexes, zeros, { blockId: 0, epoch: 1, mode: 'full' })
      .batches)
      image.apply(batch);
    expect(main.memory.read(0, main.bytes).equals(zeros)).toBe(true);
    expect(image.digest()).toBe(0n);
    expect(statfsSync(small).bavail).toBe(0);
    touchAll(main);
  });

  it('is refused when the tmpfs was filled between the look and the taking, and leaves it as it was', async () => {
    const places = { ...MAIN, directory: small };
    const all = makeBackupMemory(BLOCKS, places);
    const fill = filledUp(small);
    rmSync(fill);
    const free = statfsSync(small).bavail;
    filledUp(small);
    const refused = reserveBackupMemory(all, places);
    await expect(refused).rejects.toMatchObject({
      code: 'ERR_HOST_SPACE',
      message: expect.stringMatching(/small cannot hold RAM block main: .*No space left/),
      remedy: expect.stringMatching(/^Free memory/),
    });
    for (const { memory } of all) memory.close();
    rmSync(fill);
    expect(statfsSync(small).bavail).toBe(free);
    expect(readdirSync(small)).toEqual([]);
  });

  it('is measured by the limit of the tmpfs, or by the host where it has none', () => {
    expect(directoryRoom(small)).toEqual({ pageBytes: PAGE_BYTES, freeBytes: 20 * MIB });
    const endless = join(folder, 'endless');
    cleanups.push(mounted('tmpfs', endless, 'size=0'));
    const { freeBytes } = directoryRoom(endless);
    expect(freeBytes).toBeGreaterThan(0);
    expect(freeBytes).toBeLessThanOrEqual(2 * hostRoom().freeBytes);
  });
});

describe('the memory of a copy in huge pages', () => {
  it('is taken beforehand, with a directory or without, also where a block is no whole number of them', async (context) => {
    const putBack = isRoot ? moreHugePages(32) : null;
    if (putBack === null) {
      context.skip();
      return;
    }
    cleanups.push(putBack);
    const directory = join(folder, 'huge');
    cleanups.push(mounted('hugetlbfs', directory, `pagesize=2M`));
    expect(directoryRoom(directory).freeBytes).toBeGreaterThanOrEqual(32 * HUGE_PAGE_BYTES);
    const blocks = BLOCKS.map(({ id, name, bytes }) => ({
      id,
      name,
      bytes: bytes + 2 * PAGE_BYTES,
    }));
    for (const places of [
      { ...MAIN, directory },
      { ...MAIN, hugePageBytes: new Map([['main', HUGE_PAGE_BYTES]]) },
    ]) {
      const before = freeHugePages();
      const { main, rom } = made(places, blocks);
      await reserveBackupMemory([main, rom], places);
      expect(main.memory.populatedBytes()).toBe(18 * MIB);
      expect(freeHugePages()).toBe(before - 9);
      expect(hugepageBytesOf(process.pid, `/proc/self/fd/${main.memory.fd}`)).toBe(HUGE_PAGE_BYTES);
      expect(hugepageBytesOf(process.pid, `/proc/self/fd/${rom.memory.fd}`)).toBeNull();
      touchAll(main);
      main.memory.close();
      expect(freeHugePages()).toBe(before);
    }
    const tooMany = new Map([['main', HUGE_PAGE_BYTES]]);
    const large = [{ id: 0, name: 'main', bytes: 2 ** 43 }];
    expect(() => makeBackupMemory(large, { ...MAIN, hugePageBytes: tooMany })).toThrow(
      expect.objectContaining({ code: 'ERR_HOST_SPACE' }),
    );
  });
});
