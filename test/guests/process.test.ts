import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import {
  endProcess,
  hasEndedWithin,
  isProcessAlive,
  isProcessEnding,
  processStartTime,
} from '../../src/guests/process.ts';

function sleeper(): { pid: number; gone: Promise<unknown> } {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  return { pid: child.pid ?? 0, gone: once(child, 'exit') };
}

describe('a process', () => {
  it('is ended for good, and only if it is the one that was meant', async () => {
    const { pid, gone } = sleeper();
    const startTime = processStartTime(pid);
    await endProcess(pid, 'another start');
    expect(isProcessAlive(pid)).toBe(true);
    await endProcess(pid, startTime);
    await gone;
    expect(isProcessAlive(pid)).toBe(false);
  });

  it('is waited for while it dies, and not for ever', async () => {
    const { pid, gone } = sleeper();
    expect(await hasEndedWithin(pid, 20)).toBe(false);
    setTimeout(() => process.kill(pid, 'SIGKILL'), 20);
    expect(await hasEndedWithin(pid, 10_000)).toBe(true);
    await gone;
  });

  it('is waited for to its end once it is ending, however long its memory takes', async () => {
    const child = spawn('python3', [
      '-c',
      'b = bytearray(1 << 30); print(len(b), flush=True); input()',
    ]);
    const { pid = 0 } = child;
    const gone = once(child, 'exit');
    await once(child.stdout, 'data');
    expect(isProcessEnding(pid)).toBe(false);
    process.kill(pid, 'SIGKILL');
    while (!isProcessEnding(pid)) await new Promise((resolve) => setTimeout(resolve, 1));
    expect(await hasEndedWithin(pid, 0)).toBe(true);
    await gone;
  });
});
