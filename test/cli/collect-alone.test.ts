/** Goal: a node's process has the option that V8 takes only from its beginning, and loses nothing by it. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { CLI_PATH } from '../../src/drill/node-process.ts';

const run = promisify(execFile);

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'romulus-alone-'));
});

afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

/** Each program that a process was, by pid and Node's options. */
async function lives(words: readonly string[]): Promise<{
  readonly seen: readonly string[];
  readonly stdout: string;
}> {
  const log = join(directory, 'lives');
  const noter = join(directory, 'noter.cjs');
  writeFileSync(
    noter,
    `require('node:fs').appendFileSync(${JSON.stringify(log)}, process.pid + ' ' + process.execArgv.join(' ') + '\\n');`,
  );
  const { stdout } = await run(process.execPath, ['--no-warnings', CLI_PATH, ...words], {
    env: { ...process.env, NODE_OPTIONS: `--require ${noter}` },
  });
  return { seen: readFileSync(log, 'utf8').trim().split('\n'), stdout };
}

it.each(['protect', 'backup'])('%s begins anew with it, as the same process', async (command) => {
  const { seen, stdout } = await lives([command, '--help']);
  const [pid = ''] = (seen[0] ?? '').split(' ');
  expect(seen).toEqual([`${pid} --no-warnings`, `${pid} --single-threaded-gc --no-warnings`]);
  expect(stdout).toContain(`romulus ${command}`);
});

it('no other command does', async () => {
  const { seen } = await lives(['status', '--help']);
  expect(seen).toHaveLength(1);
});
