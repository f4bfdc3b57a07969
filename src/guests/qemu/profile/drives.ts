/**
 * Disks on the backup. A writable one must be mapped to its copy here, because running on the
 * source's own file, or on a stale one, would ruin it; with shared storage it is the same file. The
 * replica of a mirrored disk is raw, whatever the source's is. What is only read keeps its path
 * unless mapped, and must be there.
 */
import { Arguments } from './arguments.ts';
import { entryOf } from './mapping.ts';
import type { Places } from './places.ts';
import type { ProfileDrive, QemuProfile } from './profile.ts';
import { replicatedDrives } from './replicated-drives.ts';

/** Block drivers with nothing behind them. */
const NOTHING_BEHIND: ReadonlySet<string> = new Set(['null-co', 'null-aio']);
/** Block drivers whose data is a file of the host. */
const HOST_FILES: ReadonlySet<string> = new Set(['file', 'host_device', 'host_cdrom']);

interface Replacement {
  readonly path: string;
  readonly format: string | null;
}

function replacementFor(names: readonly string[], places: Places): Replacement | undefined {
  const { drives } = places.mapping;
  for (const name of names) {
    const drive = name === '' ? undefined : entryOf(drives, name);
    if (typeof drive === 'string') return { path: drive, format: null };
    if (drive !== undefined) return drive;
  }
  return undefined;
}

/** What a `-drive` becomes. */
export function mapDrive(drive: Arguments, profile: QemuProfile, places: Places): Arguments {
  const id = drive.get('id') ?? '';
  const nodeName = drive.get('node-name') ?? '';
  const argument = `-drive ${String(drive)}`;
  drive.delete('snapshot');
  const key = ['file', 'file.filename', 'filename'].find((name) => drive.get(name) !== undefined);
  // An empty tray, or a driver with nothing behind it.
  if (key === undefined) return drive;
  const file = drive.get(key) ?? '';
  const known = profile.drives.find((entry) => (id === '' ? entry.file === file : entry.id === id));
  const names = [id, nodeName, known?.id ?? '', known?.nodeName ?? '', deviceIdOf(known?.device)];
  const here = replacementFor(names, places);
  const isReadOnly =
    drive.get('media') === 'cdrom' || drive.isOn('readonly', drive.isOn('read-only'));
  const name = names.find((candidate) => candidate !== '' && !candidate.startsWith('#'));
  drive.set(key, placed(file, { here, isReadOnly, argument, name, names }, places));
  if (known !== undefined && isReplicated(known, profile, places)) {
    checkRaw(here, argument, name, places);
    makeRaw(drive, 'format');
  } else if (here?.format !== undefined && here.format !== null) drive.set('format', here.format);
  return drive;
}

/** What a bare image (`-hda FILE`, `-cdrom FILE`, `-pflash FILE`) becomes. */
export function mapDriveFile(
  option: string,
  file: string,
  profile: QemuProfile,
  places: Places,
): string[] {
  const known = profile.drives.find(
    (entry) => entry.file === file || entry.file.endsWith(`/${file}`),
  );
  const names = [option, known?.id ?? '', known?.nodeName ?? ''];
  const here = replacementFor(names, places);
  const isReadOnly = option === 'cdrom' || known?.isReadOnly === true;
  const argument = `-${option} ${file}`;
  const path = placed(file, { here, isReadOnly, argument, name: known?.id, names }, places);
  const [, bus, unit = ''] = /^(hd|fd)([a-d])$/.exec(option) ?? [];
  const isOurs = known !== undefined && isReplicated(known, profile, places);
  if (!isOurs || bus === undefined) return [`-${option}`, path];
  checkRaw(here, argument, known.id, places);
  // Said, not guessed: QEMU protects the first sector of what it takes for raw by itself.
  const place = bus === 'hd' ? 'media=disk' : 'if=floppy';
  const drive = Arguments.parse(`${place},index=${'abcd'.indexOf(unit)},format=raw`);
  drive.set('file', path);
  return ['-drive', String(drive)];
}

function isReplicated(drive: ProfileDrive, profile: QemuProfile, places: Places): boolean {
  return places.diskMode === 'replicate' && replicatedDrives(profile).includes(drive);
}

function checkRaw(
  here: Replacement | undefined,
  argument: string,
  name: string | undefined,
  places: Places,
): void {
  if (here?.format === 'qcow2')
    places.refuse(argument, 'the replica of a disk is raw', `drives.${name ?? ''}.format`);
}

/** Settings that other formats have and raw has not. */
const OTHER_FORMATS = [
  'backing',
  'cache-clean-interval',
  'cache-size',
  'data-file',
  'discard-no-unref',
  'encrypt',
  'key-secret',
  'l2-cache-entry-size',
  'l2-cache-size',
  'lazy-refcounts',
  'overlap-check',
  'pass-discard-other',
  'pass-discard-request',
  'pass-discard-snapshot',
  'refcount-cache-size',
];

function makeRaw(node: Arguments, key: 'format' | 'driver'): void {
  node.set(key, 'raw');
  for (const name of OTHER_FORMATS) node.delete(name);
}

function placed(
  file: string,
  known: {
    readonly here: Replacement | undefined;
    readonly isReadOnly: boolean;
    readonly argument: string;
    readonly name: string | undefined;
    readonly names: readonly string[];
  },
  places: Places,
): string {
  const { here, isReadOnly, argument, name, names } = known;
  const mapped = here?.path ?? places.mapped(file);
  if (mapped !== undefined) {
    if (isReadOnly) places.neededFiles.push(mapped);
    else places.disks.push({ path: mapped, names });
    return mapped;
  }
  if (file === '' || NOTHING_BEHIND.has(file.replace(/:.*/, ''))) return file;
  const key = name === undefined ? `files["${file}"]` : `drives.${name}`;
  if (file.startsWith('/dev/fdset/') || file.startsWith('json:')) {
    places.refuse(argument, 'it was handed over there in a way that cannot be repeated', key);
    return file;
  }
  const isRemote = /^[a-z][a-z0-9+.-]+:/.test(file) && !file.startsWith('file:');
  if (isReadOnly) return isRemote ? file : places.readable(file.replace(/^file:/, ''));
  if (places.diskMode === 'shared') {
    const path = isRemote ? file : places.absolute(file.replace(/^file:/, ''));
    if (!isRemote) places.disks.push({ path, names });
    return path;
  }
  places.refuse(argument, 'a writable disk needs its copy here', key);
  return file;
}

/** What all `-blockdev` become: nodes name each other, so they are looked at together. */
export function mapBlockdevs(
  nodes: readonly Arguments[],
  profile: QemuProfile,
  places: Places,
): void {
  for (const node of nodes) {
    const name = node.get('node-name') ?? '';
    const parents = nodes.filter((other) => other.get('file') === name).map(nameOf);
    const users = profile.drives.filter(({ nodeName }) => [name, ...parents].includes(nodeName));
    const names = [name, ...parents, ...users.map(({ device }) => deviceIdOf(device))];
    for (const prefix of ['', 'file.']) {
      const driver = node.get(`${prefix}driver`) ?? '';
      const key = `${prefix}filename`;
      const file = node.get(key);
      if (file === undefined) {
        const isShared = places.diskMode === 'shared';
        if (prefix === '' && isRemoteDriver(driver) && !node.isOn('read-only') && !isShared) {
          places.refuse(
            `-blockdev ${String(node)}`,
            `'${driver}' would be shared by both`,
            `drives.${name}`,
          );
        }
        continue;
      }
      if (!HOST_FILES.has(driver)) continue;
      const here = replacementFor(names, places);
      const isReadOnly =
        node.isOn('read-only') ||
        nodes.some((other) => other.get('file') === name && other.isOn('read-only'));
      const argument = `-blockdev ${String(node)}`;
      node.set(key, placed(file, { here, isReadOnly, argument, name, names }, places));
      if (here !== undefined && driver !== 'file') node.set(`${prefix}driver`, 'file');
      const replicated = users.some((user) => isReplicated(user, profile, places));
      if (replicated) checkRaw(here, argument, name, places);
      const format = replicated ? 'raw' : (here?.format ?? null);
      if (format === null) continue;
      const formats = prefix === '' ? nodes.filter((other) => other.get('file') === name) : [node];
      for (const layer of formats) {
        if (format === 'raw') makeRaw(layer, 'driver');
        else layer.set('driver', format);
      }
    }
  }
}

function isRemoteDriver(driver: string): boolean {
  return ['nbd', 'rbd', 'iscsi', 'ssh', 'nfs', 'gluster', 'http', 'https', 'curl'].includes(driver);
}

function nameOf(node: Arguments): string {
  return node.get('node-name') ?? '';
}

/** A disk that was plugged after the start, made from what the mapping says of it. */
export function addedDrive(name: string, profile: QemuProfile, places: Places): string[] {
  const here = replacementFor([name], places);
  const known = profile.drives.find(({ id, nodeName }) => id === name || nodeName === name);
  if (here === undefined) {
    const argument = `the disk '${name}' (${known?.file ?? 'unknown'}), plugged after the start,`;
    places.refuse(argument, 'a plugged disk needs its copy here', `drives.${name}`);
    return [];
  }
  const isReadOnly = known?.isReadOnly === true;
  if (isReadOnly) places.neededFiles.push(here.path);
  else places.disks.push({ path: here.path, names: [name] });
  const replicated = known !== undefined && isReplicated(known, profile, places);
  if (replicated) checkRaw(here, `the disk '${name}'`, name, places);
  const node = Arguments.of(
    'driver',
    replicated ? 'raw' : (here.format ?? known?.format ?? 'raw'),
    {
      'node-name': name,
      'read-only': isReadOnly ? 'on' : 'off',
      'file.driver': 'file',
      'file.filename': here.path,
    },
  );
  return ['-blockdev', String(node)];
}

/** The id in a device's path such as `/machine/peripheral/vd0/virtio-backend`. */
function deviceIdOf(path: string | undefined): string {
  return /^\/machine\/peripheral\/([^/]+)/.exec(path ?? '')?.[1] ?? '';
}
