/**
 * Finds the QEMU of a libvirt domain: its process and a monitor that we may use.
 *
 * libvirt's own monitor is of no use: libvirtd holds it, and QEMU serves one client a socket. So the
 * domain needs a second one, given through `<qemu:commandline>`. Which monitors a running domain
 * really has is read from its process's command line, which is what libvirt made of its XML; the pid
 * from the file that libvirt keeps while the domain runs. libvirt itself is not asked.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { RomulusError } from '../../base/errors.ts';
import { Arguments, IMPLIED_KEYS } from './profile/arguments.ts';
import { parseArgv, type QemuOption } from './profile/argv.ts';
import { processFacts } from './profile/process.ts';

/** Where a domain's QEMU is, and how to speak with it. */
export interface LibvirtDomain {
  readonly name: string;
  readonly pid: number;
  readonly qmpPath: string;
}

export interface LibvirtOptions {
  /** What stands for `/` (tests); libvirt's files and /proc are looked for below it. */
  readonly root?: string;
  /** Runtime directory of the user's own libvirt (`$XDG_RUNTIME_DIR`), looked at second. */
  readonly userRuntimeDirectory?: string | undefined;
}

/** Where libvirtd of the host keeps pid files and definitions of QEMU domains. */
const SYSTEM_RUN = '/run/libvirt/qemu';
const DEFINITIONS = '/etc/libvirt/qemu';
/** Domains listed in an error. */
const LISTED_MAX = 20;

/**
 * Finds a running domain and its second monitor.
 * @throws {RomulusError} ERR_GUEST_UNREACHABLE when no such domain runs here,
 *   ERR_GUEST_QMP_HELD with the XML to add when it has no monitor but libvirt's,
 *   ERR_GUEST_PROFILE when its process cannot be read.
 */
export function findLibvirtDomain(name: string, options: LibvirtOptions = {}): LibvirtDomain {
  const root = options.root ?? '/';
  const { userRuntimeDirectory = process.env['XDG_RUNTIME_DIR'] } = options;
  const runDirectories = [
    join(root, SYSTEM_RUN),
    ...(userRuntimeDirectory === undefined ? [] : [join(userRuntimeDirectory, 'libvirt/qemu/run')]),
  ];
  const pid = findPid(name, runDirectories, root);
  const { argv } = processFacts(pid, join(root, 'proc'));
  const parsed = parseArgv(argv).options;
  if (!isDomain(name, parsed)) {
    throw unreachable(name, `process ${pid} is another one: its pid file is stale`, []);
  }
  const qmpPath = ownMonitor(parsed);
  if (qmpPath === undefined) throw monitorError(name, pid);
  return { name, pid, qmpPath };
}

/** The XML that gives a domain a second monitor. */
export function secondMonitorXml(name: string): string {
  const path = `/var/lib/libvirt/qemu/${name}.monitor`.replaceAll(',', ',,');
  const value = escapeXml(`unix:${path},server=on,wait=off`);
  return [
    "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>",
    '  ...',
    '  <qemu:commandline>',
    "    <qemu:arg value='-qmp'/>",
    `    <qemu:arg value='${value}'/>`,
    '  </qemu:commandline>',
    '</domain>',
  ].join('\n');
}

function findPid(name: string, runDirectories: readonly string[], root: string): number {
  // libvirt allows no slash in names; with one, any file of the host could be named.
  if (name === '' || name.includes('/') || name.includes('\0')) {
    throw unreachable(name, 'that is no name of a domain', []);
  }
  for (const directory of runDirectories) {
    const file = join(directory, `${name}.pid`);
    if (!existsSync(file)) continue;
    const text = readPidFile(file, name).trim();
    if (/^[1-9]\d{0,9}$/.test(text)) return Number(text);
    throw unreachable(name, `${file} holds no pid`, []);
  }
  const running = runDirectories
    .filter((directory) => existsSync(directory))
    .flatMap((directory) => readdirSync(directory))
    .flatMap((file) => /^(.*)\.pid$/.exec(file)?.[1] ?? [])
    .slice(0, LISTED_MAX);
  const isDefined = existsSync(join(root, DEFINITIONS, `${name}.xml`));
  throw unreachable(
    name,
    isDefined ? 'it is defined, but does not run' : 'there is no such domain',
    running,
  );
}

function readPidFile(file: string, name: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw unreachable(name, `${file} cannot be read: ${reason}`, [], cause);
  }
}

function isDomain(name: string, options: readonly QemuOption[]): boolean {
  const value = options.findLast((option) => option.name === 'name')?.value ?? '';
  return Arguments.parse(value, 'guest').get('guest') === name;
}

/** The path of a QMP socket that QEMU itself made; libvirt hands its own over as a descriptor. */
function ownMonitor(options: readonly QemuOption[]): string | undefined {
  for (const { name, value } of options) {
    if (name !== 'qmp' && name !== 'qmp-pretty') continue;
    const path =
      value?.startsWith('unix:') === true ? Arguments.parse(value.slice(5), 'path') : null;
    if (path?.get('path') !== undefined && path.isOn('server')) return path.get('path');
  }
  for (const { name, value } of options) {
    if (name !== 'mon') continue;
    const monitor = Arguments.parse(value ?? '', IMPLIED_KEYS['mon']);
    const id = monitor.get('chardev');
    if (monitor.get('mode') !== 'control' || id === undefined || id === 'charmonitor') continue;
    const chardevs = options.filter((option) => option.name === 'chardev');
    for (const chardev of chardevs) {
      const opened = Arguments.parse(chardev.value ?? '', IMPLIED_KEYS['chardev']);
      if (opened.get('id') !== id || opened.get('fd') !== undefined) continue;
      const path = opened.get('path');
      if (path !== undefined && opened.isOn('server')) return path;
    }
  }
  return undefined;
}

function monitorError(name: string, pid: number): RomulusError {
  return new RomulusError(
    'ERR_GUEST_QMP_HELD',
    `the domain '${name}' (pid ${pid}) has no monitor but libvirt's own, which libvirtd holds`,
    {
      remedy: `Give it a second one: \`virsh edit ${name}\`, add the following, then shut it down and start it:\n${secondMonitorXml(name)}`,
      details: { name, pid, xml: secondMonitorXml(name) },
    },
  );
}

function unreachable(
  name: string,
  why: string,
  running: readonly string[],
  cause?: unknown,
): RomulusError {
  const others = running.length === 0 ? '' : ` (running here: ${running.join(', ')})`;
  return new RomulusError(
    'ERR_GUEST_UNREACHABLE',
    `no libvirt domain '${name}' runs here: ${why}${others}`,
    {
      remedy: 'Check `virsh list --all`; run as root to see the domains of the host.',
      details: { name, running },
      ...(cause === undefined ? {} : { cause }),
    },
  );
}

function escapeXml(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll("'", '&apos;');
}
