/**
 * Disks on the backup. A writable one must be mapped to its copy here, because running on the
 * source's own file, or on a stale one, would ruin it. What is only read keeps its path unless
 * mapped, and must be there.
 */
import { Arguments } from './arguments.ts';
import { entryOf } from './mapping.ts';
import type { Places } from './places.ts';
import type { QemuProfile } from './profile.ts';

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
  const path = place(file, here?.path, isReadOnly, argument, name, places);
  drive.set(key, path);
  if (here?.format !== undefined && here.format !== null) drive.set('format', here.format);
  return drive;
}

/** What a bare image (`-hda FILE`, `-cdrom FILE`, `-pflash FILE`) becomes. */
export function mapDriveFile(
  option: string,
  file: string,
  profile: QemuProfile,
  places: Places,
): string {
  const known = profile.drives.find(
    (entry) => entry.file === file || entry.file.endsWith(`/${file}`),
  );
  const here = replacementFor([option, known?.id ?? '', known?.nodeName ?? ''], places);
  const isReadOnly = option === 'cdrom' || known?.isReadOnly === true;
  return place(file, here?.path, isReadOnly, `-${option} ${file}`, known?.id, places);
}

function place(
  file: string,
  replacement: string | undefined,
  isReadOnly: boolean,
  argument: string,
  name: string | undefined,
  places: Places,
): string {
  const mapped = replacement ?? places.mapped(file);
  if (mapped !== undefined) {
    places.neededFiles.push(mapped);
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
        if (prefix === '' && isRemoteDriver(driver) && !node.isOn('read-only')) {
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
      node.set(key, place(file, here?.path, isReadOnly, `-blockdev ${String(node)}`, name, places));
      if (here !== undefined && driver !== 'file') node.set(`${prefix}driver`, 'file');
      if (here?.format === undefined || here.format === null) continue;
      const formats = prefix === '' ? nodes.filter((other) => other.get('file') === name) : [node];
      for (const format of formats) {
        format.set('driver', here.format);
        if (here.format === 'raw') format.delete('backing');
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
  places.neededFiles.push(here.path);
  const node = Arguments.of('driver', here.format ?? known?.format ?? 'raw', {
    'node-name': name,
    'read-only': known?.isReadOnly === true ? 'on' : 'off',
    'file.driver': 'file',
    'file.filename': here.path,
  });
  return ['-blockdev', String(node)];
}

/** The id in a device's path such as `/machine/peripheral/vd0/virtio-backend`. */
function deviceIdOf(path: string | undefined): string {
  return /^\/machine\/peripheral\/([^/]+)/.exec(path ?? '')?.[1] ?? '';
}
