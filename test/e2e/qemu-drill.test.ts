/**
 * Goal: a real QEMU survives whatever strikes, and its copy goes on where it was. Method: the drill
 * itself, as a user runs it. A failure prints the seed and where the evidence is.
 */
import { readdirSync, readlinkSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { kvmWorks, qemuVersions, requireQemu } from '../support/qemu/require-qemu.ts';
import { drill, DRILL_WAIT_MS, drills, expectProof, type Finished } from '../support/run-drill.ts';

/** In a row, by one command, struck at random moments. */
const SERIES = 10;
const available = await requireQemu();
const kvm = available && (await kvmWorks());
const versions = available ? (await qemuVersions()).map(({ version }) => version) : [];
/** From one version to another, and within the newer ones, where both are here. */
const pairs = [
  ['system', '11.1'],
  ['11.1', '10.0'],
  ['10.0', '10.0'],
  ['11.1', '11.1'],
].filter((pair) => pair.every((version) => versions.includes(version)));

function filesInMemory(): string[] {
  return readdirSync('/dev/shm').filter((name) => name.startsWith('romulus'));
}

/** What living processes have open there: not what a dead one left. */
function openInMemory(): string[] {
  const processes = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return processes
    .flatMap((pid) => listed(`/proc/${pid}/fd`).map((fd) => `/proc/${pid}/fd/${fd}`))
    .flatMap(target)
    .filter((path) => path.startsWith('/dev/shm/romulus'));
}

function listed(directory: string): string[] {
  return ofLiving(() => readdirSync(directory));
}

function target(link: string): string[] {
  return ofLiving(() => [readlinkSync(link)]);
}

/** What is seen of a process; nothing of one that ends, which shows itself to nobody for a moment before. */
function ofLiving(look: () => string[]): string[] {
  try {
    return look();
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    if (['ENOENT', 'ESRCH', 'EACCES'].includes(code)) return [];
    throw error;
  }
}

const atStart = filesInMemory();

function qemuDrill(...args: string[]): Promise<Finished> {
  return drill('--guest', 'qemu', '--memory', '128M', ...args);
}

describe.skipIf(!available)('romulus drill --guest qemu', () => {
  it.each([
    ['sigkill', 'all'],
    ['guest', 'pattern'],
    ['engine', 'dirty'],
    ['sigstop', 'shell'],
  ])('%s under %s: the copy goes on', { timeout: DRILL_WAIT_MS }, async (kill, workload) => {
    const finished = await qemuDrill('--kill', kill, '--workload', workload);
    expectProof(finished);
    expect(finished.result.promotedEpoch).toBeGreaterThan(0);
  });

  it('link: one side ends up as the only one', { timeout: DRILL_WAIT_MS }, async () => {
    expectProof(await qemuDrill('--kill', 'link'));
  });

  it('backup: unprotected and said so, then protected again', {
    timeout: DRILL_WAIT_MS,
  }, async () => {
    const finished = await qemuDrill('--kill', 'backup');
    expectProof(finished);
    expect(finished.result.promotedEpoch).toBeNull();
  });

  it('--rejoin: the killed side follows, and it fails over the other way', {
    timeout: DRILL_WAIT_MS,
  }, async () => {
    const finished = await qemuDrill('--rejoin');
    expectProof(finished);
    expect(finished.result.story.join('\n')).toContain('the other way round');
  });

  it.each(pairs)('from QEMU %s to %s', { timeout: DRILL_WAIT_MS }, async (from, to) => {
    expectProof(await qemuDrill('--qemu', from ?? '', '--backup-qemu', to ?? ''));
  });

  it.skipIf(!kvm)('under KVM', { timeout: DRILL_WAIT_MS }, async () => {
    expectProof(await qemuDrill('--workload', 'bare', '--accelerator', 'kvm'));
  });

  it(`${SERIES} times in a row`, { timeout: SERIES * DRILL_WAIT_MS }, async () => {
    const { code, summary, complaints } = await drills(SERIES, '--guest', 'qemu');
    expect({ summary, complaints }).toMatchObject({
      summary: { runs: SERIES, passed: SERIES, ok: true },
      complaints: '',
    });
    expect(code).toBe(0);
  });

  it('leaves nothing in memory', () => {
    const left = filesInMemory().filter((name) => !atStart.includes(name));
    const open = left.length === 0 ? [] : openInMemory();
    expect(left.filter((name) => !open.some((path) => path.includes(name)))).toEqual([]);
  });
});
