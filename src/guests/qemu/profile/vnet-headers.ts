/**
 * Whether the backup's network backends carry the headers of virtio cards. A tap does; a card behind
 * one says so in its state, and QEMU refuses to load that state behind a backend that does not: at the
 * failover, when it is too late to mend the mapping.
 */
import { Arguments } from './arguments.ts';
import { entryOf, type QemuMapping } from './mapping.ts';
import type { QemuProfile } from './profile.ts';
import { netdevOptions, type Refusal } from './refusals.ts';

const CARRIERS: ReadonlySet<string> = new Set(['tap', 'bridge']);
const VIRTIO_CARD = /^virtio-net\b/;

/** The cards whose state could not be loaded with these netdevs of the mapping. */
export function vnetRefusals(
  profile: QemuProfile,
  netdevs: QemuMapping['netdevs'] = {},
): Refusal[] {
  const given = new Map(netdevOptions(profile).map((option) => [option.get('id'), option]));
  const refusals: Refusal[] = [];
  for (const { device, netdev } of profile.nics) {
    // One without an id goes by its path.
    const known = profile.devices.find(({ id, path }) => (id ?? path) === device);
    const driver = known?.driver ?? device;
    const mapped = entryOf(netdevs, netdev);
    if (mapped === undefined || !VIRTIO_CARD.test(driver)) continue;
    const type = profile.netdevs.find(({ id }) => id === netdev)?.type ?? '';
    const here = Arguments.parse(mapped, 'type');
    if (!carries(type, given.get(netdev)) || carries(here.get('type') ?? '', here)) continue;
    refusals.push({
      code: 'net-headers',
      what: `netdevs.${netdev} of the mapping (${mapped})`,
      why: `the ${driver} '${device}' is behind a ${type} with virtio headers, which this does not carry`,
      remedy: `Map it to a tap, or start the machine with vnet_hdr=off on its ${type}.`,
    });
  }
  return refusals;
}

function carries(type: string, netdev: Arguments | undefined): boolean {
  return CARRIERS.has(type) && netdev?.isOn('vnet_hdr', true) !== false;
}
