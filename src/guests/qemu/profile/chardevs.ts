/**
 * Character devices on the backup: sockets that QEMU listens on and files that it writes move into
 * the machine's directory under the same name; what needs nothing of the host stays; what reaches
 * out to something on the source's host (a pipe, a serial port, a socket of somebody else) must be
 * mapped. Monitors belong to the process and are dropped before it comes to this.
 */
import { Arguments } from './arguments.ts';
import { entryOf } from './mapping.ts';
import type { Places } from './places.ts';

/** Backends that are the same everywhere. */
const EVERYWHERE: ReadonlySet<string> = new Set([
  'null',
  'vc',
  'ringbuf',
  'memory',
  'pty',
  'msmouse',
  'wctablet',
  'testdev',
  'udp',
  'braille',
]);
const SPICE: ReadonlySet<string> = new Set(['spicevmc', 'spiceport']);

/** What a chardev becomes: a value for `-chardev`, without problems or with them noted. */
export function mapChardev(chardev: Arguments, places: Places): Arguments {
  const id = chardev.get('id') ?? '';
  const mapped = entryOf(places.mapping.chardevs, id);
  if (mapped !== undefined) {
    const made = Arguments.parse(mapped, 'backend');
    made.set('id', id);
    return made;
  }
  const backend = chardev.get('backend') ?? '';
  const logfile = chardev.get('logfile');
  if (logfile !== undefined) {
    const isInherited = logfile.startsWith('/dev/fdset/');
    chardev.set('logfile', places.own(isInherited ? `${id}.log` : logfile, id));
  }
  if (SPICE.has(backend)) return Arguments.of('backend', 'null', { id });
  if (backend === 'stdio') {
    return Arguments.of('backend', 'file', { id, path: places.own(`${id}.log`, id), append: 'on' });
  }
  if (backend === 'file') {
    chardev.set('path', places.own(chardev.get('path') ?? id, id));
    chardev.delete('input-path');
  } else if (backend === 'socket') {
    mapSocket(chardev, id, places);
  } else if (!EVERYWHERE.has(backend)) {
    const path = chardev.get('path');
    const here = path === undefined ? undefined : places.mapped(path);
    if (here === undefined) {
      places.refuse(
        `-chardev ${String(chardev)}`,
        `'${backend}' is something of that host`,
        `chardevs.${id}`,
      );
    } else {
      chardev.set('path', here);
    }
  }
  return chardev;
}

function mapSocket(chardev: Arguments, id: string, places: Places): void {
  const argument = `-chardev ${String(chardev)}`;
  const path = chardev.get('path');
  if (chardev.get('fd') !== undefined) {
    if (chardev.isOn('server')) {
      // A manager made the listening socket there; here QEMU makes it.
      chardev.delete('fd');
      chardev.set('path', places.ownSocket(`${id}.sock`, id, argument));
    } else {
      places.refuse(argument, 'its descriptor was inherited there', `chardevs.${id}`);
    }
  } else if (path !== undefined) {
    if (!chardev.isOn('server')) {
      const here = places.mapped(path);
      if (here === undefined) {
        places.refuse(argument, 'it connects to a socket of that host', `chardevs.${id}`);
      } else {
        chardev.set('path', here);
      }
      return;
    }
    chardev.set('path', places.ownSocket(path, id, argument));
  }
  // A copy that waits for a client at its start would never be ready.
  if (chardev.isOn('server')) {
    chardev.delete('wait');
    chardev.set('wait', 'off');
  }
}

/**
 * The older form, as after `-serial`: `unix:/path,server=on,wait=off`. Returns the values of the
 * options that stand for it: a `-chardev` first when the mapping gives one.
 */
export function mapLegacyChardev(
  option: string,
  value: string,
  id: string,
  places: Places,
): string[] {
  const text = value.replace(/^mon:/, '');
  const mapped = entryOf(places.mapping.chardevs, id);
  if (mapped !== undefined) {
    const made = Arguments.parse(mapped, 'backend');
    made.set('id', `romulus-${id}`);
    return ['-chardev', String(made), `-${option}`, `chardev:romulus-${id}`];
  }
  return [`-${option}`, mapLegacyText(option, text, id, places)];
}

function mapLegacyText(option: string, text: string, id: string, places: Places): string {
  if (/^(?:none|null|pty|msmouse|wctablet|testdev|braille|vc|vc:.*|chardev:.*)$/.test(text))
    return text;
  if (/^(?:tcp|telnet|websocket|tn3270|udp):/.test(text)) return text;
  if (text === 'stdio') return `file:${places.own(`${id}.log`, id)}`;
  if (text.startsWith('file:')) return `file:${places.own(text.slice('file:'.length), id)}`;
  if (text.startsWith('unix:')) {
    const socket = Arguments.parse(text.slice('unix:'.length), 'path');
    const path = socket.get('path') ?? '';
    if (socket.isOn('server')) {
      const here = places.ownSocket(path, id, `-${option} ${text}`);
      return `unix:${String(Arguments.of('path', here, { server: 'on', wait: 'off' }))}`;
    }
  }
  const path = /^(?:unix:|pipe:)?([^,]*)/.exec(text)?.[1] ?? '';
  const here = places.mapped(path);
  if (here !== undefined) return text.replace(path, here);
  places.refuse(`-${option} ${text}`, 'it is something of that host', `chardevs.${id}`);
  return 'null';
}
