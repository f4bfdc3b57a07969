/**
 * Reads the profile of a running QEMU: its command line for how it was started, its monitor for what
 * it is by now. The machine is only asked, never changed or stopped.
 */
import { basename } from 'node:path';
import { ask, ifKnown, property, textProperty } from '../qmp/commands.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import { Arguments, IMPLIED_KEYS } from './arguments.ts';
import { formatOptions, parseArgv, type QemuOption } from './argv.ts';
import { readFeatureWords } from './cpu.ts';
import { checkThread, hugepageBytesOf, processFacts, profileError } from './process.ts';
import {
  PROFILE_ENTRIES_MAX,
  PROFILE_TEXT_MAX,
  type ProfileMemory,
  type QemuProfile,
  qemuProfileSchema,
} from './profile.ts';
import { type GivenNames, isOurs, readDevices, readNics, readObjects } from './read-devices.ts';

const MEBIBYTE = 1024 * 1024;
/** Memory of a machine started without -m. */
const DEFAULT_MEMORY_BYTES = 128 * MEBIBYTE;

/**
 * What the QEMU behind a monitor really is.
 * @param pid its process; the monitor's `peerPid`, unless a manager made the socket.
 * @throws {RomulusError} ERR_GUEST_PROFILE when the process cannot be read or is another one, else
 *   as `QmpClient.command`.
 */
export async function readProfile(client: QmpClient, pid: number): Promise<QemuProfile> {
  const facts = processFacts(pid);
  const { launcher, options } = parseArgv(facts.argv);
  const cpus = await ask(client, 'query-cpus-fast');
  const firstCpu = cpus[0];
  if (firstCpu === undefined) throw profileError(pid, 'the machine has no vCPU');
  checkThread(pid, firstCpu['thread-id']);

  const given = namesGiven(options);
  const [machineType, name, uuid, kvm, drives, nodes, chardevs, tpms, balloon, migration, network] =
    await Promise.all([
      textProperty(client, '/machine', 'type'),
      ask(client, 'query-name'),
      ask(client, 'query-uuid'),
      ask(client, 'query-kvm'),
      ask(client, 'query-block'),
      ask(client, 'query-named-block-nodes'),
      ask(client, 'query-chardev'),
      ifKnown(ask(client, 'query-tpm')),
      ifKnown(ask(client, 'query-balloon')),
      ask(client, 'query-migrate'),
      client.humanMonitor('info network'),
    ]);
  const [memory, memoryBytes, devices, objects, cpuType, featureWords] = await Promise.all([
    readMemory(client, pid, options),
    readMemoryBytes(client),
    readDevices(client, given),
    readObjects(client, given),
    textProperty(client, firstCpu['qom-path'], 'type'),
    readFeatureWords(client, firstCpu['qom-path']),
  ]);

  const { data: profile, error } = qemuProfileSchema.safeParse({
    schemaVersion: 1,
    name: name.name ?? '',
    uuid: uuid.UUID,
    qemu: {
      version: client.version,
      binary: launcher.length > 1 ? (launcher.at(-1) ?? facts.executable) : facts.executable,
      launcher: launcher.length > 1 ? [facts.executable, ...launcher.slice(1)] : [facts.executable],
    },
    machine: (machineType ?? '').replace(/-machine$/, ''),
    accelerator: acceleratorOf(kvm.enabled, options),
    argv: formatOptions(options),
    workingDirectory: facts.workingDirectory,
    cpu: { type: cpuType ?? '', count: cpus.length, featureWords },
    memoryBytes,
    memory,
    devices,
    objects,
    drives: drives.map(({ device, qdev, removable, inserted }) => ({
      id: device,
      nodeName: inserted?.['node-name'] ?? '',
      device: qdev ?? '',
      file: (inserted?.file ?? '').slice(0, PROFILE_TEXT_MAX),
      format: inserted?.drv ?? '',
      isReadOnly: inserted?.ro ?? false,
      isRemovable: removable,
      bytes: inserted?.image['virtual-size'] ?? 0,
    })),
    blockNodes: nodes.flatMap(({ 'node-name': node }) =>
      node === undefined || node.startsWith('#') ? [] : [node],
    ),
    netdevs: netdevsIn(network, namesOf(options, 'netdev', 'id')),
    nics: await readNics(client, devices),
    chardevs: chardevs
      .filter(({ label }) => !isOurs(label))
      .map(({ label, filename }) => ({ id: label, filename })),
    tpms: (tpms ?? []).map(({ id }) => id),
    balloonBytes: balloon?.actual ?? null,
    migrationBlockers: migration['blocked-reasons'] ?? [],
    configuration: '',
    ramBlocks: [],
  });
  if (profile !== undefined) return profile;
  const issue = error?.issues[0];
  const where = `${issue?.path.join('.')}: ${issue?.message}`;
  throw profileError(pid, `the machine is beyond what can be described: ${where}`, error);
}

/** The accelerator in use: a list of several (`accel=kvm:tcg`) says only what was wished for. */
function acceleratorOf(isKvm: boolean, options: readonly QemuOption[]): string {
  if (isKvm) return 'kvm';
  const wished = options.flatMap(({ name, value }) => {
    if (value === null) return [];
    if (name === 'accel') return [Arguments.parse(value, 'accel').get('accel') ?? ''];
    if (name !== 'machine' && name !== 'M') return [];
    return (Arguments.parse(value, 'type').get('accel') ?? '').split(':');
  });
  return wished.find((accelerator) => accelerator !== '' && accelerator !== 'kvm') ?? 'tcg';
}

function namesOf(options: readonly QemuOption[], option: string, key: string): Set<string> {
  const values = options.filter(({ name }) => name === option);
  return new Set(
    values.flatMap(
      ({ value }) => Arguments.parse(value ?? '', IMPLIED_KEYS[option]).get(key) ?? [],
    ),
  );
}

function namesGiven(options: readonly QemuOption[]): GivenNames {
  const values = (option: string): Arguments[] =>
    options
      .filter(({ name }) => name === option)
      .map(({ value }) => Arguments.parse(value ?? '', IMPLIED_KEYS[option]));
  const unnamed = values('device').filter((device) => device.get('id') === undefined);
  // `-drive if=virtio` makes a device of its own, without a name.
  const implied = values('drive').filter((drive) => drive.get('if') === 'virtio');
  return {
    deviceIds: namesOf(options, 'device', 'id'),
    objectIds: namesOf(options, 'object', 'id'),
    unnamedDeviceCount: unnamed.length + implied.length,
  };
}

async function readMemoryBytes(client: QmpClient): Promise<number> {
  const summary = await ifKnown(ask(client, 'query-memory-size-summary'));
  return summary?.['base-memory'] ?? DEFAULT_MEMORY_BYTES;
}

async function readMemory(
  client: QmpClient,
  pid: number,
  options: readonly QemuOption[],
): Promise<ProfileMemory[]> {
  const [backends, objects, modules, mainPath] = await Promise.all([
    ask(client, 'query-memdev'),
    ask(client, 'qom-list', { path: '/objects' }),
    ifKnown(ask(client, 'query-memory-devices')),
    textProperty(client, '/machine', 'memory-backend'),
  ]);
  const numa = new Set(
    options.flatMap(({ name, value }) =>
      name === 'numa' ? [Arguments.parse(value ?? '', 'type').get('memdev') ?? ''] : [],
    ),
  );
  const memory = backends.slice(0, PROFILE_ENTRIES_MAX).map(async ({ id, size }) => {
    if (id === undefined) throw profileError(pid, 'a memory backend has no id');
    const path = `/objects/${id}`;
    const isCanonical =
      (await property(client, path, 'x-use-canonical-path-for-ramblock-id')) === true;
    const module = modules?.find(({ data }) => data.memdev === path);
    let use: ProfileMemory['use'] = 'other';
    if (mainPath === path) use = 'main';
    else if (numa.has(id)) use = 'numa';
    else if (module !== undefined) use = moduleUse(module.type);
    return {
      backendId: id,
      blockName: isCanonical ? path : id,
      bytes: size,
      type: /^child<(.*)>$/.exec(objects.find(({ name }) => name === id)?.type ?? '')?.[1] ?? '',
      use,
      hugepageBytes: await hugepageBytes(client, pid, path),
    };
  });
  return Promise.all(memory);
}

function moduleUse(type: string): ProfileMemory['use'] {
  return type === 'dimm' || type === 'nvdimm' || type === 'virtio-mem' || type === 'virtio-pmem'
    ? type
    : 'other';
}

async function hugepageBytes(client: QmpClient, pid: number, path: string): Promise<number | null> {
  if ((await property(client, path, 'hugetlb')) === true) {
    const bytes = await property(client, path, 'hugetlbsize');
    return typeof bytes === 'number' && bytes > 0 ? bytes : 2 * MEBIBYTE;
  }
  const file = await textProperty(client, path, 'mem-path');
  return file === undefined || !file.startsWith('/') ? null : hugepageBytesOf(pid, file);
}

/**
 * The netdevs that `info network` lists: `n0: index=0,type=user,...`, indented with a backslash
 * where a NIC is attached. NICs have type=nic and are not ours.
 */
export function netdevsIn(text: string, given: ReadonlySet<string>): QemuProfile['netdevs'] {
  const found = new Map<string, QemuProfile['netdevs'][number]>();
  for (const line of text.split(/\r?\n/)) {
    const match = /^[\s\\]*(\S+): index=\d+,type=([^,]+)/.exec(line);
    const [, id, type] = match ?? [];
    if (id === undefined || type === undefined || type === 'nic' || found.has(id)) continue;
    found.set(id, { id, type, isAdded: !given.has(id) });
  }
  return [...found.values()];
}

/** The name under which people know the machine. */
export function displayName(profile: QemuProfile, path: string): string {
  return profile.name === '' ? basename(path) : profile.name;
}
