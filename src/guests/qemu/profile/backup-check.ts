/**
 * Whether this host can take a machine over, found out before anything starts: its QEMU is started
 * for a moment and asked, the CPU that it would give the guest is compared bit by bit, and the
 * command line is made to see what has no place here. All reasons are told at once.
 */
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { RomulusError } from '../../../base/errors.ts';
import { PAGE_BYTES } from '../../../base/units.ts';
import type { DiskMode } from '../../guest.ts';
import {
  directoryRoom,
  HUGE_PAGES_PATH,
  hugePageRoom,
  neededBytes,
} from '../incoming/memory-room.ts';
import { filesOfDisks, refusalOfForeign, refusalOfReplica } from '../incoming/replica-files.ts';
import { ask, ifKnown } from '../qmp/commands.ts';
import type { QemuVersion } from '../qmp/messages.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import { parseArgv } from './argv.ts';
import { type IncomingCommand, type IncomingOptions, incomingCommandLine } from './command-line.ts';
import { missingFeatures, readFeatureWords } from './cpu.ts';
import type { QemuMappingInput } from './mapping.ts';
import type { MappingProblem } from './places.ts';
import { probeQemu } from './probe.ts';
import type { FeatureWord, QemuProfile } from './profile.ts';
import { type Refusal, refusalsOf } from './refusals.ts';
import { vnetRefusals } from './vnet-headers.ts';

/** What a backup has for a machine. */
export interface BackupFacilities {
  /** The QEMU to start; as for `incomingCommandLine`. */
  readonly binary?: IncomingOptions['binary'];
  readonly mapping?: QemuMappingInput;
  /** As the primary says; `diskModeHere` must agree. */
  readonly diskMode: DiskMode;
  readonly diskModeHere: DiskMode;
  /** Where the machine's sockets and files will be. */
  readonly directory: string;
  /** Where its RAM will be, on tmpfs or hugetlbfs; memory without a file when left out. */
  readonly ramDirectory?: string;
}

interface QemuAbilities {
  readonly version: QemuVersion;
  readonly machines: ReadonlySet<string>;
  readonly missingDrivers: readonly string[];
}

/**
 * Why this host cannot take the machine over; empty when it can.
 * @throws {RomulusError} ERR_CONFIG_INVALID when the mapping is malformed, or as `QmpClient` when a
 *   started QEMU falls silent.
 */
export async function refusalsOnBackup(
  profile: QemuProfile,
  facilities: BackupFacilities,
): Promise<Refusal[]> {
  const launcher = launcherOf(profile, facilities);
  const probe = await probeQemu(launcher, ['-machine', 'none'], async (client) => ({
    version: client.version,
    machines: new Set(
      (await ask(client, 'query-machines')).flatMap(({ name, alias }) =>
        alias === undefined ? [name] : [name, alias],
      ),
    ),
    missingDrivers: await missingDrivers(client, profile),
  }));
  const rest = [
    // What the source should have refused is refused here as well.
    ...refusalsOf(profile),
    ...mappingRefusals(profile, facilities),
    ...vnetRefusals(profile, facilities.mapping?.netdevs),
    ...modeRefusals(facilities),
    ...(await fileRefusals(profile, facilities)),
    ...(await diskRefusals(profile, facilities)),
    ...hugepageRefusals(profile, facilities),
    ...roomRefusals(profile, facilities),
  ];
  if (probe.kind === 'failed') {
    const what = launcher.join(' ');
    return [
      { code: 'qemu-start', what, why: probe.said, remedy: 'Install QEMU, or name the right one.' },
      ...rest,
    ];
  }
  const machine = machineRefusals(profile, probe.value);
  // A machine that is unknown here cannot be started to look at its CPU.
  const cpu = machine.length > 0 ? [] : await cpuRefusals(profile, launcher);
  return [...machine, ...driverRefusals(probe.value), ...cpu, ...rest];
}

function launcherOf(profile: QemuProfile, { binary }: BackupFacilities): readonly string[] {
  if (binary !== undefined) return typeof binary === 'string' ? [binary] : binary;
  const { options } = parseArgv(['qemu', ...profile.argv]);
  const directories = options.flatMap(({ name, value }) =>
    name === 'L' ? ['-L', value ?? ''] : [],
  );
  return [...profile.qemu.launcher, ...directories];
}

function machineRefusals(profile: QemuProfile, abilities: QemuAbilities): Refusal[] {
  const { machine } = profile;
  if (abilities.machines.has(machine)) return [];
  const { major, minor } = abilities.version;
  const [, needsMajor, needsMinor] = /-(\d+)\.(\d+)$/.exec(machine) ?? [];
  const isOlder =
    needsMajor !== undefined &&
    (Number(needsMajor) > major || (Number(needsMajor) === major && Number(needsMinor) > minor));
  return [
    {
      code: isOlder ? 'qemu-older' : 'machine-type',
      what: `-machine ${machine}`,
      why: isOlder
        ? `the QEMU here is ${major}.${minor}, older than the machine type`
        : `the QEMU here (${major}.${minor}) does not have it`,
      remedy: isOlder
        ? 'Install a newer QEMU here, or start the machine with an older machine type.'
        : 'Start the machine with a machine type that both hosts have.',
    },
  ];
}

/** Asked one by one: listing all types would make QEMU load every module that it finds. */
async function missingDrivers(client: QmpClient, profile: QemuProfile): Promise<string[]> {
  const missing: string[] = [];
  for (const driver of new Set(profile.devices.map((device) => device.driver))) {
    const known = await ifKnown(ask(client, 'device-list-properties', { typename: driver }));
    if (known === undefined) missing.push(driver);
  }
  return missing;
}

function driverRefusals({ missingDrivers }: QemuAbilities): Refusal[] {
  return missingDrivers.map((driver) => ({
    code: 'device-type',
    what: `-device ${driver}`,
    why: 'the QEMU here does not have this device',
    remedy: 'Install the package with it here (modules of QEMU come in packages of their own).',
  }));
}

async function cpuRefusals(profile: QemuProfile, launcher: readonly string[]): Promise<Refusal[]> {
  const { options } = parseArgv(['qemu', ...profile.argv]);
  const model = options.findLast(({ name }) => name === 'cpu')?.value;
  const args = ['-machine', profile.machine, '-accel', profile.accelerator, '-m', '64'];
  if (model !== undefined && model !== null) args.push('-cpu', model);
  const probe = await probeQemu(launcher, args, async (client): Promise<FeatureWord[]> => {
    const [cpu] = await ask(client, 'query-cpus-fast');
    return cpu === undefined ? [] : readFeatureWords(client, cpu['qom-path']);
  });
  if (probe.kind === 'failed') {
    return [
      {
        code: 'accelerator',
        what: args.join(' '),
        why: probe.said,
        remedy: `Make the accelerator '${profile.accelerator}' usable here (for kvm: /dev/kvm).`,
      },
    ];
  }
  const missing = missingFeatures(profile.cpu.featureWords, probe.value);
  if (missing.length === 0) return [];
  return [
    {
      code: 'cpu-features',
      what: `-cpu ${model ?? '(default)'}`,
      why: `the CPU here lacks ${missing.join(', ')}`,
      remedy: 'Start the machine with a CPU model that both hosts have, such as `-cpu x86-64-v2`.',
    },
  ];
}

function mappingRefusals(profile: QemuProfile, facilities: BackupFacilities): Refusal[] {
  const problems = commandLine(profile, facilities);
  if (!('problems' in problems)) return [];
  return problems.problems.map(({ argument, why, key }) => ({
    code: 'mapping',
    what: argument,
    why,
    remedy: `Set ${key} in the mapping.`,
  }));
}

async function fileRefusals(
  profile: QemuProfile,
  facilities: BackupFacilities,
): Promise<Refusal[]> {
  const made = commandLine(profile, facilities);
  if ('problems' in made) return [];
  const refusals: Refusal[] = [];
  for (const file of made.neededFiles) {
    try {
      await access(file, constants.R_OK);
    } catch (error) {
      refusals.push({
        code: 'file',
        what: file,
        why: `it cannot be read here (${error instanceof Error ? error.message : String(error)})`,
        remedy: `Put it there, or set files["${file}"] in the mapping.`,
      });
    }
  }
  return refusals;
}

/** Who runs this host must have agreed to what becomes of the disks. */
function modeRefusals({ diskMode, diskModeHere }: BackupFacilities): Refusal[] {
  if (diskMode === diskModeHere) return [];
  return [
    {
      code: 'disk-mode',
      what: `--disk ${diskModeHere}`,
      why: `the primary was started with --disk ${diskMode}`,
      remedy: 'Start both nodes with the same --disk.',
    },
  ];
}

async function diskRefusals(
  profile: QemuProfile,
  facilities: BackupFacilities,
): Promise<Refusal[]> {
  const made = commandLine(profile, facilities);
  if ('problems' in made) return [];
  const { files, foreign } = filesOfDisks(profile, made.disks, facilities.diskMode);
  const refusals = await Promise.all([
    ...files.map((file) => refusalOfReplica(file)),
    ...foreign.map((path) => refusalOfForeign(path)),
  ]);
  return refusals.filter((refusal) => refusal !== null);
}

function commandLine(
  profile: QemuProfile,
  facilities: BackupFacilities,
):
  | Pick<IncomingCommand, 'neededFiles' | 'disks'>
  | { readonly problems: readonly MappingProblem[] } {
  const { binary, mapping, directory, diskMode } = facilities;
  const ram = Object.fromEntries(profile.memory.map(({ backendId }) => [backendId, '/dev/null']));
  try {
    return incomingCommandLine(profile, {
      qmpPath: `${directory}/qmp`,
      ram,
      directory,
      diskMode,
      ...(binary === undefined ? {} : { binary }),
      ...(mapping === undefined ? {} : { mapping }),
    });
  } catch (error) {
    if (!(error instanceof RomulusError) || error.code !== 'ERR_CONFIG_QEMU_MAPPING') throw error;
    return { problems: error.details['problems'] as MappingProblem[] };
  }
}

function hugepageRefusals(
  profile: QemuProfile,
  { mapping, ramDirectory }: BackupFacilities,
): Refusal[] {
  // Who names a directory decides with it of which pages the RAM is.
  if (mapping?.hugepages === 'ordinary' || ramDirectory !== undefined) return [];
  const sizes = new Map<number, number[]>();
  for (const { hugepageBytes, bytes } of profile.memory) {
    if (hugepageBytes === null) continue;
    sizes.set(hugepageBytes, [...(sizes.get(hugepageBytes) ?? []), bytes]);
  }
  const refusals: Refusal[] = [];
  for (const [pageBytes, blocks] of sizes) {
    const kib = pageBytes / 1024;
    const room = hugePageRoom(pageBytes);
    const bytes = neededBytes(blocks, pageBytes);
    if (room !== null && room.freeBytes >= bytes) continue;
    refusals.push({
      code: 'hugepages',
      what: `${bytes} bytes of RAM in huge pages of ${kib} KiB`,
      why:
        room === null
          ? 'this host has none of that size'
          : `only ${room.freeBytes / pageBytes} are free here`,
      remedy: `Reserve them (${HUGE_PAGES_PATH}/hugepages-${kib}kB/nr_hugepages), or set hugepages: "ordinary" in the mapping.`,
    });
  }
  return refusals;
}

/** Without a directory, whether the memory can be had is found out when it is made. */
function roomRefusals(profile: QemuProfile, { ramDirectory }: BackupFacilities): Refusal[] {
  if (ramDirectory === undefined) return [];
  const room = directoryRoom(ramDirectory);
  const sizes = profile.memory.map(({ bytes }) => bytes);
  const bytes = neededBytes(sizes, room.pageBytes);
  if (room.freeBytes >= bytes) return [];
  const isHuge = room.pageBytes !== PAGE_BYTES;
  return [
    {
      code: 'memory-room',
      what: `${bytes} bytes of RAM`,
      why: `${ramDirectory} has room for ${room.freeBytes} bytes`,
      remedy: isHuge
        ? `Reserve huge pages (${HUGE_PAGES_PATH}/hugepages-${room.pageBytes / 1024}kB/nr_hugepages).`
        : `Make room there: \`mount -o remount,size=... ${ramDirectory}\` if it is a tmpfs.`,
    },
  ];
}
