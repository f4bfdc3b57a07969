/** Goal: everything of the source's host is placed or named, and nothing else changes. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RomulusError } from '../../../../src/base/errors.ts';
import {
  incomingCommandLine,
  type IncomingOptions,
} from '../../../../src/guests/qemu/profile/command-line.ts';
import type { QemuMappingInput } from '../../../../src/guests/qemu/profile/mapping.ts';
import type { MappingProblem } from '../../../../src/guests/qemu/profile/places.ts';
import type { QemuProfile } from '../../../../src/guests/qemu/profile/profile.ts';
import { device, exampleProfile } from './example-profile.ts';

const OWN: IncomingOptions = {
  qmpPath: '/run/r/qmp',
  ram: { 'pc.ram': '/dev/shm/ram' },
  directory: '/run/r',
  diskMode: 'none',
};
const TAIL = ' -display none -monitor none -qmp unix:/run/r/qmp,server=on,wait=off -incoming defer';
const RAM =
  ' -object memory-backend-file,id=pc.ram,size=67108864,mem-path=/dev/shm/ram,share=on,x-use-canonical-path-for-ramblock-id=off';
const HEAD = '-machine pc-q35-7.2,memory-backend=pc.ram -m 64';

function made(
  argv: string,
  mapping: QemuMappingInput = {},
  changes: Partial<QemuProfile> = {},
): string {
  const profile = exampleProfile({ argv: `-M q35 -m 64 ${argv}`.trim().split(' '), ...changes });
  const { args } = incomingCommandLine(profile, { ...OWN, mapping });
  const line = args.join(' ');
  expect(line.startsWith(HEAD)).toBe(true);
  expect(line.endsWith(TAIL)).toBe(true);
  return line.slice(HEAD.length, -TAIL.length).replace(RAM, '').replace(' -accel tcg', '').trim();
}

function problems(argv: string, changes: Partial<QemuProfile> = {}): MappingProblem[] {
  try {
    made(argv, {}, changes);
    return [];
  } catch (error) {
    if (!(error instanceof RomulusError) || error.code !== 'ERR_CONFIG_QEMU_MAPPING') throw error;
    return error.details['problems'] as MappingProblem[];
  }
}

const chardevs = (...ids: string[]): Partial<QemuProfile> => ({
  chardevs: ids.map((id) => ({ id, filename: '' })),
});
const netdevs = (type: string): Partial<QemuProfile> => ({
  netdevs: [{ id: 'n0', type, isAdded: false }],
});

describe('the command line of the backup', () => {
  it('drops what belongs to the process', () => {
    expect(
      made(
        '-S -daemonize -pidfile x -snapshot -vnc :1 -qmp unix:q,server=on -monitor stdio -add-fd set=1,fd=3 -d int -D log -incoming defer -loadvm a -no-reboot',
      ),
    ).toBe('-no-reboot');
  });

  it('keeps the accelerator in use with its properties', () => {
    expect(
      incomingCommandLine(
        exampleProfile({ argv: ['-accel', 'kvm', '-accel', 'tcg,thread=multi'] }),
        OWN,
      ).args.join(' '),
    ).toContain(
      '-accel tcg,thread=multi -machine type=pc-q35-7.2,memory-backend=pc.ram -m size=67108864B',
    );
  });

  it.each([
    ['-serial file:/var/log/console', '-serial file:/run/r/console'],
    ['-serial stdio', '-serial file:/run/r/serial0.log'],
    ['-serial mon:stdio', '-serial file:/run/r/serial0.log'],
    ['-serial unix:/tmp/s,server,nowait', '-serial unix:/run/r/s,server=on,wait=off'],
    [
      '-serial null -serial telnet:127.0.0.1:5,server=on,wait=off',
      '-serial null -serial telnet:127.0.0.1:5,server=on,wait=off',
    ],
    ['-serial file:a/x -serial file:b/x', '-serial file:/run/r/x -serial file:/run/r/serial1-x'],
    ['-kernel bzImage -append a,b', '-kernel /home/vm/bzImage -append a,b'],
    ['-fw_cfg name=opt/x,file=/x', '-fw_cfg name=opt/x,file=/x'],
    ['-cdrom /iso/a.iso', '-cdrom /iso/a.iso'],
    ['-drive file=/iso/a.iso,media=cdrom,snapshot=on', '-drive file=/iso/a.iso,media=cdrom'],
    ['-nic user,hostfwd=tcp::22-:22', '-nic user,hostfwd=tcp::22-:22'],
    ['-audiodev pa,id=a,server=x', '-audiodev none,id=a'],
    ['-object thread-context,id=t,cpu-affinity=0', ''],
    ['-run-with chroot=/x,user=qemu', '-run-with user=qemu'],
    ['-L /firmware', '-L /firmware'],
    ['-set device.d0.serial=x -usbdevice tablet', '-set device.d0.serial=x -usbdevice tablet'],
    ['-nic tap,ifname=t,script=no', '-nic tap,ifname=t,script=no'],
  ])('%s', (given, expected) => {
    expect(made(given)).toBe(expected);
  });

  it('moves chardevs, and leaves out those of monitors and those gone', () => {
    expect(
      made(
        '-chardev socket,id=c,path=/x/c.sock,server=on -device isa-serial,chardev=c,id=s -chardev socket,id=m,fd=3,server=on -mon chardev=m,mode=control -chardev null,id=gone',
        {},
        { ...chardevs('c', 'm'), devices: [device('isa-serial', 's')] },
      ),
    ).toBe(
      '-chardev socket,id=c,path=/run/r/c.sock,server=on,wait=off -device isa-serial,chardev=c,id=s',
    );
  });

  it.each([
    ['-chardev socket,id=c,path=/x', chardevs('c'), 'chardevs.c'],
    ['-chardev socket,id=c,fd=7', chardevs('c'), 'chardevs.c'],
    ['-chardev pipe,id=c,path=/x', chardevs('c'), 'chardevs.c'],
    ['-chardev serial,id=c,path=/dev/ttyS0', chardevs('c'), 'chardevs.c'],
    ['-serial pipe:/x', {}, 'chardevs.serial0'],
    ['-serial unix:/x', {}, 'chardevs.serial0'],
    ['-netdev tap,id=n0,fd=3', netdevs('tap'), 'netdevs.n0'],
    ['-netdev socket,id=n0,connect=:5', netdevs('socket'), 'netdevs.n0'],
    ['-drive file=/d,id=d0', { drives: [drive('d0', '/d')] }, 'drives.d0'],
    ['-drive file=nbd://h/x,id=d0', { drives: [drive('d0', 'nbd://h/x')] }, 'drives.d0'],
    ['-hda /d', {}, 'files["/d"]'],
    ['-blockdev driver=file,node-name=p,filename=/d', { blockNodes: ['p'] }, 'drives.p'],
    ['-blockdev {"driver":"nbd","node-name":"p"}', { blockNodes: ['p'] }, 'drives.p'],
    ['-netdev tap,id=n0,script=/x', netdevs('tap'), 'files["/x"]'],
    ['-netdev user,id=n0,smb=/', netdevs('user'), 'files["/"]'],
    ['-nic user,id=n0,guestfwd=tcp:10.0.2.100:1-cmd:reboot', {}, 'netdevs.n0'],
    ['-virtfs local,path=/,mount_tag=a,security_model=none', {}, 'files["/"]'],
    ['-set drive.d0.file=/x', {}, 'dropArgs: ["set"]'],
    ['-usbdevice disk:/x', {}, 'dropArgs: ["usbdevice"]'],
    ['-brandnew', {}, 'dropArgs: ["brandnew"]'],
    ['-readconfig /x', {}, 'dropArgs: ["readconfig"]'],
  ] as const)('names what has no place: %s', (given, changes, key) => {
    expect(problems(given, changes as Partial<QemuProfile>)).toMatchObject([{ key }]);
  });

  it('names everything at once', () => {
    expect(problems('-serial pipe:/x -hda /d -brandnew').map(({ key }) => key)).toEqual([
      'chardevs.serial0',
      'files["/d"]',
      'dropArgs: ["brandnew"]',
    ]);
  });

  it('puts in what the mapping says', () => {
    const given =
      '-serial pipe:/x -netdev tap,id=n0,fd=3 -drive file=/d,id=d0,format=qcow2 -bios /b -brandnew -blockdev {"driver":"host_device","node-name":"p","filename":"/dev/sda"} -blockdev {"driver":"qcow2","node-name":"f","file":"p"}';
    const mapping: QemuMappingInput = {
      chardevs: { serial0: 'null' },
      netdevs: { n0: 'tap,ifname=tap7,script=no' },
      drives: { d0: { path: '/e', format: 'raw' }, f: { path: '/r,x', format: 'raw' } },
      files: { '/b': '/c' },
      dropArgs: ['brandnew'],
      extraArgs: ['-vnc', ':7'],
    };
    const changes = { ...netdevs('tap'), drives: [drive('d0', '/d')], blockNodes: ['p', 'f'] };
    const { args, neededFiles, disks } = incomingCommandLine(
      exampleProfile({ argv: given.split(' '), ...changes }),
      { ...OWN, mapping },
    );
    const line = args.join(' ');
    expect(line).toContain('-chardev null,id=romulus-serial0 -serial chardev:romulus-serial0');
    expect(line).toContain('-netdev tap,ifname=tap7,script=no,id=n0');
    expect(line).toContain('-drive file=/e,id=d0,format=raw');
    expect(line).toContain('-bios /c');
    expect(line).toContain('{"driver":"file","node-name":"p","filename":"/r,x"}');
    expect(line).toContain('{"driver":"raw","node-name":"f","file":"p"}');
    expect(line).not.toContain('brandnew');
    expect(args.slice(-2)).toEqual(['-vnc', ':7']);
    expect(neededFiles).toEqual(['/c']);
    expect(disks.map(({ path }) => path)).toEqual(['/r,x', '/e']);
  });

  it('places what libvirt hands over as descriptors', () => {
    const given =
      '-name guest=web,debug-threads=on -object {"qom-type":"secret","id":"masterKey0","format":"raw","file":"/var/lib/libvirt/k.aes"} -object {"qom-type":"memory-backend-ram","id":"pc.ram","size":67108864} -add-fd set=0,fd=24,opaque=log -chardev socket,id=charmonitor,fd=33,server=on,wait=off -mon chardev=charmonitor,id=monitor,mode=control -chardev pty,id=charserial0,logfile=/dev/fdset/0,logappend=on -device {"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":0} -chardev socket,id=agent,fd=34,server=on,wait=off -device {"driver":"virtserialport","chardev":"agent","id":"channel0"} -audiodev {"id":"audio1","driver":"none"} -sandbox on,spawn=deny -msg timestamp=on';
    const changes = {
      ...chardevs('charmonitor', 'charserial0', 'agent'),
      objects: [{ id: 'masterKey0', type: 'secret', isAdded: false, properties: {} }],
      devices: [device('isa-serial', 'serial0'), device('virtserialport', 'channel0')],
    };
    expect(made(given, {}, changes)).toBe(
      '-name guest=web,debug-threads=on -chardev pty,id=charserial0,logfile=/run/r/charserial0.log,logappend=on -device {"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":0} -chardev socket,id=agent,server=on,path=/run/r/agent.sock,wait=off -device {"driver":"virtserialport","chardev":"agent","id":"channel0"} -audiodev none,id=audio1 -sandbox on,spawn=deny',
    );
  });

  it('takes a launcher in place of a path, with its own firmware', () => {
    const profile = exampleProfile({ argv: ['-L', '/there'] });
    const own = { ...OWN, binary: ['/r/ld.so', '/r/qemu', '-L', '/here'] };
    const { command, args } = incomingCommandLine(profile, own);
    expect(command).toBe('/r/ld.so');
    expect(args.slice(0, 3)).toEqual(['/r/qemu', '-L', '/here']);
    expect(args).not.toContain('/there');
  });

  it('refuses a mapping that says something else', () => {
    const mapping = { drive: {} } as unknown as QemuMappingInput;
    expect(() => incomingCommandLine(exampleProfile(), { ...OWN, mapping })).toThrow(
      expect.objectContaining({ code: 'ERR_CONFIG_INVALID' }),
    );
  });

  it('does not fall for names that all objects have', () => {
    const changes = {
      ...netdevs('user'),
      netdevs: [{ id: 'constructor', type: 'user', isAdded: false }],
    };
    expect(made('-netdev user,id=constructor', {}, changes)).toBe('-netdev user,id=constructor');
  });

  it('gives an error of ours or a command for any words', () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(fc.string(), word)), (argv) => {
        try {
          const { args } = incomingCommandLine(exampleProfile({ argv }), OWN);
          expect(args.filter((arg) => arg === 'defer')).toContain('defer');
        } catch (error) {
          expect(error).toMatchObject({ code: 'ERR_CONFIG_QEMU_MAPPING' });
        }
      }),
    );
  });
});

const word = fc.constantFrom(
  '-drive',
  '-device',
  '-serial',
  '-object',
  '-machine',
  '-netdev',
  '-chardev',
  '-blockdev',
  '-mon',
  'file=/x',
  'unix:/x,server',
  '{"driver":"file","file":{}}',
  'id=a',
  'pc,accel=x:y',
);

function drive(id: string, file: string): QemuProfile['drives'][number] {
  return {
    id,
    nodeName: '#block1',
    device: '',
    file,
    format: 'raw',
    isReadOnly: false,
    isRemovable: false,
    bytes: 0,
  };
}
