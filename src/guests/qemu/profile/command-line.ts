/**
 * The command line of the backup's QEMU, made from the profile of the source's: the same machine
 * (type, CPU, devices at the same places, plugged ones included), with its RAM in files that we map
 * too, a monitor of our own, and `-incoming defer`. Only what belongs to the host or the process
 * differs, as the mapping says.
 *
 * Pure: looks at no file. `neededFiles` names those that must be there.
 */
import { assert, unreachable } from '../../../base/assert.ts';
import { RomulusError } from '../../../base/errors.ts';
import type { DiskMode } from '../../guest.ts';
import { addedArguments } from './added.ts';
import { Arguments, IMPLIED_KEYS } from './arguments.ts';
import { parseArgv, type QemuOption } from './argv.ts';
import { mapChardev, mapLegacyChardev } from './chardevs.ts';
import { mapBlockdevs, mapDrive, mapDriveFile } from './drives.ts';
import { type QemuMappingInput, qemuMappingSchema } from './mapping.ts';
import { mapNetdev } from './netdevs.ts';
import { ruleOf } from './option-rules.ts';
import { type PlacedDisk, Places } from './places.ts';
import { RamBackends } from './ram-backends.ts';
import type { QemuProfile } from './profile.ts';
import { mapDevice, unnamedPlaces } from './devices.ts';

/** What is the backup's own about the machine. */
export interface IncomingOptions {
  /**
   * The QEMU to start: its path, or a launcher with its arguments (a loader, `-L` for its firmware).
   * The source's own when left out.
   */
  readonly binary?: string | readonly string[];
  /** Where its monitor listens. */
  readonly qmpPath: string;
  /** The file of each memory backend, by the backend's id; `profile.memory` lists them. */
  readonly ram: Readonly<Record<string, string>>;
  readonly mapping?: QemuMappingInput;
  readonly diskMode: DiskMode;
  /** Where sockets and files of the machine's own move. */
  readonly directory: string;
}

/** A command to run. */
export interface IncomingCommand {
  readonly command: string;
  readonly args: string[];
  /** Files that QEMU reads and nobody makes. */
  readonly neededFiles: readonly string[];
  /** Where its writable disks are. */
  readonly disks: readonly PlacedDisk[];
}

/**
 * The command that starts the backup's QEMU.
 * @throws {RomulusError} ERR_CONFIG_QEMU_MAPPING naming every argument that has no place here, and
 *   the key of the mapping to set; ERR_CONFIG_INVALID when the mapping itself is malformed.
 */
export function incomingCommandLine(
  profile: QemuProfile,
  options: IncomingOptions,
): IncomingCommand {
  const { data: mapping, error } = qemuMappingSchema.safeParse(options.mapping);
  if (mapping === undefined) {
    const issue = error?.issues[0];
    throw new RomulusError(
      'ERR_CONFIG_INVALID',
      `the mapping of QEMU's things is wrong: ${issue?.path.join('.')}: ${issue?.message}`,
      { remedy: 'Correct the key; docs/QEMU.md lists them.' },
    );
  }
  const places = new Places(mapping, options.directory, profile.workingDirectory, options.diskMode);
  const args = new CommandLine(profile, options, places).build();
  if (places.problems.length > 0) throw unmappedError(places);
  const binary = typeof options.binary === 'string' ? [options.binary] : options.binary;
  const [command, ...launch] = binary ?? profile.qemu.launcher;
  assert(command !== undefined, 'a launcher has at least a program');
  return {
    command,
    args: [...launch, ...args],
    neededFiles: [...new Set(places.neededFiles)],
    disks: places.disks,
  };
}

function unmappedError({ problems }: Places): RomulusError {
  const list = problems.map(({ argument, why, key }) => `${argument}: ${why} (set ${key})`);
  return new RomulusError(
    'ERR_CONFIG_QEMU_MAPPING',
    `${problems.length} things of the machine have no place here: ${list.join('; ')}`,
    {
      remedy: 'Say in the mapping what stands in their place here; the key is named with each.',
      details: { problems },
    },
  );
}

class CommandLine {
  readonly #profile: QemuProfile;
  readonly #own: IncomingOptions;
  readonly #places: Places;
  readonly #options: readonly QemuOption[];
  readonly #args: string[] = [];
  readonly #ram: RamBackends;
  readonly #unnamed: ReadonlyMap<QemuOption, number>;
  /** Opened once for all, because nodes name each other. */
  readonly #blockdevs = new Map<QemuOption, Arguments>();
  #hasMachine = false;
  #hasAccelerator = false;
  readonly #counts = { serial: 0, parallel: 0, debugcon: 0 };

  constructor(profile: QemuProfile, own: IncomingOptions, places: Places) {
    this.#profile = profile;
    this.#own = own;
    this.#places = places;
    const { options } = parseArgv(['qemu', ...profile.argv]);
    this.#options = options.filter(({ name }) => !places.mapping.dropArgs.includes(name));
    this.#ram = new RamBackends(profile, own.ram);
    this.#unnamed = unnamedPlaces(options);
    for (const option of this.#options) {
      if (option.name !== 'blockdev') continue;
      const node = Arguments.parse(option.value ?? '', 'driver');
      if (profile.blockNodes.includes(node.get('node-name') ?? '')) {
        this.#blockdevs.set(option, node);
      }
    }
    mapBlockdevs([...this.#blockdevs.values()], profile, places);
  }

  build(): string[] {
    const { mapping } = this.#places;
    for (const option of this.#options) this.#convert(option);
    if (!this.#hasMachine) this.#machine('');
    if (!this.#hasAccelerator) this.#push('accel', this.#profile.accelerator);
    if (!this.#has('m')) this.#push('m', `size=${this.#profile.memoryBytes}B`);
    for (const object of this.#ram.rest()) this.#push('object', String(object));
    this.#args.push(...addedArguments(this.#profile, this.#options, this.#places));
    // -nographic takes the standard streams where nothing else is said.
    if (this.#has('nographic') && !this.#has('nodefaults') && this.#counts.serial === 0) {
      this.#legacyChardev('serial', 'stdio');
    }
    this.#push('display', 'none');
    this.#push('monitor', 'none');
    const qmp = Arguments.of('path', this.#own.qmpPath, { server: 'on', wait: 'off' });
    this.#push('qmp', `unix:${String(qmp)}`);
    this.#push('incoming', 'defer');
    this.#args.push(...mapping.extraArgs);
    return this.#args;
  }

  #has(name: string): boolean {
    return this.#options.some((option) => option.name === name);
  }

  #push(name: string, value: string | null): void {
    if (name !== '') this.#args.push(`-${name}`);
    if (value !== null) this.#args.push(value);
  }

  #convert(option: QemuOption): void {
    const { name } = option;
    const value = option.value ?? '';
    const rule = ruleOf(name);
    const opened = (): Arguments => Arguments.parse(value, IMPLIED_KEYS[name]);
    switch (rule) {
      case undefined:
        this.#places.refuse(`-${name}`, 'this option is not known', `dropArgs: ["${name}"]`);
        return;
      case 'refuse':
        this.#places.refuse(
          `-${name} ${value}`,
          'it cannot be replicated',
          `dropArgs: ["${name}"]`,
        );
        return;
      case 'drop':
      case 'monitor':
        return;
      case 'keep':
        this.#push(name, option.value);
        return;
      case 'keep-plain':
        // `-set drive.d0.file=..` and `-usbdevice disk:..` would go past the mapping.
        if (/^(?!device\.)[^=]*[.:]/.test(value)) {
          this.#places.refuse(
            `-${name} ${value}`,
            'it names something of that host',
            `dropArgs: ["${name}"]`,
          );
        }
        this.#push(name, option.value);
        return;
      case 'file':
        this.#push(name, this.#places.readable(value));
        return;
      case 'file-key':
        this.#push(name, String(withReadable(opened(), 'file', this.#places)));
        return;
      case 'data-directory':
        if (this.#own.binary === undefined) this.#push(name, value);
        return;
      case 'run-with':
        this.#runWith(opened());
        return;
      case 'machine':
        this.#machine(value);
        return;
      case 'accel':
        this.#accelerator(value);
        return;
      case 'object':
        this.#object(opened());
        return;
      case 'device':
        this.#device(option, opened());
        return;
      case 'drive':
        this.#drive(opened());
        return;
      case 'drive-file':
        this.#args.push(...mapDriveFile(name, value, this.#profile, this.#places));
        return;
      case 'blockdev': {
        const node = this.#blockdevs.get(option);
        if (node !== undefined) this.#push(name, String(node));
        return;
      }
      case 'netdev':
        this.#netdev(opened());
        return;
      case 'nic':
        this.#push(name, String(mapNetdev(name, opened(), this.#places)));
        return;
      case 'chardev':
        this.#chardev(opened());
        return;
      case 'legacy-chardev':
        this.#legacyChardev(name as 'serial' | 'parallel' | 'debugcon', value);
        return;
      case 'audio':
        this.#audio(name, opened());
        return;
      case 'fsdev':
        this.#sharedDirectory(name, opened());
        return;
      default:
        unreachable(rule, 'rule');
    }
  }

  /** The exact type, not an alias: `q35` is another machine in every version. */
  #machine(value: string): void {
    const machine = Arguments.parse(value, 'type');
    machine.delete('accel');
    if (this.#hasMachine) {
      machine.delete('type');
      if (String(machine) === '') return;
      this.#push('machine', String(machine));
      return;
    }
    this.#hasMachine = true;
    // A bare `-machine usb=on` names no type; ours must then come first.
    const rest = machine.get('type') === undefined ? String(machine) : '';
    if (rest === '') machine.set('type', this.#profile.machine);
    const made =
      rest === '' ? machine : Arguments.parse(`${this.#profile.machine},${rest}`, 'type');
    const main = this.#profile.memory.find(({ use }) => use === 'main');
    if (main !== undefined) made.set('memory-backend', main.backendId);
    this.#push('machine', String(made));
  }

  #accelerator(value: string): void {
    const accelerator = Arguments.parse(value, 'accel');
    if (this.#hasAccelerator || accelerator.get('accel') !== this.#profile.accelerator) return;
    this.#hasAccelerator = true;
    this.#push('accel', String(accelerator));
  }

  #object(object: Arguments): void {
    const type = object.get('qom-type') ?? '';
    const id = object.get('id') ?? '';
    if (type.startsWith('memory-backend-')) {
      const backend = this.#ram.take(id);
      if (backend !== null) this.#push('object', String(backend));
      return;
    }
    // Filters watch the source's network; contexts pin its threads to its CPUs.
    if (/^(?:filter-|colo-compare$|thread-context$)/.test(type)) return;
    if (!this.#profile.objects.some((known) => known.id === id)) return;
    if (type === 'secret' && !this.#isNamedElsewhere(id)) return;
    const made = withReadable(object, 'file', this.#places);
    this.#push('object', String(withReadable(made, 'dir', this.#places)));
  }

  /** libvirt gives every machine a key that few use; the file behind it exists only there. */
  #isNamedElsewhere(id: string): boolean {
    const uses = this.#options.filter(({ value }) => value?.includes(id) === true);
    return uses.length > 1;
  }

  #device(option: QemuOption, device: Arguments): void {
    const made = mapDevice(device, this.#unnamed.get(option), this.#profile, this.#places);
    if (made !== null) this.#push('device', String(made));
  }

  #drive(drive: Arguments): void {
    const id = drive.get('id');
    const isGone = id !== undefined && !this.#profile.drives.some((known) => known.id === id);
    if (isGone) return;
    this.#push('drive', String(mapDrive(drive, this.#profile, this.#places)));
  }

  #netdev(netdev: Arguments): void {
    const id = netdev.get('id') ?? '';
    if (!this.#profile.netdevs.some((known) => known.id === id)) return;
    this.#push('netdev', String(mapNetdev('netdev', netdev, this.#places)));
  }

  #chardev(chardev: Arguments): void {
    const id = chardev.get('id') ?? '';
    if (!this.#profile.chardevs.some((known) => known.id === id)) return;
    if (this.#isMonitorOnly(id)) return;
    this.#push('chardev', String(mapChardev(chardev, this.#places)));
  }

  #isMonitorOnly(id: string): boolean {
    const users = this.#options.filter(({ name, value }) => {
      if (name === 'chardev' || value === null) return false;
      const opened = Arguments.parse(value, IMPLIED_KEYS[name]);
      return opened.get('chardev') === id || value === `chardev:${id}`;
    });
    return users.length > 0 && users.every(({ name }) => ruleOf(name) === 'monitor');
  }

  #legacyChardev(option: 'serial' | 'parallel' | 'debugcon', value: string): void {
    const id = `${option}${this.#counts[option]++}`;
    this.#args.push(...mapLegacyChardev(option, value, id, this.#places));
  }

  /** A copy that nobody listens to yet plays to nobody. */
  #audio(option: string, audio: Arguments): void {
    const made = Arguments.of('driver', 'none');
    for (const key of ['id', 'model']) {
      const value = audio.get(key);
      if (value !== undefined) made.set(key, value);
    }
    this.#push(option, String(made));
  }

  /** What the guest may read of this host is decided here, not there. */
  #sharedDirectory(option: string, shared: Arguments): void {
    const path = shared.get('path');
    const here = path === undefined ? undefined : this.#places.mapped(path);
    if (here === undefined) {
      const key = path === undefined ? 'dropArgs' : `files["${path}"]`;
      this.#places.refuse(
        `-${option} ${String(shared)}`,
        'it shares a directory of that host',
        key,
      );
      return;
    }
    shared.set('path', here);
    this.#push(option, String(shared));
  }

  #runWith(runWith: Arguments): void {
    for (const key of ['chroot', 'exit-with-parent', 'async-teardown']) runWith.delete(key);
    if (String(runWith) !== '') this.#push('run-with', String(runWith));
  }
}

function withReadable(args: Arguments, key: string, places: Places): Arguments {
  const path = args.get(key);
  if (path !== undefined) args.set(key, places.readable(path));
  return args;
}
