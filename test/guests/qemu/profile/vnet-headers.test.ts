/** Goal: a card whose state the mapped backend could not take is found before a failover does. */
import { expect, it } from 'vitest';
import { vnetRefusals } from '../../../../src/guests/qemu/profile/vnet-headers.ts';
import type { QemuProfile } from '../../../../src/guests/qemu/profile/profile.ts';
import { device, exampleProfile } from './example-profile.ts';

function refused(
  mapped: Record<string, string>,
  { netdev = 'tap,id=n0,ifname=t0', type = 'tap', driver = 'virtio-net-pci' } = {},
): string[] {
  const profile = exampleProfile({
    argv: ['-netdev', netdev],
    devices: [device(driver, 'nic0')],
    netdevs: [{ id: 'n0', type, isAdded: false }],
    nics: [{ device: 'nic0', netdev: 'n0', mac: '52:54:00:12:34:56' }],
  });
  return vnetRefusals(profile, mapped).map(({ code, what }) => `${code}: ${what}`);
}

it('a virtio card behind a tap needs a tap here', () => {
  const refusal = (mapped: string): string[] => [
    `net-headers: netdevs.n0 of the mapping (${mapped})`,
  ];
  for (const mapped of ['user', 'stream,server=on,addr.type=unix,addr.path=/w', 'tap,vnet_hdr=no'])
    expect(refused({ n0: mapped })).toEqual(refusal(mapped));
  expect(refused({ n0: 'tap,ifname=t1' })).toEqual([]);
  expect(refused({ n0: 'bridge,br=br1' })).toEqual([]);
  expect(refused({ n1: 'user' })).toEqual([]);
  expect(refused({})).toEqual([]);
});

it('any other card, or one without such headers, does not', () => {
  expect(refused({ n0: 'user' }, { driver: 'e1000' })).toEqual([]);
  expect(refused({ n0: 'user' }, { netdev: 'tap,id=n0,vnet_hdr=false' })).toEqual([]);
  expect(refused({ n0: 'tap' }, { netdev: 'user,id=n0', type: 'user' })).toEqual([]);
});

it('a card without an id is known by its path', () => {
  const path = '/machine/peripheral-anon/device[0]';
  const profile = (driver: string): QemuProfile =>
    exampleProfile({
      argv: ['-netdev', 'tap,id=n0'],
      devices: [{ ...device(driver, ''), id: null, path }],
      netdevs: [{ id: 'n0', type: 'tap', isAdded: false }],
      nics: [{ device: path, netdev: 'n0', mac: '' }],
    });
  expect(vnetRefusals(profile('virtio-net-pci'), { n0: 'user' })).toMatchObject([
    { code: 'net-headers', why: expect.stringContaining(path) as string },
  ]);
  expect(vnetRefusals(profile('e1000'), { n0: 'user' })).toEqual([]);
});
