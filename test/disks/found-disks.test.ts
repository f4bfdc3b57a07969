/** Goal: a mirror is trusted only where it is above the very image that was looked at. */
import { describe, expect, it } from 'vitest';
import { expectAsFound, findDisks } from '../../src/disks/found-disks.ts';
import type { DiskMonitor } from '../../src/disks/qemu-mirror.ts';

interface Node {
  readonly 'node-name': string;
  readonly file: string;
  readonly drv: string;
  readonly backing_file_depth?: number;
}

const DISK: Node = { 'node-name': 'disk0', file: '/a.qcow2', drv: 'qcow2', backing_file_depth: 0 };
const FILTER: Node = {
  'node-name': 'romulus-f0',
  file: '/a.qcow2',
  drv: 'mirror_top',
  backing_file_depth: 1,
};

/** A machine with one disk, which sees `top`; `nodes` are below. */
function monitorOf(top: Node, nodes: readonly Node[] = []): DiskMonitor {
  const inserted = { ...top, ro: false, image: { 'virtual-size': 4096 } };
  const answers: Record<string, unknown> = {
    'query-block': [{ device: 'dr0', inserted }],
    'query-named-block-nodes': nodes,
  };
  return {
    command: (name) => Promise.resolve(answers[name]),
    onEvent: () => () => undefined,
    onEnd: () => undefined,
  };
}

describe('a disk that was found', () => {
  it.each([
    ['nothing', 0, true],
    ['something', 1, false],
    ['who knows what', undefined, false],
  ])('is in its file as a whole when %s is below that', async (_, depth, isWhole) => {
    const { backing_file_depth: _depth, ...rest } = DISK;
    const node = depth === undefined ? rest : { ...rest, backing_file_depth: depth };
    const [found] = await findDisks(monitorOf(node), ['dr0']);
    expect(found).toMatchObject({ node: 'disk0', isWhole });
  });

  it.each([
    ['is', FILTER, DISK, true],
    ['sees no mirror', DISK, DISK, false],
    ['sees another file', { ...FILTER, file: '/b.qcow2' }, DISK, false],
    ['has another file', FILTER, { ...DISK, file: '/b.qcow2' }, false],
    ['has another driver', FILTER, { ...DISK, drv: 'raw' }, false],
    ['is not whole any more', FILTER, { ...DISK, backing_file_depth: 1 }, false],
    ['has no such node any more', FILTER, { ...DISK, 'node-name': 'disk1' }, false],
  ])('is as found below its mirror, or refused: it %s', async (_, top, below, isRight) => {
    const [found] = await findDisks(monitorOf(DISK), ['dr0']);
    if (found === undefined) throw new Error('no disk');
    const looked = expectAsFound(monitorOf(top, [below]), 0, found);
    if (isRight) await looked;
    else await expect(looked).rejects.toMatchObject({ code: 'ERR_DISK_MIRROR' });
  });
});
