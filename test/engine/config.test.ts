// Goal: a wrong configuration is refused with every wrong key named, a right one completed.
import { describe, expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { type NodeConfigInput, parseNodeConfig } from '../../src/engine/config.ts';

const RIGHT: NodeConfigInput = {
  role: 'protect',
  node: 'a',
  guest: 'sim',
  simSocket: '/run/m.sock',
  listen: { host: '127.0.0.1', port: 7100 },
  stateDirectory: '/run/a',
  arbiter: 'file:/srv/register',
};

function complaintsOf(changes: Partial<NodeConfigInput>): string {
  try {
    parseNodeConfig({ ...RIGHT, ...changes });
  } catch (error) {
    if (error instanceof RomulusError) return `${error.code} ${error.message}`;
    throw error;
  }
  return 'accepted';
}

describe('parseNodeConfig', () => {
  it('fills in the defaults', () => {
    const config = parseNodeConfig(RIGHT);
    expect(config).toMatchObject({ intervalMs: 25, heartbeatMs: 10, promiseMs: 40 });
  });

  it.each([
    ['interval 0', { intervalMs: 0 }, /intervalMs/],
    ['a negative interval', { intervalMs: -5 }, /intervalMs/],
    ['an interval beyond a day', { intervalMs: 9e8 }, /intervalMs/],
    ['low above high', { queueHighBytes: 2 ** 20, queueLowBytes: 2 ** 21 }, /queueLowBytes/],
    ['no arbiter and no rule', { arbiter: 'none' }, /onSilence/],
    ['a promise shorter than two heartbeats', { promiseMs: 15 }, /promiseMs/],
    ['a backup without a peer', { role: 'backup' as const }, /peer/],
    ['a name with a slash', { node: 'a/b' }, /node/],
  ])('refuses %s', (_, changes, pattern) => {
    expect(complaintsOf(changes)).toMatch(/^ERR_CONFIG_INVALID/);
    expect(complaintsOf(changes)).toMatch(pattern);
  });

  it('names every wrong key at once', () => {
    const complaints = complaintsOf({ intervalMs: 0, heartbeatMs: 0 });
    expect(complaints).toMatch(/intervalMs/);
    expect(complaints).toMatch(/heartbeatMs/);
  });
});
