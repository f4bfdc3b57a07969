/** The engine of guarded-engine.ts as a process, and its guardian. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { expect } from 'vitest';
import { isProcessAlive } from '../../../src/guests/process.ts';
import { statePipeOf } from '../../support/qemu/state-pipe.ts';
import type { EngineOrders } from './guarded-engine.ts';
import { type Cleanups, eventually } from './user-machine.ts';

/** Starts it, and waits until it has done what it was asked for. */
export async function startEngine(
  cleanups: Cleanups,
  qmpPath: string,
  orders: EngineOrders,
): Promise<ChildProcess> {
  const program = new URL('guarded-engine.ts', import.meta.url).pathname;
  const child = spawn(
    process.execPath,
    ['--import', 'tsx', program, qmpPath, JSON.stringify(orders)],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  const gone = once(child, 'exit');
  cleanups.push(async () => {
    child.kill('SIGKILL');
    await gone;
  });
  const [said] = (await once(child.stdout, 'data')) as [Buffer];
  expect(String(said)).toBe('ready\n');
  return child;
}

/** Its pipe for device states. */
export function pipeOf({ pid = 0 }: ChildProcess): string {
  return statePipeOf(pid);
}

/** The guardian that was told to remove that pipe. */
export function guardianOf(pipe: string): number {
  const found = readdirSync('/proc').filter((entry) => {
    if (!/^\d+$/.test(entry)) return false;
    try {
      const words = readFileSync(`/proc/${entry}/cmdline`, 'latin1').split('\0');
      return (words[0]?.endsWith('romulus-guardian') ?? false) && words.includes(pipe);
    } catch {
      return false;
    }
  });
  expect(found).toHaveLength(1);
  return Number(found[0]);
}

/** Kills the engine and waits until its guardian has done everything. */
export async function killAndWait(engine: ChildProcess): Promise<void> {
  const pipe = pipeOf(engine);
  const guardian = guardianOf(pipe);
  engine.kill('SIGKILL');
  await eventually(() => expect(isProcessAlive(guardian)).toBe(false));
  expect(existsSync(dirname(pipe))).toBe(false);
}
