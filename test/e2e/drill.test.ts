/**
 * Goal: whatever strikes, nothing is lost. Method: the drill itself, as a user runs it: real
 * processes, a real strike at a random moment, the verdict as JSON. A failure prints the seed.
 */
import { execFile, spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { CLI_PATH } from '../../src/drill/node-process.ts';
import type { DrillResult } from '../../src/drill/result.ts';

const DRILL_WAIT_MS = 120_000;
const hasRedis = spawnSync('redis-benchmark', ['--version']).status === 0;
const requireAll = process.env['ROMULUS_REQUIRE_ALL'] === '1';

interface Finished {
  readonly code: number;
  readonly result: DrillResult;
}

function drill(...args: string[]): Promise<Finished> {
  const words = ['drill', '--memory', '32M', '--json', ...args];
  return new Promise((resolve, reject) => {
    execFile(
      process.execPath,
      [CLI_PATH, ...words],
      { maxBuffer: 64 * 1024 * 1024, timeout: DRILL_WAIT_MS },
      (error, stdout, stderr) => {
        const last = stdout.trim().split('\n').at(-1) ?? '';
        if (!last.includes('"checks"'))
          reject(new Error(`${words.join(' ')} gave no result:\n${stdout}\n${stderr}`));
        else
          resolve({
            code: error === null ? 0 : Number(error.code ?? 1),
            result: JSON.parse(last) as DrillResult,
          });
      },
    );
  });
}

/** What every drill must come to, told with all it takes to play it again. */
function expectProof({ code, result }: Finished): void {
  const { seed, kill, evidence } = result;
  const broken = result.checks.filter(({ ok }) => !ok);
  expect({ seed, kill, broken, evidence }).toEqual({ seed, kill, broken: [], evidence: null });
  expect(result).toMatchObject({
    ok: true,
    stateMatches: true,
    outputsLost: 0,
    outputsReordered: 0,
    releasedByBoth: 0,
  });
  expect(result.outputsReleased).toBeGreaterThan(0);
  expect(code).toBe(0);
}

/** Command lines of living processes that mention the text. */
function processesNaming(text: string): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && existsSync(`/proc/${name}/cmdline`))
    .map((name) => readFileSync(`/proc/${name}/cmdline`, 'latin1'))
    .filter((line) => line.includes(text));
}

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

  it('kv: every acknowledged INCR is there', async () => {
    const finished = await drill('--workload', 'kv');
    expectProof(finished);
    expect(finished.result.incrementsAcknowledged).toBeGreaterThan(0);
  });

  it.skipIf(!hasRedis && !requireAll)(
    'kv under the real redis-benchmark (needs redis-tools): every acknowledged INCR is there',
    async () => {
      const finished = await drill('--workload', 'kv', '--redis-benchmark');
      expectProof(finished);
      expect(finished.result.incrementsAcknowledged).toBeGreaterThan(1000);
    },
  );

  it('leaves nothing behind when it is interrupted', async () => {
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
    child.kill('SIGINT');
    await gone;
    expect(existsSync(directory)).toBe(false);
    expect(processesNaming(directory)).toEqual([]);
  });
});
