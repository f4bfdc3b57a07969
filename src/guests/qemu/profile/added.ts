/**
 * What was plugged after the source's start, as arguments: objects, network backends, disks, then
 * devices in an order in which every bus is there before what sits on it.
 */
import { Arguments, IMPLIED_KEYS } from './arguments.ts';
import type { QemuOption } from './argv.ts';
import { mapChardev } from './chardevs.ts';
import { addedDrive } from './drives.ts';
import { entryOf } from './mapping.ts';
import { addedNetdev } from './netdevs.ts';
import type { Places } from './places.ts';
import type { ProfileDevice, QemuProfile } from './profile.ts';

/** Types of objects that can be made again from what QEMU tells of them. */
const REPEATABLE_OBJECTS: ReadonlySet<string> = new Set(['rng-random', 'rng-builtin', 'iothread']);
/** Objects that watch or serve the source's process and are no part of the machine. */
const NOT_OF_THE_MACHINE =
  /^(?:filter-|colo-compare$|thread-context$|secret|tls-|authz-|throttle-group$|main-loop$|monitor-|chardev-)/;

/** The arguments for everything added. */
export function addedArguments(
  profile: QemuProfile,
  options: readonly QemuOption[],
  places: Places,
): string[] {
  const args: string[] = [];
  for (const { id, type, isAdded, properties } of profile.objects) {
    if (!isAdded || NOT_OF_THE_MACHINE.test(type)) continue;
    if (REPEATABLE_OBJECTS.has(type)) {
      args.push('-object', String(Arguments.of('qom-type', type, { id, ...properties })));
    } else {
      const argument = `the object '${id}' (${type}), added after the start,`;
      places.refuse(
        argument,
        'QEMU does not tell how it was made',
        'extraArgs (and unplug it there)',
      );
    }
  }
  for (const { id, type, isAdded } of profile.netdevs) {
    if (isAdded && !isMadeByNic(id, options)) args.push(...addedNetdev(id, type, places));
  }
  const devices = profile.devices.filter(({ isAdded }) => isAdded);
  args.push(...backends(devices, profile, options, places));
  for (const device of inOrderOfBuses(devices)) {
    const made = Arguments.of('driver', device.driver);
    if (device.id !== null) made.set('id', device.id);
    for (const [key, value] of Object.entries(device.properties)) {
      // Objects are named by id: their path is the same, but only once they exist.
      made.set(key, value.replace(/^\/objects\//, ''));
    }
    if (device.pci !== null) {
      made.set('bus', device.pci.bus);
      made.set('addr', `0x${device.pci.slot.toString(16)}.${device.pci.function}`);
    }
    args.push('-device', String(made));
  }
  return args;
}

/** `-nic` and `-net` name their backends themselves (`#net012`, `user.0`), as -netdev cannot. */
function isMadeByNic(id: string, options: readonly QemuOption[]): boolean {
  if (id.startsWith('#') || id.startsWith('hub') || /\.\d+$/.test(id)) return true;
  return options.some(({ name, value }) => {
    if (name !== 'nic' && name !== 'net') return false;
    const nic = Arguments.parse(value ?? '', 'type');
    return nic.get('id') === id || nic.get('name') === id;
  });
}

function backends(
  devices: readonly ProfileDevice[],
  profile: QemuProfile,
  options: readonly QemuOption[],
  places: Places,
): string[] {
  const args: string[] = [];
  for (const { id, path, properties } of devices) {
    const drive = properties['drive'];
    if (drive !== undefined && !isGiven(options, 'drive', 'id', drive)) {
      if (!isGiven(options, 'blockdev', 'node-name', drive)) {
        args.push(...addedDrive(drive, profile, places));
      }
    }
    const chardev = properties['chardev'];
    if (chardev === undefined || isGiven(options, 'chardev', 'id', chardev)) continue;
    if (entryOf(places.mapping.chardevs, chardev) === undefined) {
      const argument = `the chardev '${chardev}' of ${id ?? path}, added after the start,`;
      places.refuse(argument, 'QEMU does not tell how it was made', `chardevs.${chardev}`);
    } else {
      args.push(
        '-chardev',
        String(mapChardev(Arguments.of('backend', '', { id: chardev }), places)),
      );
    }
  }
  return args;
}

function isGiven(options: readonly QemuOption[], name: string, key: string, id: string): boolean {
  return options.some(
    (option) =>
      option.name === name &&
      Arguments.parse(option.value ?? '', IMPLIED_KEYS[name]).get(key) === id,
  );
}

/** A bus bears the name of its device, with a number after a dot where it has several. */
function inOrderOfBuses(devices: readonly ProfileDevice[]): ProfileDevice[] {
  const ordered: ProfileDevice[] = [];
  const waiting = [...devices];
  while (waiting.length > 0) {
    const ready = waiting.findIndex(({ properties }) => {
      const bus = properties['bus'] ?? '';
      return !waiting.some(({ id }) => id !== null && (bus === id || bus.startsWith(`${id}.`)));
    });
    // A circle cannot be in a machine that runs; QEMU will say so if one is told of.
    ordered.push(...waiting.splice(Math.max(ready, 0), 1));
  }
  return ordered;
}
