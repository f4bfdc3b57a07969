/** Goal: `romulus sim` says when it can be connected to, and how it ended, to people and to programs. */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { CLI_PATH } from '../../src/drill/node-process.ts';

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'romulus-sim-'));
});

afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

/** Runs a machine until it says something, then ends it. */
async function heard(...flags: string[]): Promise<{ code: number | null; lines: string[] }> {
  const socket = join(directory, 'm.sock');
  const child = spawn(
    process.execPath,
    [CLI_PATH, 'sim', '--socket', socket, '--memory', '16M', ...flags],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  let said = '';
  child.stdout.on('data', (chunk: Buffer) => {
    // Once: what it says of its end is no reason to end it again.
    if (said === '') child.kill('SIGTERM');
    said += String(chunk);
  });
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, lines: said.trim().split('\n') };
}

it('as JSON lines', async () => {
  const { code, lines } = await heard('--json');
  expect(code).toBe(0);
  expect(lines.map((line) => JSON.parse(line) as object)).toEqual([
    {
      schemaVersion: 1,
      event: 'listening',
      pid: expect.any(Number) as number,
      socket: join(directory, 'm.sock'),
    },
    { schemaVersion: 1, event: 'ended', code: 0, signal: null },
  ]);
});

it('as a line of text', async () => {
  const { lines } = await heard();
  expect(lines).toHaveLength(1);
  expect(lines[0]).toMatch(/^listening: control socket .*m\.sock, process \d+$/);
});
