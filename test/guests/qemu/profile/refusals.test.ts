/** Goal: every machine that cannot be replicated is told all reasons, others none. */
import { describe, expect, it } from 'vitest';
import { featureName, missingFeatures } from '../../../../src/guests/qemu/profile/cpu.ts';
import {
  type FeatureWord,
  qemuProfileSchema,
} from '../../../../src/guests/qemu/profile/profile.ts';
import { netdevsIn } from '../../../../src/guests/qemu/profile/read-profile.ts';
import {
  hasVhostNet,
  heldNetRefusals,
  netdevsOfNics,
} from '../../../../src/guests/qemu/profile/net-hold.ts';
import {
  refusalsOf,
  refuseIfAny,
  warningsOf,
} from '../../../../src/guests/qemu/profile/refusals.ts';
import { device, exampleProfile } from './example-profile.ts';

const codes = (changes: Parameters<typeof exampleProfile>[0]): string[] =>
  refusalsOf(exampleProfile(changes)).map(({ code }) => code);

describe('refusals', () => {
  it('finds nothing against an ordinary machine', () => {
    expect(
      codes({ devices: [device('virtio-blk-pci', 'd'), device('vhost-vsock-pci', 'v')] }),
    ).toEqual([]);
    expect(() => refuseIfAny('x', [])).not.toThrow();
  });

  it.each([
    ['vfio-pci', 'vfio'],
    ['vhost-user-fs-pci', 'vhost-user'],
    ['vhost-scsi-pci', 'vhost'],
    ['ivshmem-plain', 'shared-memory'],
    ['tpm-crb', 'vtpm'],
    ['usb-host', 'host-device'],
    ['sgx-epc', 'confidential'],
  ])('%s', (driver, code) => {
    expect(codes({ devices: [device(driver, 'x')] })).toEqual([code]);
  });

  it('tells all reasons in one error', () => {
    const profile = exampleProfile({
      argv: ['-readconfig', '/x'],
      accelerator: 'xen',
      devices: [device('vfio-pci', 'gpu')],
      tpms: ['tpm0'],
      netdevs: [{ id: 'n0', type: 'vhost-user', isAdded: false }],
      objects: [{ id: 'sev0', type: 'sev-guest', isAdded: false, properties: {} }],
      migrationBlockers: ['the moon is full'],
      memory: [{ ...exampleProfile().memory[0], use: 'nvdimm', backendId: 'pmem' }] as never,
    });
    const refusals = refusalsOf(profile);
    expect(refusals.map(({ code }) => code)).toEqual([
      'vfio',
      'vtpm',
      'vhost-user',
      'memory-device',
      'confidential',
      'readconfig',
      'accelerator',
      'migration-blocked',
    ]);
    expect(() => refuseIfAny('x', refusals)).toThrow(
      expect.objectContaining({
        code: 'ERR_GUEST_REFUSED',
        message: expect.stringContaining('the moon is full') as string,
        details: { refusals },
      }),
    );
  });

  it('warns of vsock, whose connections end', () => {
    const profile = exampleProfile({ devices: [device('vhost-vsock-pci', 'v')] });
    expect(warningsOf(profile).map(({ code }) => code)).toEqual(['vhost']);
    expect(refusalsOf(profile)).toEqual([]);
  });
});

describe('output that is to be held', () => {
  const held = (argv: string[], opensVhost = false): string[] =>
    heldNetRefusals(exampleProfile({ argv }), opensVhost).map(
      ({ code, what }) => `${code} ${what}`,
    );

  it('passes through QEMU on an ordinary netdev', () => {
    expect(held(['-netdev', 'tap,id=n0,vhost=off,queues=1', '-nic', 'user'])).toEqual([]);
    expect(refusalsOf(exampleProfile({ argv: ['-netdev', 'tap,id=n0,vhost=on'] }))).toEqual([]);
  });

  it.each([
    ['tap,id=n0,vhost=on', 'vhost -netdev n0'],
    ['{"type":"tap","id":"n0","vhost":true,"fd":"3"}', 'vhost -netdev n0'],
    ['tap,id=n0,vhostforce=on', 'vhost -netdev n0'],
    ['tap,id=n0,queues=2', 'net-queues -netdev n0'],
    ['tap,id=n0,fds=3:4', 'net-queues -netdev n0'],
  ])('does not with %s', (netdev, refusal) => {
    expect(held(['-netdev', netdev])).toEqual([refusal]);
  });

  it('does not on a netdev plugged later, which only the open vhost-net tells', () => {
    expect(held(['-netdev', 'tap,id=n0'], true)).toEqual([
      'vhost a netdev plugged after the start',
    ]);
    expect(hasVhostNet(process.pid)).toBe(false);
    expect(() => hasVhostNet(2 ** 30)).toThrow(/cannot be seen/);
  });

  it('is that of the NICs with a netdev, each once', () => {
    const nic = (netdev: string) => ({ device: 'x', netdev, mac: '52:54:00:00:00:01' });
    expect(
      netdevsOfNics(exampleProfile({ nics: [nic('b'), nic(''), nic('a'), nic('b')] })),
    ).toEqual(['b', 'a']);
  });
});

describe('CPU features', () => {
  const word = (bits: number, leaf = 1, subleaf: number | null = null): FeatureWord => ({
    leaf,
    subleaf,
    register: 'ECX',
    bits,
  });

  it('fit when the backup has every bit of the source', () => {
    expect(missingFeatures([word(0b101)], [word(0b111)])).toEqual([]);
    expect(missingFeatures([], [])).toEqual([]);
    expect(missingFeatures([word(0x8000_0000)], [word(0xffff_ffff)])).toEqual([]);
  });

  it('are named when they do not', () => {
    expect(missingFeatures([word(0b111)], [word(0b101)])).toEqual(['pclmulqdq']);
    expect(missingFeatures([word(0x8000_0001)], [])).toEqual(['hypervisor', 'pni']);
    expect(missingFeatures([word(1, 0x14, 3)], [])).toEqual(['CPUID.14h.3:ECX[0]']);
    expect(featureName({ leaf: 7, subleaf: 0, register: 'EBX', bits: 0 }, 5)).toBe('avx2');
  });
});

describe('profiles that travel', () => {
  it('survive JSON, and are refused with anything malformed', () => {
    const profile = exampleProfile();
    expect(qemuProfileSchema.parse(JSON.parse(JSON.stringify(profile)))).toEqual(profile);
    for (const changes of [
      { schemaVersion: 2 },
      { memoryBytes: -1 },
      { argv: [5] },
      { argv: 'x' },
    ]) {
      expect(qemuProfileSchema.safeParse({ ...profile, ...changes }).success).toBe(false);
    }
  });
});

describe('info network', () => {
  it('gives backends and not NICs', () => {
    const text =
      'n0: index=0,type=user,net=10.0.2.0,restrict=off\r\nnic1: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56\r\n \\ n1: index=0,type=tap,ifname=t0\r\n';
    expect(netdevsIn(text, new Set(['n0']))).toEqual([
      { id: 'n0', type: 'user', isAdded: false },
      { id: 'n1', type: 'tap', isAdded: true },
    ]);
  });
});
