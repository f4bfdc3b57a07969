/** A profile of a small machine, to be varied. */
import type { QemuProfile } from '../../../../src/guests/qemu/profile/profile.ts';

export function exampleProfile(changes: Partial<QemuProfile> = {}): QemuProfile {
  return {
    schemaVersion: 1,
    name: 'example',
    uuid: '00000000-0000-0000-0000-000000000000',
    qemu: {
      version: { major: 7, minor: 2, micro: 22, package: '' },
      binary: '/usr/bin/qemu-system-x86_64',
      launcher: ['/usr/bin/qemu-system-x86_64'],
    },
    machine: 'pc-q35-7.2',
    accelerator: 'tcg',
    argv: ['-nodefaults', '-machine', 'q35', '-m', '64'],
    workingDirectory: '/home/vm',
    cpu: { type: 'qemu64-x86_64-cpu', count: 1, featureWords: [] },
    memoryBytes: 67_108_864,
    memory: [
      {
        backendId: 'pc.ram',
        blockName: 'pc.ram',
        bytes: 67_108_864,
        type: 'memory-backend-ram',
        use: 'main',
        hugepageBytes: null,
      },
    ],
    devices: [],
    objects: [],
    drives: [],
    blockNodes: [],
    netdevs: [],
    nics: [],
    chardevs: [],
    tpms: [],
    balloonBytes: null,
    migrationBlockers: [],
    configuration: '',
    ramBlocks: [],
    ...changes,
  };
}

export function device(driver: string, id: string): QemuProfile['devices'][number] {
  return {
    id,
    path: `/machine/peripheral/${id}`,
    driver,
    isAdded: false,
    pci: null,
    properties: {},
  };
}
