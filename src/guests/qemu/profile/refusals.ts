/**
 * Why a machine cannot be replicated, all reasons at once.
 *
 * What stands here the source's side sees alone, from the profile. What only the backup's host can
 * know (its QEMU, its CPU, its files) stands in backup-check.ts. docs/QEMU.md lists the codes.
 */
import { RomulusError } from '../../../base/errors.ts';
import { Arguments, IMPLIED_KEYS } from './arguments.ts';
import { parseArgv } from './argv.ts';
import type { ProfileDevice, QemuProfile } from './profile.ts';

/** Kinds of reasons; stable, for scripts. */
export type RefusalCode =
  | 'vfio'
  | 'vhost-user'
  | 'vhost'
  | 'net-queues'
  | 'net-headers'
  | 'shared-memory'
  | 'vtpm'
  | 'host-device'
  | 'confidential'
  | 'memory-device'
  | 'migration-blocked'
  | 'accelerator'
  | 'readconfig'
  | 'qemu-start'
  | 'qemu-older'
  | 'machine-type'
  | 'device-type'
  | 'cpu-features'
  | 'hugepages'
  | 'memory-room'
  | 'disk-job'
  | 'disk-encrypted'
  | 'disk-size'
  | 'disk-access'
  | 'disk-room'
  | 'disk-mode'
  | 'mapping'
  | 'file';

/** One reason. */
export interface Refusal {
  readonly code: RefusalCode;
  /** What of the machine it is. */
  readonly what: string;
  readonly why: string;
  readonly remedy: string;
}

/** Devices that cannot be replicated, by driver. The first that matches counts. */
const DEVICE_RULES: readonly {
  readonly code: RefusalCode;
  readonly driver: RegExp;
  readonly why: string;
  readonly remedy: string;
}[] = [
  {
    code: 'vfio',
    driver: /^(?:vfio-|x-vfio|iommufd|ap-|s390-.*-vfio)/,
    why: 'an assigned device writes memory unseen, and its state is in the hardware',
    remedy: 'Use an emulated device (virtio) in its place.',
  },
  {
    code: 'vhost-user',
    driver: /^vhost-user-|^vhost-vdpa-/,
    why: 'another process writes memory unseen and holds the state',
    remedy: 'Use the virtio device of the same kind without vhost-user.',
  },
  {
    code: 'vhost',
    driver: /^vhost-scsi/,
    why: 'the kernel holds its state',
    remedy: 'Use virtio-scsi without vhost.',
  },
  {
    code: 'shared-memory',
    driver: /^ivshmem/,
    why: 'others write the shared memory at any time',
    remedy: 'Unplug the device.',
  },
  {
    code: 'vtpm',
    driver: /^tpm-|^spapr-vtpm/,
    why: 'its secrets are in another process, whose state cannot be read at every epoch',
    remedy: 'Start the machine without a TPM.',
  },
  {
    code: 'host-device',
    driver:
      /^(?:usb-host|usb-redir|usb-mtp|u2f-passthru|scsi-generic|scsi-block|pvrdma|vfio-user|x-remote)/,
    why: 'what is behind it belongs to this host',
    remedy: 'Unplug it, or use an emulated one.',
  },
  {
    code: 'confidential',
    driver: /^sgx-/,
    why: 'its memory cannot be read from outside',
    remedy: 'Start the machine without it.',
  },
];

const CONFIDENTIAL_OBJECT = /^(?:sev-|tdx-|s390-pv|pef-)/;
const TESTED_ACCELERATORS: ReadonlySet<string> = new Set(['tcg', 'kvm']);

/** Everything that the source's side can see of why this machine cannot be replicated. */
export function refusalsOf(profile: QemuProfile): Refusal[] {
  return [
    ...profile.devices.flatMap(deviceRefusals),
    ...tpmRefusals(profile),
    ...netdevRefusals(profile),
    ...memoryRefusals(profile),
    ...objectRefusals(profile),
    ...startRefusals(profile),
    ...profile.migrationBlockers.map(
      (text): Refusal => ({
        code: 'migration-blocked',
        what: 'the machine',
        why: text,
        remedy: 'QEMU says itself why its state cannot be saved: remove that.',
      }),
    ),
  ];
}

/** What will work now, but not as well as it could, or not for long. */
export function warningsOf(profile: QemuProfile): Refusal[] {
  const vsocks = profile.devices.filter(({ driver }) => driver.startsWith('vhost-vsock'));
  return vsocks.map((device) => ({
    code: 'vhost',
    what: nameOf(device),
    why: 'connections over vsock end at a failover',
    remedy: 'Expect that, or unplug the device.',
  }));
}

/**
 * The error that tells all reasons.
 * @returns ERR_GUEST_REFUSED with `details.refusals`.
 */
export function refusedMachineError(name: string, refusals: readonly Refusal[]): RomulusError {
  const list = refusals.map(({ code, what, why }) => `${what}: ${why} [${code}]`);
  return new RomulusError(
    'ERR_GUEST_REFUSED',
    `the machine '${name}' cannot be replicated for ${refusals.length} reason(s): ${list.join('; ')}`,
    {
      remedy: [...new Set(refusals.map(({ remedy }) => remedy))].join(' '),
      details: { refusals },
    },
  );
}

/**
 * Stops at a machine that cannot be replicated.
 * @throws {RomulusError} ERR_GUEST_REFUSED with all reasons.
 */
export function refuseIfAny(name: string, refusals: readonly Refusal[]): void {
  if (refusals.length > 0) throw refusedMachineError(name, refusals);
}

function nameOf({ id, path, driver }: ProfileDevice): string {
  return `-device ${driver},id=${id ?? path}`;
}

function deviceRefusals(device: ProfileDevice): Refusal[] {
  const rule = DEVICE_RULES.find(({ driver }) => driver.test(device.driver));
  if (rule === undefined) return [];
  const { code, why, remedy } = rule;
  return [{ code, what: nameOf(device), why, remedy }];
}

function tpmRefusals(profile: QemuProfile): Refusal[] {
  const rule = DEVICE_RULES.find(({ code }) => code === 'vtpm');
  if (rule === undefined || profile.devices.some(({ driver }) => rule.driver.test(driver)))
    return [];
  return profile.tpms.map((id) => ({
    code: 'vtpm',
    what: `-tpmdev ${id}`,
    why: rule.why,
    remedy: rule.remedy,
  }));
}

/** What the command line says of network backends. */
export function netdevOptions(profile: QemuProfile): Arguments[] {
  const { options } = parseArgv(['qemu', ...profile.argv]);
  return options
    .filter(({ name }) => name === 'netdev' || name === 'nic' || name === 'net')
    .map(({ name, value }) => Arguments.parse(value ?? '', IMPLIED_KEYS[name]));
}

function netdevRefusals(profile: QemuProfile): Refusal[] {
  return profile.netdevs
    .filter(({ type }) => type === 'vhost-user' || type === 'vhost-vdpa')
    .map(({ id, type }) => ({
      code: 'vhost-user',
      what: `-netdev ${type},id=${id}`,
      why: 'another process or the hardware writes memory unseen',
      remedy: 'Use a tap without vhost.',
    }));
}

function memoryRefusals(profile: QemuProfile): Refusal[] {
  return profile.memory
    .filter(({ use }) => use === 'nvdimm' || use === 'virtio-pmem' || use === 'virtio-mem')
    .map(({ backendId, use }) => ({
      code: 'memory-device',
      what: `the memory '${backendId}' of a ${use} device`,
      why:
        use === 'virtio-mem'
          ? 'its memory comes and goes while the machine runs'
          : 'it is a disk as well as memory, and only its memory would be copied',
      remedy: 'Use a DIMM (pc-dimm) or more main memory in its place.',
    }));
}

function objectRefusals(profile: QemuProfile): Refusal[] {
  return profile.objects
    .filter(({ type }) => CONFIDENTIAL_OBJECT.test(type))
    .map(({ id, type }) => ({
      code: 'confidential',
      what: `-object ${type},id=${id}`,
      why: 'encrypted memory cannot be read from outside',
      remedy: 'Start the machine without it.',
    }));
}

function startRefusals(profile: QemuProfile): Refusal[] {
  const { options } = parseArgv(['qemu', ...profile.argv]);
  const refusals: Refusal[] = options
    .filter(({ name }) => name === 'readconfig')
    .map(({ value }) => ({
      code: 'readconfig',
      what: `-readconfig ${value}`,
      why: 'the file may have changed since QEMU read it',
      remedy: 'Start the machine with the same settings on its command line.',
    }));
  if (!TESTED_ACCELERATORS.has(profile.accelerator)) {
    refusals.push({
      code: 'accelerator',
      what: `-accel ${profile.accelerator}`,
      why: 'this accelerator does not show what the guest writes',
      remedy: 'Use kvm or tcg.',
    });
  }
  return refusals;
}
