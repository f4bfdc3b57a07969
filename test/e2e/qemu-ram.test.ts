/**
 * Goal: the RAM of a copy stays its own wherever it is kept, through a failover and beyond.
 * Method: real nodes and a real QEMU; a tmpfs that fills while the machine is protected, and huge pages.
 */
import { readdirSync, readFileSync, statfsSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { filledUp, freeHugePages, moreHugePages, mounted } from '../support/memory-places.ts';
import {
  copiesOf,
  killed,
  LuckStage,
  type Side,
  until,
  untilStatus,
  WAIT_MS,
} from '../support/qemu/luck-stage.ts';
import { requireQemu } from '../support/qemu/require-qemu.ts';
import { requireRoot } from '../support/require.ts';

const canRun = (await requireQemu()) && requireRoot('tests on places for RAM');
const MEMORY_MIB = 128;
const HUGE_PAGES = MEMORY_MIB / 2;

describe.runIf(canRun)('the RAM of a copy', { timeout: 4 * WAIT_MS }, () => {
  let stage: LuckStage;
  const cleanups: (() => void)[] = [];
  beforeEach(async () => {
    stage = await LuckStage.open();
  });
  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).toReversed()) cleanup();
    await stage.close();
  });

  /** The guest on that side says more, and finds its memory whole. */
  async function goesOn(side: Side): Promise<void> {
    const { lines } = stage.consoleOf(side);
    await stage.consoleOf(side).waitFor('more', (text) => text.startsWith('c '), {
      withinMs: WAIT_MS,
      after: lines.length,
    });
    expect((await stage.ask(side, 'check'))[0]).toMatch(/^ok /);
  }

  async function expectEqual(side: Side): Promise<void> {
    const scrub = await stage.run(['scrub', '--state-dir', stage.stateOf(side), '--json']);
    expect(JSON.parse(scrub.stdout)).toMatchObject({ match: true });
  }

  it('is all there when its tmpfs fills while the machine is protected, and after the failover', async () => {
    const directory = stage.path('ram');
    cleanups.push(mounted('tmpfs', directory, `size=${MEMORY_MIB + 16}M`));
    const machine = await stage.startMachine({ memoryMib: MEMORY_MIB });
    const a = stage.startNode('a', 'protect');
    const b = stage.startNode('b', 'backup', { extra: ['--ram-dir', directory] });
    await untilStatus(a, 'protection', ({ state }) => state === 'protected');
    expect(readdirSync(directory)).toEqual([]);
    // There is no room for two: the memory of one that is gone must be free before the next is made.
    const [copy = 0] = copiesOf(stage);
    process.kill(copy, 'SIGKILL');
    await until('another copy', () => copiesOf(stage).some((pid) => pid !== copy));
    const old = a.progress?.epoch ?? 0;
    await untilStatus(a, 'another', ({ state, epoch }) => state === 'protected' && epoch > old);
    expect(stage.logOf(b.child)).not.toMatch(/memory-room|ERR_HOST_SPACE/);
    filledUp(directory);
    const epoch = a.progress?.epoch ?? 0;
    await untilStatus(a, 'more epochs', (status) => status.epoch > epoch + 5);
    await expectEqual('a');
    await killed(machine);
    await untilStatus(b, 'the copy', ({ role }) => role === 'primary');
    await goesOn('b');
    expect(statfsSync(directory).bavail).toBe(0);
    await killed(b.child);
  });

  it('is of huge pages where the machine has them, on both sides in turn', async (context) => {
    const putBack = moreHugePages(2 * HUGE_PAGES);
    if (putBack === null) {
      context.skip();
      return;
    }
    cleanups.push(putBack);
    const free = freeHugePages();
    // On one side without a file, on the other in a directory.
    const directory = stage.path('huge');
    cleanups.push(mounted('hugetlbfs', directory, 'pagesize=2M'));
    const machine = await stage.startMachine({
      memoryMib: MEMORY_MIB,
      extraArgs: [
        '-object',
        `memory-backend-memfd,id=ram,size=${MEMORY_MIB}M,hugetlb=on,hugetlbsize=2M,prealloc=on`,
        '-machine',
        'memory-backend=ram',
      ],
    });
    expect(freeHugePages()).toBe(free - HUGE_PAGES);
    const a = stage.startNode('a', 'protect', { extra: ['--ram-dir', directory] });
    const b = stage.startNode('b', 'backup');
    await untilStatus(a, 'protection', ({ state }) => state === 'protected');
    expect(freeHugePages()).toBe(free - 2 * HUGE_PAGES);
    expect(hugeMappingsOf(copiesOf(stage)[0] ?? 0)).toContain(MEMORY_MIB * 1024);
    await expectEqual('a');
    await killed(machine);
    await untilStatus(b, 'the copy', ({ role }) => role === 'primary');
    await goesOn('b');
    await untilStatus(b, 'protection', ({ state }) => state === 'protected');
    expect(freeHugePages()).toBe(free - 2 * HUGE_PAGES);
    expect(hugeMappingsOf(copiesOf(stage)[0] ?? 0)).toContain(MEMORY_MIB * 1024);
    await expectEqual('b');
  });
});

/** Sizes in KiB of the mappings of huge pages that a process has. */
function hugeMappingsOf(pid: number): number[] {
  const mappings = readFileSync(`/proc/${pid}/smaps`, 'utf8').split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/);
  return mappings
    .filter((text) => /^KernelPageSize: +2048 kB$/m.test(text))
    .map((text) => Number(/^Size: +(\d+) kB$/m.exec(text)?.[1]));
}
