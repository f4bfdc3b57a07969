/** Goal: a domain is found by its files, or the user is told exactly what to do. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findLibvirtDomain, secondMonitorXml } from '../../../src/guests/qemu/libvirt.ts';

const OWN_MONITOR =
  '-chardev socket,id=charmonitor,fd=33,server=on,wait=off -mon chardev=charmonitor,id=monitor,mode=control';
let root: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'romulus-libvirt-'));
  mkdirSync(join(root, 'run/libvirt/qemu'), { recursive: true });
  mkdirSync(join(root, 'etc/libvirt/qemu'), { recursive: true });
});
afterEach(() => {
  rmSync(root, { recursive: true });
});

function run(name: string, pid: number, line: string, guest = name): void {
  writeFileSync(join(root, `run/libvirt/qemu/${name}.pid`), `${pid}\n`);
  const process = join(root, `proc/${pid}`);
  mkdirSync(process, { recursive: true });
  const argv = [
    '/usr/bin/qemu-system-x86_64',
    '-name',
    `guest=${guest},debug-threads=on`,
    ...line.split(' '),
  ];
  writeFileSync(join(process, 'cmdline'), `${argv.join('\0')}\0`);
  symlinkSync('/usr/bin/qemu-system-x86_64', join(process, 'exe'));
  symlinkSync('/', join(process, 'cwd'));
}

function find(name: string): unknown {
  return findLibvirtDomain(name, { root, userRuntimeDirectory: undefined });
}

describe('a libvirt domain', () => {
  it.each([
    [
      '-qmp unix:/var/lib/libvirt/qemu/web.monitor,server=on,wait=off',
      '/var/lib/libvirt/qemu/web.monitor',
    ],
    ['-qmp-pretty unix:/a,,b,server,nowait', '/a,b'],
    ['-chardev socket,id=r,path=/q,server=on,wait=off -mon chardev=r,mode=control', '/q'],
  ])('has a second monitor: %s', (line, qmpPath) => {
    run('web', 4242, `${OWN_MONITOR} ${line}`);
    expect(find('web')).toEqual({ name: 'web', pid: 4242, qmpPath });
  });

  it.each([
    ['only its own', OWN_MONITOR],
    [
      'a human one',
      `${OWN_MONITOR} -chardev socket,id=r,path=/q,server=on -mon chardev=r,mode=readline`,
    ],
    ['one that connects elsewhere', `${OWN_MONITOR} -qmp unix:/q`],
  ])('has %s: the XML to add is told', (_, line) => {
    run('web', 4242, line);
    expect(() => find('web')).toThrow(
      expect.objectContaining({
        code: 'ERR_GUEST_QMP_HELD',
        remedy: expect.stringContaining(
          "<qemu:arg value='unix:/var/lib/libvirt/qemu/web.monitor,server=on,wait=off'/>",
        ) as string,
      }),
    );
  });

  it('does not run: those that do are named', () => {
    run('other', 7, OWN_MONITOR);
    writeFileSync(join(root, 'etc/libvirt/qemu/web.xml'), '<domain/>');
    expect(() => find('web')).toThrow(/defined, but does not run \(running here: other\)/);
    expect(() => find('nobody')).toThrow(/there is no such domain/);
  });

  it('left a stale pid file', () => {
    run('web', 4242, OWN_MONITOR, 'another');
    expect(() => find('web')).toThrow(/stale/);
    writeFileSync(join(root, 'run/libvirt/qemu/web.pid'), '99\n');
    expect(() => find('web')).toThrow(expect.objectContaining({ code: 'ERR_GUEST_PROFILE' }));
    writeFileSync(join(root, 'run/libvirt/qemu/web.pid'), 'x');
    expect(() => find('web')).toThrow(/holds no pid/);
  });

  it.each(['', '../../etc/shadow', 'a/b'])('cannot be called %j', (name) => {
    expect(() => find(name)).toThrow(expect.objectContaining({ code: 'ERR_GUEST_UNREACHABLE' }));
  });

  it('has its name escaped in the XML', () => {
    expect(secondMonitorXml("a<'&,")).toContain('a&lt;&apos;&amp;,,.monitor,server=on');
  });
});
