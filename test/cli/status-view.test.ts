/** Goal: `romulus status` tells a person what matters, and only when it does. */
import { describe, expect, it } from 'vitest';
import { statusLine, statusRows } from '../../src/cli/status-view.ts';
import type { NodeStatus } from '../../src/engine/status.ts';

const GIB = 1024 ** 3;
const NOTHING = { last: 0, p50: 0, p99: 0, max: 0 };

/** A protected machine of which nothing is to be told but that. */
const QUIET: NodeStatus = {
  schemaVersion: 1,
  node: 'a',
  instance: 'a#1',
  role: 'primary',
  state: 'protected',
  why: 'b follows',
  guest: 'web',
  generation: 3,
  epoch: 40,
  ackedEpoch: 39,
  appliedEpoch: 38,
  releasedEpoch: 39,
  intervalMs: 25,
  minIntervalMs: 5,
  earlyCheckpoints: 0,
  dirtyPages: NOTHING,
  pauseMs: NOTHING,
  stopMs: NOTHING,
  scanMs: NOTHING,
  copyMs: NOTHING,
  stateMs: NOTHING,
  resumeMs: NOTHING,
  encodeMs: NOTHING,
  outputDelayMs: NOTHING,
  commitMs: NOTHING,
  bytesRaw: 0,
  bytesSent: 0,
  queueBytes: 0,
  epochsSkipped: 0,
  outputHold: 'all',
  outputHeldFrames: 0,
  outputReleasedFrames: 7,
  outputDroppedFrames: 0,
  sync: null,
  diskMode: 'replicate',
  diskCount: 0,
  diskWaitingBytes: 0,
  peer: { node: 'b', instance: 'b#1', connected: true },
  promoteHook: null,
  tracker: 'uffd-wp',
  pid: 1,
  netPort: null,
  linkPort: 7000,
  heartbeatPort: 7002,
  heartbeatAgeMs: 4,
  heartbeatGapMsMax: 0,
  heartbeatsLate: 0,
};

const FULL: NonNullable<NodeStatus['sync']> = {
  plan: 'full',
  round: 0,
  pages: 0,
  bytes: 3 * GIB,
  diskBytes: 3 * GIB,
  diskTotalBytes: 8 * GIB,
  memoryBytes: 0,
  memoryTotalBytes: 4 * GIB,
  elapsedMs: 60_000,
};

function shown(changes: Partial<NodeStatus>): Map<string, string> {
  return new Map(statusRows({ ...QUIET, ...changes }));
}

function syncShown(changes: Partial<typeof FULL>): string | undefined {
  return shown({ state: 'syncing', sync: { ...FULL, ...changes } }).get('sync');
}

describe('rows of a status', () => {
  it('leave out what is nothing to look at', () => {
    const names = [...shown({}).keys()];
    for (const name of ['sync', 'output', 'disk', 'frames dropped', 'promote hook'])
      expect(names).not.toContain(name);
  });

  it('say in words that output is not held', () => {
    expect(shown({ outputHold: 'none' }).get('output')).toMatch(/^NOT HELD: .*before it is safe/);
    expect(statusLine({ ...QUIET, outputHold: 'none' })).toContain('output NOT HELD');
    expect(statusLine(QUIET)).not.toContain('NOT HELD');
  });

  it('say what becomes of the disks, and what waits', () => {
    expect(shown({ diskCount: 2 }).get('disk')).toBe('replicate: 2 disks');
    expect(shown({ diskMode: 'shared' }).get('disk')).toContain('shared');
    expect(shown({ diskMode: 'none' }).get('disk')).toContain('nothing is copied');
    const waiting = shown({ diskCount: 1, diskWaitingBytes: 3 * 1024 * 1024 });
    expect(waiting.get('disk writes waiting for their epoch')).toBe('3.0 MiB');
  });

  it('count frames that were dropped', () => {
    expect(shown({ outputDroppedFrames: 12 }).get('frames dropped')).toBe('12');
  });
});

describe('an image under way', () => {
  it('tells share, rate and time left', () => {
    expect(syncShown({})).toBe(
      '25 % of the full copy (disks: 3.0 GiB of 8.0 GiB); 3.0 GiB sent, 51 MiB/s, about 3 min left',
    );
  });

  it('counts the disks as done once memory is gone through, whatever had to be sent', () => {
    expect(syncShown({ diskBytes: 9 * GIB, memoryBytes: 1 * GIB })).toMatch(
      /^75 % of the full copy; .*about 20 s left$/,
    );
  });

  it('never has more than all of it done', () => {
    expect(syncShown({ diskBytes: 9 * GIB })).toMatch(/^66 % .*disks: 8.0 GiB of 8.0 GiB/);
    expect(syncShown({ memoryBytes: 4 * GIB })).toMatch(/^100 % .*MiB\/s$/);
  });

  it('names later rounds', () => {
    expect(syncShown({ round: 2 })).toContain('round 2: what was written meanwhile');
  });

  it('claims no share where nobody knows what there is to be sent', () => {
    expect(syncShown({ plan: 'changed' })).toBe(
      'what changed since the backup was here; 3.0 GiB sent, 51 MiB/s',
    );
    expect(syncShown({ plan: 'changed', memoryBytes: 2 * GIB })).toContain('50 % of the changes');
  });

  it('bears a beginning in which nothing was sent', () => {
    expect(syncShown({ bytes: 0, diskBytes: 0, elapsedMs: 0 })).toBe(
      '0 % of the full copy (disks: 0 B of 8.0 GiB); 0 B sent',
    );
    expect(syncShown({ diskTotalBytes: 0, memoryTotalBytes: 0 })).toContain('sent');
  });

  it('stands in the line of --watch too, and is gone when it is made', () => {
    expect(statusLine({ ...QUIET, state: 'syncing', sync: FULL })).toContain('25 % of the full');
    expect(statusLine({ ...QUIET, sync: FULL })).not.toContain('full copy');
    expect(shown({ sync: FULL }).has('sync')).toBe(false);
  });
});
