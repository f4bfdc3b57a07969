/**
 * Attaches to a QEMU that runs, given its QMP socket: learns what machine it is, where its RAM is,
 * and gives a Guest that can be checkpointed. The machine runs on through all of it, and nothing
 * in it is changed but the userfaultfd that the tracker registers later.
 */
import { readFileSync } from 'node:fs';
import { RomulusError, toRomulusError } from '../../base/errors.ts';
import type {
  DiskMode,
  GuestDescriptor,
  MachineDisks,
  MachineMonitor,
  RamBlock,
} from '../guest.ts';
import { ownerOf } from '../process.ts';
import { Guardian } from './guardian.ts';
import { learnFromStream } from './learn.ts';
import { matchByContent } from './match-content.ts';
import { hasVhostNet, heldNetRefusals, netdevsOfNics } from './profile/net-hold.ts';
import { readProfile } from './profile/read-profile.ts';
import type { ProfileDrive, QemuProfile } from './profile/profile.ts';
import { refusalsOf, refuseIfAny } from './profile/refusals.ts';
import {
  blockJobs,
  diskRefusals,
  disksOf,
  fileOf,
  nameOfDrive,
  replicatedDrives,
} from './profile/replicated-drives.ts';
import { QmpClient } from './qmp/qmp-client.ts';
import { QemuGuest } from './qemu-guest.ts';
import {
  type ListedBlock,
  parseMaps,
  parseRamBlocks,
  type PlacedBlock,
  placeBlocks,
} from './ram-layout.ts';
import { hostAddresses } from './ram-hints.ts';
import { releaseAbandoned, StateFolder } from './state-folder.ts';

export interface AttachQemuOptions {
  /** QEMU's QMP socket. */
  readonly qmpPath: string;
  /** QEMU's process; by default whoever listens on the socket. */
  readonly pid?: number;
  /** What is to become of its disks. */
  readonly diskMode: DiskMode;
  /** Called before anything of the machine is looked at. */
  readonly beforeLooking?: (monitor: MachineMonitor) => Promise<void>;
  /** Whether what its NICs say is to be held; what stands against it is refused then. */
  readonly holdsOutput: boolean;
}

/** States in which there is a machine to protect. */
const PROTECTABLE = new Set(['running', 'paused', 'suspended', 'io-error', 'watchdog', 'debug']);

/**
 * Attaches to a running machine.
 * @throws {RomulusError} ERR_GUEST_UNREACHABLE, ERR_GUEST_QMP_HELD and others of the QMP client;
 *   ERR_GUEST_REFUSED with everything that cannot be replicated; ERR_GUEST_UNMIGRATABLE;
 *   ERR_GUEST_STATE when it is no machine to protect now; ERR_GUEST_RAM_LAYOUT.
 */
export async function attachQemu(options: AttachQemuOptions): Promise<QemuGuest> {
  const { qmpPath } = options;
  // A QEMU that waits there would not answer.
  releaseAbandoned();
  const qmp = await QmpClient.connect(qmpPath);
  let stateFolder: StateFolder | null = null;
  let guardian: Guardian | null = null;
  try {
    const pid = options.pid ?? pidOf(qmp);
    const { status, running } = await statusOf(qmp);
    if (!PROTECTABLE.has(status)) throw wrongState(qmpPath, status);
    await options.beforeLooking?.(qmp);
    stateFolder = new StateFolder(pid);
    const profile = await readProfile(qmp, pid);
    const drives = options.diskMode === 'replicate' ? replicatedDrives(profile) : [];
    const { holdsOutput } = options;
    refuseIfAny(nameOf(profile), [
      ...refusalsOf(profile),
      ...diskRefusals(drives, await blockJobs(qmp)),
      ...(holdsOutput ? heldNetRefusals(profile, hasVhostNet(pid)) : []),
    ]);
    const listed = parseRamBlocks(await qmp.humanMonitor('info ramblock'));
    const { placed, learnt } = await place(qmp, {
      pid,
      listed,
      memory: profile.memory,
      directory: stateFolder.directory,
    });
    const descriptor: GuestDescriptor = {
      ...describe(profile, placed, learnt.configuration),
      disks: disksOf(drives),
      diskMode: options.diskMode,
    };
    const fingerprintNow = await fingerprint(qmp);
    guardian = await Guardian.start(qmpPath, stateFolder.pipe);
    return new QemuGuest({
      qmp,
      pid,
      descriptor,
      disks: machineDisks(drives, pid),
      blocks: placed.map((block, id) => ramBlock(block, id, pid)),
      guardian,
      stateFolder,
      heldNetdevs: holdsOutput ? netdevsOfNics(profile) : [],
      isRunning: running,
      fingerprint,
      fingerprintNow,
    });
  } catch (error) {
    guardian?.dismiss();
    stateFolder?.close();
    qmp.close();
    throw error;
  }
}

/** Finds every block, by its bytes where sizes do not tell which is which. */
async function place(
  qmp: QmpClient,
  options: {
    pid: number;
    listed: readonly ListedBlock[];
    memory: QemuProfile['memory'];
    directory: string;
  },
): Promise<{ placed: PlacedBlock[]; learnt: { configuration: Uint8Array } }> {
  const { pid, listed, memory, directory } = options;
  const inside = listed.some(({ address }) => address === null)
    ? await hostAddresses(qmp, memory)
    : new Map<string, bigint>();
  const { placed: settled, sameSized } = placeBlocks(listed, readMaps(pid), inside);
  const placed = [...settled];
  const unsettled = sameSized.map((group) => matchByContent(pid, group, null));
  const contentsOf = unsettled.flatMap((match) => (match.placed === null ? match.names : []));
  const learnt = await learnFromStream(qmp, directory, {
    ownerUid: ownerOf(pid).uid,
    ...(contentsOf.length > 0 && { contentsOf }),
  });
  for (const group of sameSized) {
    const match = matchByContent(pid, group, learnt.contents);
    if (match.placed === null)
      throw new RomulusError(
        'ERR_GUEST_RAM_LAYOUT',
        `the RAM blocks ${match.names.join(', ')} cannot be told apart in QEMU's memory`,
        { remedy: 'Use QEMU 8.0 or newer, which tells where they are; or report this.' },
      );
    placed.push(...match.placed);
  }
  const order = new Map(listed.map(({ name }, index) => [name, index]));
  return {
    placed: placed.toSorted((a, b) => (order.get(a.name) ?? 0) - (order.get(b.name) ?? 0)),
    learnt,
  };
}

function describe(
  profile: QemuProfile,
  placed: readonly PlacedBlock[],
  configuration: Uint8Array,
): Omit<GuestDescriptor, 'disks' | 'diskMode'> {
  const mains = new Set(profile.memory.map(({ blockName }) => blockName));
  const filled: QemuProfile = {
    ...profile,
    configuration: Buffer.from(configuration).toString('base64'),
    ramBlocks: placed.map(({ name, usedBytes, totalBytes }, id) => ({
      id,
      name,
      usedBytes,
      totalBytes,
      small: !mains.has(name),
    })),
  };
  return {
    kind: 'qemu',
    name: nameOf(profile),
    blocks: placed.map(({ name, usedBytes }, id) => ({ id, name, bytes: usedBytes })),
    profile: filled,
  };
}

function machineDisks(drives: readonly ProfileDrive[], pid: number): MachineDisks {
  if (drives.length === 0) return { kind: 'none' };
  const disks = drives.map((drive) => ({
    name: nameOfDrive(drive),
    bytes: drive.bytes,
    file: fileOf(drive, pid),
  }));
  return { kind: 'mirror', disks };
}

/** A name that stays the machine's own when another host runs it. */
function nameOf({ name, uuid }: QemuProfile): string {
  if (name !== '') return name;
  return /[1-9a-f]/.test(uuid) ? uuid : 'qemu';
}

function ramBlock(block: PlacedBlock, id: number, pid: number): RamBlock {
  const { name, usedBytes, address, mapping } = block;
  const isShared =
    mapping.permissions[3] === 's' && mapping.start === address && mapping.offset === 0n;
  const range = `${mapping.start.toString(16)}-${mapping.end.toString(16)}`;
  return {
    id,
    name,
    bytes: usedBytes,
    address,
    sharedPath: isShared ? `/proc/${pid}/map_files/${range}` : null,
  };
}

/** What must stay as it is for a prepared copy to fit: devices, and the sizes of RAM. */
async function fingerprint(qmp: QmpClient): Promise<string> {
  const [plugged, anonymous, ram] = await Promise.all([
    qmp.command('qom-list', { path: '/machine/peripheral' }),
    qmp.command('qom-list', { path: '/machine/peripheral-anon' }),
    qmp.humanMonitor('info ramblock'),
  ]);
  return JSON.stringify([plugged, anonymous, ram]);
}

async function statusOf(qmp: QmpClient): Promise<{ status: string; running: boolean }> {
  const answer = (await qmp.command('query-status')) as { status?: unknown; running?: unknown };
  return { status: String(answer.status), running: answer.running === true };
}

function pidOf(qmp: QmpClient): number {
  if (qmp.peerPid > 0) return qmp.peerPid;
  throw new RomulusError('ERR_GUEST_PID', `the process behind ${qmp.path} is not known`, {
    remedy: 'Name it with --pid.',
  });
}

function readMaps(pid: number): ReturnType<typeof parseMaps> {
  try {
    return parseMaps(readFileSync(`/proc/${pid}/maps`, 'utf8'));
  } catch (cause) {
    throw new RomulusError(
      'ERR_HOST_ATTACH_PERMISSION',
      `the memory map of process ${pid} cannot be read: ${toRomulusError(cause).message}`,
      { remedy: "Run Romulus as root or as QEMU's user.", cause },
    );
  }
}

function wrongState(qmpPath: string, status: string): RomulusError {
  return new RomulusError('ERR_GUEST_STATE', `the machine at ${qmpPath} is in state '${status}'`, {
    remedy: 'Protect it when it runs: see `query-status`.',
    details: { status },
  });
}
