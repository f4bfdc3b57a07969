/** Goal: a machine that is stopped to be freed of its mirrors runs on, whatever comes in between. */
import { describe, expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { type DiskMonitor, jobName, removeMirrors } from '../../src/disks/qemu-mirror.ts';

/** A monitor of a running machine with one mirror; `fail` says which command goes wrong. */
function monitorOf(fail: string): { monitor: DiskMonitor; orders: string[] } {
  const orders: string[] = [];
  let jobs = [{ device: jobName(0) }];
  const answers: Record<string, () => unknown> = {
    'query-block-jobs': () => jobs,
    'query-status': () => ({ running: true }),
    'query-named-block-nodes': () => [],
    'job-cancel': () => {
      jobs = [];
      return {};
    },
  };
  const monitor: DiskMonitor = {
    command: (name) => {
      if (!name.startsWith('query-')) orders.push(name);
      if (name !== fail) return Promise.resolve(answers[name]?.() ?? {});
      const error = new RomulusError('ERR_TIMEOUT_GUEST_CONTROL', 'late', { remedy: 'Wait.' });
      return Promise.reject(error);
    },
    onEvent: () => () => undefined,
    onEnd: () => undefined,
  };
  return { monitor, orders };
}

describe('removeMirrors', () => {
  it('stops a running machine for it', async () => {
    const { monitor, orders } = monitorOf('');
    await removeMirrors(monitor);
    expect(orders).toEqual(['stop', 'job-cancel', 'cont']);
  });

  it.each(['stop', 'job-cancel', 'query-named-block-nodes'])(
    'resumes the machine when %s is not answered in time',
    async (late) => {
      const { monitor, orders } = monitorOf(late);
      await expect(removeMirrors(monitor)).rejects.toMatchObject({
        code: 'ERR_TIMEOUT_GUEST_CONTROL',
      });
      expect(orders.at(-1)).toBe('cont');
    },
  );
});
