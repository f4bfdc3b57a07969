/**
 * Goal: the command line made from a running machine's profile starts a QEMU with the same devices
 * at the same places and the same RAM blocks, whatever the machine is made of.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { RomulusError } from '../../../../src/base/errors.ts';
import { incomingCommandLine } from '../../../../src/guests/qemu/profile/command-line.ts';
import type { QemuMappingInput } from '../../../../src/guests/qemu/profile/mapping.ts';
import type { MappingProblem } from '../../../../src/guests/qemu/profile/places.ts';
import type { QemuProfile } from '../../../../src/guests/qemu/profile/profile.ts';
import { readProfile } from '../../../../src/guests/qemu/profile/read-profile.ts';
import { refusalsOf } from '../../../../src/guests/qemu/profile/refusals.ts';
import type { QmpClient } from '../../../../src/guests/qemu/qmp/qmp-client.ts';
import { Bench, QEMU, type StartedQemu } from './start-qemu.ts';
import { requireQemu } from '../../../support/qemu/require-qemu.ts';

const hasQemu = await requireQemu();

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
  binary?: string,
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
    diskMode: 'none',
    ...(mapping === undefined ? {} : { mapping }),
    ...(binary === undefined ? {} : { binary }),
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

/** The proof of it all: QEMU's own migration, which compares device by device, goes through. */
async function expectAccepts(source: StartedQemu, copy: StartedQemu): Promise<void> {
  const uri = `unix:${bench.path('migration')}`;
  await copy.client.command('migrate-incoming', { uri });
  await source.client.command('migrate', { uri });
  const status = async (): Promise<unknown> =>
    ((await source.client.command('query-migrate')) as { status: string }).status;
  await expect.poll(status, { timeout: 10_000 }).toBe('completed');
  await expect
    .poll(() => copy.client.command('query-status'), { timeout: 10_000 })
    .not.toMatchObject({ status: 'inmigrate' });
}

describe.skipIf(!hasQemu)('a machine with', () => {
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
    const copy = await rebuild(profile);
    await expectSame(source, copy);
    await expectAccepts(source, copy);
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
    await expectAccepts(source, copy);
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
    const copy = await rebuild(profile);
    await expectSame(source, copy);
    await expectAccepts(source, copy);
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

    await expectAccepts(source, copy);
    const again = await readProfile(copy.client, copy.pid);
    expect(again.devices.filter(({ isAdded }) => isAdded)).toEqual([]);
    const third = await rebuild(again, undefined, 'third');
    await expectSame(copy, third);
    await expectAccepts(copy, third);
  });

  it('disks, ports and USB plugged since', async () => {
    const disk = bench.image('plugged.img', MIB);
    const replica = bench.image('plugged-replica.img', MIB);
    const source = await bench.source([
      ...'-nodefaults -machine pc -accel tcg -m 64 -device virtio-scsi-pci,id=scsi0'.split(' '),
      ...'-device virtio-serial-pci,id=vs0 -device qemu-xhci,id=xhci'.split(' '),
    ]);
    const { client } = source;
    const run = async (name: string, args: object): Promise<unknown> => client.command(name, args);
    for (const name of ['one', 'two']) {
      const file = { driver: 'file', filename: disk, locking: 'off' };
      await run('blockdev-add', { driver: 'raw', 'node-name': name, file });
    }
    await run('device_add', { driver: 'scsi-hd', id: 'sd0', drive: 'one', bus: 'scsi0.0', lun: 3 });
    const blk = { driver: 'virtio-blk-pci', id: 'vd0', drive: 'two', serial: 'a,b' };
    await run('device_add', { ...blk, 'share-rw': true });
    await run('chardev-add', { id: 'c1', backend: { type: 'null', data: {} } });
    const port = { driver: 'virtserialport', id: 'p1', chardev: 'c1', nr: 5, bus: 'vs0.0' };
    await run('device_add', { ...port, name: 'org.example' });
    await run('device_add', { driver: 'usb-tablet', id: 'tablet', bus: 'xhci.0' });

    const profile = await readProfile(client, source.pid);
    const refused = (await rebuild(profile).catch((error: unknown) => error)) as RomulusError;
    const problems = refused.details['problems'] as MappingProblem[];
    expect(new Set(problems.map(({ key }) => key))).toEqual(
      new Set(['drives.one', 'drives.two', 'chardevs.c1']),
    );
    const two = bench.image('plugged-replica-2.img', MIB);
    const copy = await rebuild(profile, {
      drives: { one: replica, two },
      chardevs: { c1: 'null' },
    });
    await expectSame(source, copy);
    const serial = { path: '/machine/peripheral/vd0', property: 'serial' };
    expect(await copy.client.command('qom-get', serial)).toBe('a,b');
    await expectAccepts(source, copy);
  });
});

describe.skipIf(!hasQemu)('refusals of a real machine', () => {
  const codes = async (line: string): Promise<string[]> => {
    const source = await bench.source([...BARE, ...line.split(' ')]);
    return refusalsOf(await readProfile(source.client, source.pid)).map(({ code }) => code);
  };

  it("finds shared memory, and keeps QEMU's own words", async () => {
    const shared = 'memory-backend-file,id=sh,size=1M,share=on,mem-path';
    const line = `-object ${shared}=${bench.path('sh')} -device ivshmem-plain,memdev=sh,id=iv`;
    expect(await codes(line)).toEqual(['shared-memory', 'migration-blocked']);
  });

  it('finds memory that comes and goes', async () => {
    const memory = '-m 64M,maxmem=1G -object memory-backend-ram,id=v,size=128M';
    expect(await codes(`${memory} -device virtio-mem-pci,memdev=v,id=vm0`)).toEqual([
      'memory-device',
    ]);
  });

  it('finds nothing against ordinary devices', async () => {
    expect(await codes('-device virtio-balloon-pci -device qemu-xhci -device usb-tablet')).toEqual(
      [],
    );
  });
});

describe.skipIf(!hasQemu)('reading', () => {
  it('refuses a process that is not the machine', async () => {
    const source = await bench.source(BARE);
    await expect(readProfile(source.client, process.pid)).rejects.toMatchObject({
      code: 'ERR_GUEST_PROFILE',
    });
    await expect(readProfile(source.client, 2 ** 22 + 1)).rejects.toMatchObject({
      code: 'ERR_GUEST_PROFILE',
    });
  });

  it('takes a machine started through the dynamic loader', async () => {
    const loader = '/lib64/ld-linux-x86-64.so.2';
    const program = execFileSync('which', [QEMU], { encoding: 'utf8' }).trim();
    // A version beside the system's comes with a script that does the same.
    const isScript = readFileSync(program).subarray(0, 2).toString() === '#!';
    const qmpPath = bench.path('loaded.qmp');
    const own = ['-display', 'none', '-S', '-qmp', `unix:${qmpPath},server=on,wait=off`];
    const [command, args] = isScript ? [program, []] : [loader, [program]];
    const firmware = '-L /usr/share/qemu -L /usr/share/seabios'.split(' ');
    // QEMU looks for its modules and firmware beside the running program, which is the loader.
    bench.environment = isScript ? {} : { QEMU_MODULE_DIR: '/usr/lib/x86_64-linux-gnu/qemu' };
    const source = await bench.start(
      command,
      [...args, ...(isScript ? [] : firmware), ...BARE, ...own],
      qmpPath,
    );
    const profile = await readProfile(source.client, source.pid);
    expect(profile.qemu.launcher.length).toBeGreaterThan(1);
    expect(profile.qemu.binary).toContain('qemu-system');
    // Environments do not travel, so a script would be named as the backup's binary.
    await expectSame(
      source,
      await rebuild(profile, undefined, 'copy', isScript ? QEMU : undefined),
    );
  });

  it('takes a machine that made itself a daemon', async () => {
    const qmpPath = bench.path('daemon.qmp');
    const pidFile = bench.path('pid');
    const own = ['-display', 'none', '-daemonize', '-S', '-pidfile', pidFile];
    const args = [...BARE, ...own, '-qmp', `unix:${qmpPath},server=on,wait=off`];
    try {
      const { client } = await bench.start(QEMU, args, qmpPath);
      const profile = await readProfile(client, client.peerPid);
      expect(profile.workingDirectory).toBe('/');
      await expectSame({ client, pid: client.peerPid }, await rebuild(profile));
    } finally {
      // No child of ours: only its own file says which process it is.
      if (existsSync(pidFile)) process.kill(Number(readFileSync(pidFile, 'utf8')), 'SIGKILL');
    }
  });
});
