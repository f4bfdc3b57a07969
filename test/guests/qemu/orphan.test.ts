/**
 * Goal: a prepared QEMU ends with the process that prepared it, however that one ends; one that was
 * started goes on without it. Method: a process of its own, killed by SIGKILL.
 */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { RomulusError } from '../../../src/base/errors.ts';
import { QmpClient } from '../../../src/guests/qemu/qmp/qmp-client.ts';
import { qemuVersions, requireQemu } from '../../support/qemu/require-qemu.ts';

const MEMBER = fileURLToPath(new URL('orphan-member.ts', import.meta.url));
const END_WAIT_MS = 5000;

interface Told {
  readonly pid: number;
  readonly controlPath: string;
  readonly directory: string;
  /** What the copy wrote to its serial port. */
  readonly said: string;
}

/** Runs the member until it has told, and kills it. */
async function orphanOf(mode: 'wait' | 'load' | 'start', qemu = ''): Promise<Told> {
  const member = spawn(process.execPath, ['--import', 'tsx', MEMBER, mode, qemu], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise((resolve) => member.once('exit', resolve));
  let said = '';
  for await (const chunk of member.stdout) {
    said += String(chunk);
    if (said.includes('\n')) break;
  }
  member.kill('SIGKILL');
  await ended;
  return JSON.parse(said) as Told;
}

/** Whether the process runs; one that ended and waits for its parent does not. */
function runs(pid: number): boolean {
  const path = `/proc/${pid}/stat`;
  return existsSync(path) && !/^\d+ \(.*\) Z/.test(readFileSync(path, 'latin1'));
}

const hasQemu = await requireQemu();
const versions = hasQemu ? await qemuVersions() : [];

describe.skipIf(!hasQemu)('a QEMU whose maker was killed', () => {
  it('ends when it still waited', async () => {
    const { pid, directory } = await orphanOf('wait');
    for (let waitedMs = 0; runs(pid) && waitedMs < END_WAIT_MS; waitedMs += 20) await sleep(20);
    const isLeft = runs(pid);
    if (isLeft) process.kill(pid, 'SIGKILL');
    rmSync(directory, { recursive: true });
    expect(isLeft).toBe(false);
  });

  it.each(versions)('ends unheard when it was loaded, in QEMU $version', async ({ binary }) => {
    const { pid, directory, said, controlPath } = await orphanOf('load', binary);
    // Nobody may see it run: it would be a second copy.
    let status: unknown = 'gone';
    try {
      const qmp = await QmpClient.connect(controlPath);
      status = await qmp.command('query-status');
      qmp.close();
    } catch (error) {
      expect(error).toBeInstanceOf(RomulusError);
    }
    for (let waitedMs = 0; runs(pid) && waitedMs < END_WAIT_MS; waitedMs += 20) await sleep(20);
    const isLeft = runs(pid);
    if (isLeft) process.kill(pid, 'SIGKILL');
    rmSync(directory, { recursive: true });
    expect({ isLeft, said, status }).toEqual({ isLeft: false, said: '', status: 'gone' });
  });

  it('goes on when it was started', async () => {
    const { pid, controlPath, directory } = await orphanOf('start');
    try {
      await sleep(300);
      expect(runs(pid)).toBe(true);
      const qmp = await QmpClient.connect(controlPath);
      expect(await qmp.command('query-status')).toMatchObject({ status: 'running' });
      qmp.close();
    } finally {
      process.kill(pid, 'SIGKILL');
      rmSync(directory, { recursive: true });
    }
  });
});
