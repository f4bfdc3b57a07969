/**
 * Network backends on the backup. Backends that mean the same on every host stay (`user` with its
 * forwards, a tap or a bridge by name); sockets that QEMU listens on move; what hangs on the source's
 * host must be mapped.
 */
import { Arguments } from './arguments.ts';
import { entryOf } from './mapping.ts';
import type { Places } from './places.ts';

/** Types that are the same on every host, or found there by name. */
const EVERYWHERE: ReadonlySet<string> = new Set([
  'user',
  'tap',
  'bridge',
  'hubport',
  'l2tpv3',
  'none',
  'nic',
]);
/** Keys that hold descriptors, which only the process has that inherited them. */
const DESCRIPTOR_KEYS = ['fd', 'fds', 'vhostfd', 'vhostfds', 'addr.str', 'sock_fd'];
/** Keys that name programs to run or directories to serve: the source does not choose those here. */
const HOST_PATH_KEYS = ['script', 'downscript', 'helper', 'smb', 'tftp'];
/** Keys of -nic and -net that belong to the device and not to the backend. */
const DEVICE_KEYS = ['model', 'mac', 'macaddr', 'addr', 'vectors', 'name', 'bootindex'];

/** What a `-netdev`, `-nic` or `-net` becomes. */
export function mapNetdev(option: string, netdev: Arguments, places: Places): Arguments {
  const id = netdev.get('id') ?? netdev.get('name') ?? '';
  const argument = `-${option} ${String(netdev)}`;
  const mapped = entryOf(places.mapping.netdevs, id);
  if (mapped !== undefined) {
    const made = Arguments.parse(mapped, 'type');
    for (const key of ['id', ...(option === 'netdev' ? [] : DEVICE_KEYS)]) {
      const value = netdev.get(key);
      if (value !== undefined) made.set(key, value);
    }
    return made;
  }
  const type = netdev.get('type') ?? '';
  const key = id === '' ? 'netdevs (give the netdev an id)' : `netdevs.${id}`;
  const inherited = DESCRIPTOR_KEYS.find((name) => netdev.get(name) !== undefined);
  if (inherited !== undefined) {
    places.refuse(argument, `its ${inherited} was inherited there`, key);
  } else if (!EVERYWHERE.has(type)) {
    const path = netdev.get('addr.path');
    if (type === 'stream' && netdev.isOn('server') && path !== undefined) {
      netdev.set('addr.path', places.ownSocket(path, id, argument));
    } else {
      places.refuse(argument, `'${type}' leads to something of that host`, key);
    }
  }
  for (const name of HOST_PATH_KEYS) {
    const path = netdev.get(name);
    if (path === undefined || path === 'no' || path === '') continue;
    const here = places.mapped(path);
    if (here === undefined) {
      places.refuse(argument, `its ${name} is a path of that host`, `files["${path}"]`);
    } else {
      netdev.set(name, here);
    }
  }
  if (/guestfwd=[^=]*-cmd:/.test(argument)) {
    places.refuse(argument, 'it runs a command', key);
  }
  return netdev;
}

/** A backend that was plugged after the start; QEMU tells no more of it than its type. */
export function addedNetdev(id: string, type: string, places: Places): string[] {
  const mapped = entryOf(places.mapping.netdevs, id);
  if (mapped === undefined && type !== 'user') {
    const argument = `the network backend '${id}' (${type}), plugged after the start,`;
    places.refuse(argument, 'QEMU does not tell how it was made', `netdevs.${id}`);
    return [];
  }
  const netdev = Arguments.parse(mapped ?? 'user', 'type');
  netdev.set('id', id);
  return ['-netdev', String(netdev)];
}
