/**
 * Goal: whatever strikes, nothing is lost. Method: the drill itself, as a user runs it: real
 * processes, a real strike at a random moment, the verdict as JSON. A failure prints the seed.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { CLI_PATH } from '../../src/drill/node-process.ts';
import { requires } from '../support/require.ts';
import {
  DRILL_WAIT_MS,
  drill as runDrill,
  expectProof,
  type Finished,
  processesNaming,
} from '../support/run-drill.ts';

const hasRedis = requires(
  'a drill under redis-benchmark',
  spawnSync('redis-benchmark', ['--version']).status === 0,
  'it is not installed (redis-tools)',
);

/** A small machine: its oracle has less to compute. */
const drill = (...args: string[]): Promise<Finished> => runDrill('--memory', '32M', ...args);

describe('a drill', { timeout: DRILL_WAIT_MS }, () => {
  it.each([
    ['sigkill', 'hotspot'],
    ['sigkill', 'stream'],
    ['guest', 'random'],
    ['engine', 'counter'],
    ['sigstop', 'random'],
  ])('%s under %s: the backup takes over and nothing is lost', async (kill, workload) => {
    const finished = await drill('--kill', kill, '--workload', workload);
    expectProof(finished);
    const { result } = finished;
    expect(result.promotedEpoch).toBeGreaterThan(0);
    for (const figure of [result.detectMs, result.promoteMs, result.rtoMs])
      expect(figure).toBeGreaterThanOrEqual(0);
  });

  it('link: exactly one side ends up heard', async () => {
    expectProof(await drill('--kill', 'link', '--workload', 'hotspot'));
  });

  it('backup: unprotected and said so, then protected again', async () => {
    const finished = await drill('--kill', 'backup', '--workload', 'hotspot');
    expectProof(finished);
    expect(finished.result.promotedEpoch).toBeNull();
  });

  it('--rejoin: the killed side follows, and it fails over the other way', async () => {
    const finished = await drill('--rejoin', '--workload', 'counter');
    expectProof(finished);
    expect(finished.result.story.join('\n')).toContain('the other way round');
  });

  it('--tracker mprotect: a machine that tracks itself, as on an old kernel', async () => {
    const finished = await drill('--tracker', 'mprotect', '--workload', 'hotspot', '--rejoin');
    expectProof(finished);
    expect(finished.result.tracker).toBe('mprotect');
  });

  it('kv: every acknowledged INCR is there', async () => {
    const finished = await drill('--workload', 'kv');
    expectProof(finished);
    expect(finished.result.incrementsAcknowledged).toBeGreaterThan(0);
  });

  it.skipIf(!hasRedis)(
    'kv under the real redis-benchmark (needs redis-tools): every acknowledged INCR is there',
    async () => {
      const finished = await drill('--workload', 'kv', '--redis-benchmark');
      expectProof(finished);
      expect(finished.result.incrementsAcknowledged).toBeGreaterThan(1000);
    },
  );

  it.each([
    { signal: 'SIGINT', code: 130 },
    { signal: 'SIGTERM', code: 143 },
  ] as const)('leaves nothing behind, evidence neither, at $signal', async ({ signal, code }) => {
    const child = spawn(process.execPath, [CLI_PATH, 'drill', '--memory', '32M', '--json'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const gone = new Promise((resolve) => child.once('exit', resolve));
    let said = '';
    await new Promise<void>((resolve, reject) => {
      child.once('exit', () => reject(new Error(said)));
      child.stdout.on('data', (chunk: Buffer) => {
        said += String(chunk);
        if (said.includes('protected after')) resolve();
      });
    });
    const directory = /"directory":"([^"]+)"/.exec(said)?.[1] ?? '';
    expect(directory).not.toBe('');
    expect(existsSync(directory)).toBe(true);
    child.kill(signal);
    await delay(20);
    child.kill(signal);
    expect(await gone).toBe(code);
    expect(said).not.toContain('broke off');
    expect(existsSync(directory)).toBe(false);
    expect(processesNaming(directory)).toEqual([]);
  });
});
