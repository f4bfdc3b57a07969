/**
 * Goal: the command line made from a running machine's profile starts a QEMU with the same devices
 * at the same places and the same RAM blocks, whatever the machine is made of.
 */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { incomingCommandLine } from '../../../../src/guests/qemu/profile/command-line.ts';
import type { QemuMappingInput } from '../../../../src/guests/qemu/profile/mapping.ts';
import type { QemuProfile } from '../../../../src/guests/qemu/profile/profile.ts';
import { readProfile } from '../../../../src/guests/qemu/profile/read-profile.ts';
import type { QmpClient } from '../../../../src/guests/qemu/qmp/qmp-client.ts';
import { Bench, type StartedQemu } from './start-qemu.ts';

const MIB = 1024 * 1024;
let bench: Bench;

beforeEach(() => {
  bench = new Bench();
});
afterEach(() => bench.stop());

/** Name and sizes of every RAM block. */
async function ramBlocks(client: QmpClient): Promise<string[]> {
  const printed = await client.humanMonitor('info ramblock');
  return printed
    .split(/\r?\n/)
    .slice(1)
    .flatMap((line) => {
      const [, name, used, total] =
        /^\s*(.+?)\s+\d+ [KM]iB\s+0x\w+ (0x\w+) (0x\w+)/.exec(line) ?? [];
      return name === undefined ? [] : [`${name} ${used} ${total}`];
    })
    .sort();
}

async function children(client: QmpClient, path: string): Promise<string[]> {
  const listed = (await client.command('qom-list', { path })) as { name: string; type: string }[];
  return listed.map(({ name, type }) => `${name} ${type}`).sort();
}

/** The guest does not run, so nobody answers the button; a reset executes what is pending. */
async function unplug(client: QmpClient, id: string): Promise<void> {
  await client.command('device_del', { id });
  await client.command('system_reset');
  const gone = expect.stringContaining(`${id} `) as unknown;
  await expect.poll(() => children(client, '/machine/peripheral')).not.toContainEqual(gone);
}

interface PciDevice {
  readonly bus: number;
  readonly slot: number;
  readonly function: number;
  readonly qdev_id: string;
  readonly id: object;
  readonly pci_bridge?: { readonly devices?: PciDevice[] };
}

/** All PCI devices; the numbers of buses behind bridges are given by firmware, so not compared. */
async function pci(client: QmpClient): Promise<unknown[]> {
  const buses = (await client.command('query-pci')) as { devices: PciDevice[] }[];
  const flatten = (devices: PciDevice[], above: string): unknown[] =>
    devices.flatMap((device) => {
      const place = `${above}/${device.slot}.${device.function}`;
      return [{ place, name: device.qdev_id, id: device.id }].concat(
        flatten(device.pci_bridge?.devices ?? [], place) as never[],
      );
    });
  return flatten(
    buses.flatMap(({ devices }) => devices),
    '',
  );
}

async function rebuild(
  profile: QemuProfile,
  mapping?: QemuMappingInput,
  name = 'copy',
): Promise<StartedQemu> {
  const ram = Object.fromEntries(
    profile.memory.map(({ backendId, bytes }) => [
      backendId,
      bench.image(`${name}-${backendId}`, bytes),
    ]),
  );
  const qmpPath = bench.path(`${name}.qmp`);
  // What travels is JSON.
  const travelled = JSON.parse(JSON.stringify(profile)) as QemuProfile;
  const { command, args } = incomingCommandLine(travelled, {
    qmpPath,
    ram,
    directory: bench.directory,
    ...(mapping === undefined ? {} : { mapping }),
  });
  return bench.start(command, args, qmpPath);
}

async function expectSame(source: StartedQemu, copy: StartedQemu): Promise<void> {
  expect(await copy.client.command('query-status')).toMatchObject({ status: 'inmigrate' });
  expect(await ramBlocks(copy.client)).toEqual(await ramBlocks(source.client));
  for (const path of ['/machine/peripheral', '/machine/peripheral-anon']) {
    expect(await children(copy.client, path)).toEqual(await children(source.client, path));
  }
  expect(await pci(copy.client)).toEqual(await pci(source.client));
  expect(await copy.client.command('query-uuid')).toEqual(
    await source.client.command('query-uuid'),
  );
}

const BARE = '-nodefaults -machine q35 -accel tcg -m 64'.split(' ');

describe('a machine with', () => {
  const configurations: Readonly<Record<string, string>> = {
    'q35 and nothing else': '-nodefaults -machine q35 -accel tcg -m 64',
    'pc and no -m': '-nodefaults -M pc,accel=kvm:tcg',
    'all defaults':
      '-accel tcg,thread=multi -m 96M -cpu max -smp 2 -name guest=known,debug-threads=on -uuid 6b1c3a6e-8a6d-4b0e-8b0e-2f3f6d1c9a11',
    'no graphics': '-nographic -serial null -m 64',
    'a VGA card': '-nodefaults -machine q35 -m 64 -vga std',
    'memory in a memfd':
      '-nodefaults -machine q35,memory-backend=mem -m 64 -object memory-backend-memfd,id=mem,size=64M,share=on',
    'two NUMA nodes':
      '-nodefaults -machine q35 -m 128 -smp 2 -object memory-backend-ram,id=n0,size=64M -object memory-backend-ram,id=n1,size=64M -numa node,memdev=n0,cpus=0 -numa node,memdev=n1,cpus=1',
    'ports, monitors and a network':
      '-nodefaults -machine pc -m 64 -serial unix:console,server=on,wait=off -serial mon:null -chardev socket,id=mon,path=mon.sock,server,nowait -mon chardev=mon,mode=readline -chardev null,id=c1 -device virtio-serial-pci -device virtconsole,chardev=c1 -netdev user,id=net0,hostfwd=tcp:127.0.0.1:0-:22 -device e1000,netdev=net0 -nic user,model=virtio-net-pci -pidfile pid -vnc none',
    'JSON arguments':
      '-nodefaults -machine q35 -m 64 -object {"qom-type":"memory-backend-ram","id":"pc.ram","size":67108864} -machine memory-backend=pc.ram -device {"driver":"pcie-root-port","port":16,"chassis":1,"id":"pci.1","bus":"pcie.0","multifunction":true,"addr":"0x2"} -device {"driver":"virtio-rng-pci","bus":"pci.1"} -blockdev {"driver":"null-co","node-name":"nothing","read-zeroes":true} -device {"driver":"virtio-blk-pci","drive":"nothing","id":"vd0"}',
  };

  it.each(Object.entries(configurations))('%s', async (_, line) => {
    const source = await bench.source(line.split(' '));
    const profile = await readProfile(source.client, source.pid);
    expect(profile.machine).toMatch(/^pc-(?:q35|i440fx)-\d+\.\d+$/);
    const kvm = (await source.client.command('query-kvm')) as { enabled: boolean };
    expect(profile.accelerator).toBe(kvm.enabled ? 'kvm' : 'tcg');
    expect(profile.cpu.featureWords.length).toBeGreaterThan(2);
    await expectSame(source, await rebuild(profile));
  });

  it('virtio disk and NIC, mapped', async () => {
    const disk = bench.image('disk.img', 8 * MIB);
    const copyDisk = bench.image('replica.img', 8 * MIB);
    const source = await bench.source([
      ...BARE,
      ...`-drive file=${disk},if=none,id=d0,format=raw -device virtio-blk-pci,drive=d0`.split(' '),
      ...'-netdev user,id=n0 -device virtio-net-pci,netdev=n0,id=nic0'.split(' '),
    ]);
    const profile = await readProfile(source.client, source.pid);
    expect(profile.drives).toMatchObject([{ id: 'd0', file: disk, format: 'raw', bytes: 8 * MIB }]);
    expect(profile.nics).toMatchObject([{ device: 'nic0', netdev: 'n0' }]);
    await expect(rebuild(profile)).rejects.toMatchObject({
      code: 'ERR_CONFIG_QEMU_MAPPING',
      details: { problems: [{ key: 'drives.d0' }] },
    });
    const copy = await rebuild(profile, { drives: { d0: copyDisk } });
    await expectSame(source, copy);
    const blocks = (await copy.client.command('query-block')) as object[];
    expect(blocks).toMatchObject([{ inserted: { file: copyDisk } }]);
  });

  it('a device unplugged that stood before others', async () => {
    const rng = (id: string): string[] => ['-device', `virtio-rng-pci${id}`];
    const machine = '-nodefaults -machine pc -accel tcg -m 64'.split(' ');
    const source = await bench.source([
      ...machine,
      ...rng(',id=gone'),
      ...rng(''),
      ...rng(',id=r3'),
    ]);
    await unplug(source.client, 'gone');
    const profile = await readProfile(source.client, source.pid);
    expect(profile.devices.map(({ id }) => id)).toEqual(['r3', null]);
    await expectSame(source, await rebuild(profile));
  });

  it('devices plugged and unplugged since, also after a second failover', async () => {
    const source = await bench.source([
      ...'-nodefaults -machine q35 -accel tcg -m 64M,slots=2,maxmem=512M'.split(' '),
      ...'-smp 1,sockets=2,cores=1,maxcpus=2'.split(' '),
      ...'-device pcie-root-port,id=rp1,slot=1 -device pcie-root-port,id=rp2,slot=2'.split(' '),
      ...'-device pcie-root-port,id=rp3,slot=3 -device virtio-rng-pci,id=gone,bus=rp1'.split(' '),
    ]);
    const { client } = source;
    const run = async (name: string, args: object): Promise<unknown> => client.command(name, args);
    await unplug(client, 'gone');
    await run('object-add', { 'qom-type': 'memory-backend-ram', id: 'm1', size: 64 * MIB });
    await run('device_add', { driver: 'pc-dimm', id: 'dimm1', memdev: 'm1' });
    await run('netdev_add', { type: 'user', id: 'n1' });
    const nic = { driver: 'virtio-net-pci', id: 'nic1', netdev: 'n1', bus: 'rp3', mq: true };
    await run('device_add', { ...nic, mac: '52:54:00:aa:bb:cc' });
    await run('object-add', { 'qom-type': 'rng-random', id: 'rng0', filename: '/dev/urandom' });
    await run('device_add', { driver: 'virtio-rng-pci', id: 'rng1', rng: 'rng0', bus: 'rp2' });
    const cpu = { 'socket-id': 1, 'core-id': 0, 'thread-id': 0 };
    await run('device_add', { driver: 'qemu64-x86_64-cpu', id: 'cpu1', ...cpu });

    const profile = await readProfile(client, source.pid);
    const added = profile.devices.filter(({ isAdded }) => isAdded).map(({ id }) => id);
    expect(new Set(added)).toEqual(new Set(['cpu1', 'dimm1', 'nic1', 'rng1']));
    expect(profile.cpu.count).toBe(2);
    expect(new Set(profile.memory.map(({ use }) => use))).toEqual(new Set(['dimm', 'main']));
    const copy = await rebuild(profile);
    await expectSame(source, copy);
    expect(
      await copy.client.command('qom-get', { path: '/machine/peripheral/nic1', property: 'mac' }),
    ).toBe('52:54:00:aa:bb:cc');
    const modules = (from: QmpClient): Promise<unknown> => from.command('query-memory-devices');
    expect(await modules(copy.client)).toMatchObject([{ data: { addr: 4 * 1024 * MIB, slot: 0 } }]);

    const again = await readProfile(copy.client, copy.pid);
    expect(again.devices.filter(({ isAdded }) => isAdded)).toEqual([]);
    await expectSame(copy, await rebuild(again, undefined, 'third'));
  });
});

describe('reading', () => {
  it('refuses a process that is not the machine', async () => {
    const source = await bench.source(BARE);
    await expect(readProfile(source.client, process.pid)).rejects.toMatchObject({
      code: 'ERR_GUEST_PROFILE',
    });
    await expect(readProfile(source.client, 2 ** 22 + 1)).rejects.toMatchObject({
      code: 'ERR_GUEST_PROFILE',
    });
  });

  it('takes a machine that made itself a daemon', async () => {
    const qmpPath = bench.path('daemon.qmp');
    const args = [...BARE, '-display', 'none', '-daemonize', '-S', '-pidfile', bench.path('pid')];
    const { client } = await bench.start(
      'qemu-system-x86_64',
      [...args, '-qmp', `unix:${qmpPath},server=on,wait=off`],
      qmpPath,
    );
    try {
      const profile = await readProfile(client, client.peerPid);
      expect(profile.workingDirectory).toBe('/');
      await expectSame({ client, pid: client.peerPid }, await rebuild(profile));
    } finally {
      await client.command('quit');
    }
  });
});
