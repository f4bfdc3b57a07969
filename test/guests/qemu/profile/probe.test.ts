/**
 * Goal: a QEMU that was started to be asked something ends with whoever asks, however that one ends, and
 * leaves nothing behind. Method: a process of its own, killed by SIGKILL.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { probeQemu } from '../../../../src/guests/qemu/profile/probe.ts';
import { isProcessAlive } from '../../../../src/guests/process.ts';
import { qemuVersions, requireQemu } from '../../../support/qemu/require-qemu.ts';

const MEMBER = fileURLToPath(new URL('probe-member.ts', import.meta.url));
const TEST_MS = 30_000;

const hasQemu = await requireQemu();
const versions = hasQemu ? await qemuVersions() : [];

describe.skipIf(!hasQemu)('a QEMU started to be asked', { timeout: TEST_MS }, () => {
  it.each(versions)('ends when who asks is killed: $version', async ({ binary }) => {
    const member = spawn(process.execPath, ['--import', 'tsx', MEMBER, binary], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [said] = (await once(member.stdout, 'data')) as [Buffer];
    const { pid, path } = JSON.parse(String(said)) as { pid: number; path: string };
    expect(isProcessAlive(pid)).toBe(true);
    const gone = once(member, 'exit');
    member.kill('SIGKILL');
    await gone;
    await expect.poll(() => isProcessAlive(pid), { timeout: 5000 }).toBe(false);
    expect(existsSync(dirname(path))).toBe(false);
  });

  it('answers, and is gone', async () => {
    const [{ binary } = { binary: '' }] = versions;
    let pid = 0;
    const result = await probeQemu([binary], ['-machine', 'none'], async (client) => {
      pid = client.peerPid;
      return await client.command('query-status');
    });
    expect(result).toMatchObject({ kind: 'answered', value: { running: false } });
    expect(isProcessAlive(pid)).toBe(false);
  });

  it('says what it said when it does not start', async () => {
    const [{ binary } = { binary: '' }] = versions;
    const result = await probeQemu([binary], ['-machine', 'nonesuch'], () => Promise.resolve(0));
    expect(result).toMatchObject({
      kind: 'failed',
      said: expect.stringContaining('unsupported machine type'),
    });
  });
});
