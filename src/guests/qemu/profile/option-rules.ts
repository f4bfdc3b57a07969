/**
 * What becomes of each of QEMU's options on the backup. An option that is not listed is unknown: it
 * is named in an error rather than passed on, because the command line comes from the other host and
 * a part of the machine left out would be found too late.
 *
 * - keep: part of the machine or of how it behaves; passed on unchanged.
 * - keep-plain: as keep, unless the value reaches past the mapping.
 * - file: a file of the host that only gets read; its path may be mapped.
 * - drop: how this one process was started, watched or shown; the backup has its own.
 * - the others have code of their own, in the files beside this one.
 */

/** What to do with an option. */
export type OptionRule =
  | 'keep'
  | 'keep-plain'
  | 'file'
  | 'file-key'
  | 'drop'
  | 'machine'
  | 'accel'
  | 'object'
  | 'device'
  | 'drive'
  | 'drive-file'
  | 'blockdev'
  | 'netdev'
  | 'nic'
  | 'chardev'
  | 'legacy-chardev'
  | 'monitor'
  | 'audio'
  | 'fsdev'
  | 'refuse'
  | 'data-directory'
  | 'run-with';

const WITHOUT_VALUE: Readonly<Record<string, OptionRule>> = {
  S: 'drop',
  'alt-grab': 'drop',
  'async-teardown': 'drop',
  'ctrl-grab': 'drop',
  curses: 'drop',
  daemonize: 'drop',
  'enable-kvm': 'accel',
  'enable-sync-profile': 'drop',
  'full-screen': 'drop',
  'mem-prealloc': 'drop',
  'no-acpi': 'keep',
  'no-fd-bootchk': 'keep',
  'no-hpet': 'keep',
  'no-quit': 'drop',
  'no-reboot': 'keep',
  'no-shutdown': 'keep',
  'no-user-config': 'keep',
  nodefaults: 'keep',
  nographic: 'keep',
  'only-migratable': 'keep',
  portrait: 'drop',
  preconfig: 'drop',
  s: 'drop',
  sdl: 'drop',
  semihosting: 'keep',
  'show-cursor': 'drop',
  singlestep: 'keep',
  snapshot: 'drop',
  usb: 'keep',
  'win2k-hack': 'keep',
};

const WITH_VALUE: Readonly<Record<string, OptionRule>> = {
  D: 'drop',
  L: 'data-directory',
  M: 'machine',
  accel: 'accel',
  acpitable: 'keep',
  action: 'keep',
  'add-fd': 'drop',
  append: 'keep',
  audio: 'audio',
  audiodev: 'audio',
  bios: 'file',
  blockdev: 'blockdev',
  boot: 'keep',
  cdrom: 'drive-file',
  chardev: 'chardev',
  chroot: 'drop',
  compat: 'keep',
  cpu: 'keep',
  d: 'drop',
  debugcon: 'legacy-chardev',
  device: 'device',
  dfilter: 'drop',
  display: 'drop',
  drive: 'drive',
  dtb: 'file',
  'dump-vmstate': 'drop',
  echr: 'drop',
  fda: 'drive-file',
  fdb: 'drive-file',
  fsdev: 'fsdev',
  fw_cfg: 'file-key',
  gdb: 'drop',
  global: 'keep',
  hda: 'drive-file',
  hdb: 'drive-file',
  hdc: 'drive-file',
  hdd: 'drive-file',
  icount: 'keep',
  incoming: 'drop',
  initrd: 'file',
  iscsi: 'keep',
  k: 'keep',
  kernel: 'file',
  loadvm: 'drop',
  m: 'keep',
  machine: 'machine',
  'mem-path': 'drop',
  mon: 'monitor',
  monitor: 'drop',
  msg: 'drop',
  mtdblock: 'drive-file',
  name: 'keep',
  net: 'nic',
  netdev: 'netdev',
  nic: 'nic',
  numa: 'keep',
  object: 'object',
  'option-rom': 'file',
  overcommit: 'keep',
  parallel: 'legacy-chardev',
  pflash: 'drive-file',
  pidfile: 'drop',
  plugin: 'drop',
  qmp: 'drop',
  'qmp-pretty': 'drop',
  readconfig: 'refuse',
  rotate: 'drop',
  rtc: 'keep',
  'run-with': 'run-with',
  runas: 'keep',
  sandbox: 'keep',
  sd: 'drive-file',
  seed: 'keep',
  serial: 'legacy-chardev',
  set: 'keep-plain',
  shim: 'file',
  smbios: 'file-key',
  smp: 'keep',
  spice: 'drop',
  tpmdev: 'refuse',
  trace: 'drop',
  usbdevice: 'keep-plain',
  uuid: 'keep',
  vga: 'keep',
  virtfs: 'fsdev',
  vnc: 'drop',
  watchdog: 'keep',
  'watchdog-action': 'keep',
  writeconfig: 'drop',
};

/** The rule of an option; undefined for one that is not known. A bare word is the first disk. */
export function ruleOf(name: string): OptionRule | undefined {
  if (name === '') return 'drive-file';
  if (Object.hasOwn(WITHOUT_VALUE, name)) return WITHOUT_VALUE[name];
  return Object.hasOwn(WITH_VALUE, name) ? WITH_VALUE[name] : undefined;
}

/** Whether an option stands alone; an unknown one does when another option follows. */
export function takesNoValue(name: string, next: string | undefined): boolean {
  if (Object.hasOwn(WITHOUT_VALUE, name)) return true;
  if (Object.hasOwn(WITH_VALUE, name)) return false;
  return next === undefined || next.startsWith('-');
}
