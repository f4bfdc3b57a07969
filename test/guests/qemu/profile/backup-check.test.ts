/** Goal: a host that cannot take a machine over says why, all at once, before anything starts. */
import { readdirSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  type BackupFacilities,
  refusalsOnBackup,
} from '../../../../src/guests/qemu/profile/backup-check.ts';
import type { QemuProfile } from '../../../../src/guests/qemu/profile/profile.ts';
import { readProfile } from '../../../../src/guests/qemu/profile/read-profile.ts';
import { device } from './example-profile.ts';
import { Bench } from './start-qemu.ts';
import { requireQemu } from '../../../support/qemu/require-qemu.ts';

const hasQemu = await requireQemu();

function probes(): string[] {
  return readdirSync(bench.directory).filter((name) => name.startsWith('romulus-probe-'));
}

let bench: Bench;
let facilities: BackupFacilities;

beforeEach(() => {
  bench = new Bench();
  // Not where other tests, which run meanwhile, leave and remove theirs.
  vi.stubEnv('TMPDIR', bench.directory);
  facilities = {
    directory: bench.directory,
    diskMode: 'replicate',
    diskModeHere: 'replicate',
  };
});
afterEach(async () => {
  vi.unstubAllEnvs();
  const left = probes();
  await bench.stop();
  expect(left).toEqual([]);
});

async function profileOf(line: string): Promise<QemuProfile> {
  const source = await bench.source(line.split(' '));
  return readProfile(source.client, source.pid);
}

async function codes(profile: QemuProfile, own: Partial<BackupFacilities> = {}): Promise<string[]> {
  const refusals = await refusalsOnBackup(profile, { ...facilities, ...own });
  return refusals.map(({ code }) => code);
}

describe.skipIf(!hasQemu)('a backup', () => {
  it('takes a machine that its QEMU can run', async () => {
    const profile = await profileOf('-nodefaults -machine q35 -accel tcg -cpu max -m 64');
    expect(await refusalsOnBackup(profile, facilities)).toEqual([]);
  });

  it('tells everything that it lacks at once', async () => {
    const profile = await profileOf('-nodefaults -machine q35 -accel tcg -m 64');
    const [main] = profile.memory;
    if (main === undefined) throw new Error('no memory');
    const features = [{ leaf: 0x14, subleaf: 0, register: 'EAX' as const, bits: 4 }];
    const wanting: QemuProfile = {
      ...profile,
      argv: [...profile.argv, '-bios', '/nonexistent'],
      devices: [device('flux-capacitor-pci', 'f')],
      cpu: { ...profile.cpu, featureWords: [...profile.cpu.featureWords, ...features] },
      memory: [{ ...main, bytes: 2 ** 52, hugepageBytes: 3072 * 1024 }],
    };
    const refusals = await refusalsOnBackup(wanting, facilities);
    expect(refusals.map(({ code }) => code)).toEqual([
      'device-type',
      'cpu-features',
      'file',
      'hugepages',
    ]);
    expect(refusals[1]?.why).toContain('CPUID.14h.0:EAX[2]');
    const ordinary = await codes(wanting, { mapping: { hugepages: 'ordinary' } });
    expect(ordinary).not.toContain('hugepages');
    // A directory decides by itself of which pages the RAM is.
    const placed = await codes(wanting, { ramDirectory: bench.directory });
    expect(placed).toEqual(['device-type', 'cpu-features', 'file', 'memory-room']);
  });

  it('knows machine types of the future from those that nobody has', async () => {
    const profile = await profileOf('-nodefaults -machine pc -accel tcg -m 64');
    expect(await codes({ ...profile, machine: 'pc-q35-99.1' })).toEqual(['qemu-older']);
    expect(await codes({ ...profile, machine: 'toaster' })).toEqual(['machine-type']);
  });

  it('tells what has no place, and a QEMU that does not start', async () => {
    const profile = await profileOf('-nodefaults -machine pc -accel tcg -m 64');
    const wanting = { ...profile, argv: [...profile.argv, '-serial', 'pipe:/x'] };
    expect(await codes(wanting)).toEqual(['mapping']);
    expect(await codes(wanting, { binary: '/nonexistent/qemu' })).toEqual([
      'qemu-start',
      'mapping',
    ]);
    expect(await codes(profile, { binary: '/bin/false' })).toEqual(['qemu-start']);
  });

  it('tells an accelerator that does not work here', async () => {
    const profile = await profileOf('-nodefaults -machine pc -accel tcg -m 64');
    expect(new Set(await codes({ ...profile, accelerator: 'xen' }))).toEqual(
      new Set(['accelerator']),
    );
  });
});
