/** Goal: a primary that dies before its first heartbeat came is missed like any other. */
import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import type { Verdict } from '../../src/core/verdict.ts';
import { freePorts } from '../../src/drill/ports.ts';
import { parseNodeConfig } from '../../src/engine/config.ts';
import { PrimaryWatch } from '../../src/engine/primary-watch.ts';

const watches: PrimaryWatch[] = [];

afterEach(async () => {
  for (const watch of watches.splice(0)) await watch.close();
});

function watchWith(onVerdict: (verdict: Verdict) => void): PrimaryWatch {
  const watch = new PrimaryWatch({
    config: parseNodeConfig({
      role: 'backup',
      node: 'b',
      guest: 'sim',
      listen: { host: '127.0.0.1', port: 0 },
      peer: { host: '127.0.0.1', port: 1 },
      stateDirectory: '/nonexistent',
      arbiter: 'none',
      onSilence: 'hold',
    }),
    log: pino({ level: 'silent' }),
    onVerdict,
  });
  watches.push(watch);
  return watch;
}

describe('PrimaryWatch', () => {
  it('finds a primary dead that was gone before the heartbeats had started', async () => {
    const [port = 0] = await freePorts(1);
    const dead = new Promise<Verdict>((resolve) => {
      const watch = watchWith((verdict) => {
        if (verdict.state === 'dead') resolve(verdict);
      });
      watch.noteLink('open', 'open');
      watch.watch({ host: '127.0.0.1', port });
      watch.noteLink('closed', 'reset');
    });
    expect((await dead).why).toContain('refused');
  });

  it('starts one thread, however often it is welcomed meanwhile', async () => {
    const [port = 0] = await freePorts(1);
    const watch = watchWith(() => undefined);
    const handles = (): number =>
      process.getActiveResourcesInfo().filter((name) => name === 'MessagePort').length;
    const before = handles();
    for (let turn = 0; turn < 5; turn += 1) watch.watch({ host: '127.0.0.1', port });
    await watch.close();
    expect(handles()).toBe(before);
  });
});
