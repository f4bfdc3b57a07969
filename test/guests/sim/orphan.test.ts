/** What becomes of an incoming machine when the process that prepared it is killed. */
import { spawn } from 'node:child_process';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isProcessAlive } from '../../../src/guests/process.ts';
import { attachSim } from '../../../src/guests/sim/sim-guest.ts';
import { MachineKit, until } from './machine-kit.ts';

let kit: MachineKit;
beforeEach(async () => {
  kit = new MachineKit();
  await kit.open();
});
afterEach(async () => {
  await kit.close();
});

/** Runs the child until it named its machine, kills it, and gives the machine. */
async function orphan(mode: 'wait' | 'start'): Promise<{ pid: number; controlPath: string }> {
  const machine = await kit.start({ paused: true });
  const child = spawn(
    process.execPath,
    [
      '--import',
      'tsx',
      new URL('orphan-child.ts', import.meta.url).pathname,
      machine.socketPath,
      kit.directory,
      mode,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  let said = '';
  child.stdout.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  await until('the child prepared its machine', () => said.includes('\n'));
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await gone;
  const [pid = '', controlPath = ''] = said.trim().split(' ');
  return { pid: Number(pid), controlPath };
}

describe('an incoming machine whose preparer was killed', () => {
  it('ends when it was not started', async () => {
    const { pid } = await orphan('wait');
    await until('it is gone', () => !isProcessAlive(pid));
  });

  it('runs on when it was', async () => {
    const { pid, controlPath } = await orphan('start');
    const guest = await attachSim({ socketPath: controlPath });
    expect(guest.pid).toBe(pid);
    const { step } = await guest.info();
    await until('it goes on', async () => (await guest.info()).step > step);
    await guest.fence();
    expect(isProcessAlive(pid)).toBe(false);
  });
});
