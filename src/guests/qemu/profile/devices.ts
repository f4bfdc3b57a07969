/**
 * Devices of the source's command line, on the backup: those unplugged since are left out, and all
 * PCI devices get the place that they really have, because QEMU hands places out in order and a
 * device less would move those after it.
 */
import { Arguments } from './arguments.ts';
import type { QemuOption } from './argv.ts';
import type { Places } from './places.ts';
import type { QemuProfile } from './profile.ts';

/**
 * The numbers under which QEMU keeps devices without an id (`/machine/peripheral-anon/device[N]`):
 * first those in text form, then the ones that `-drive if=virtio` implies, then those in JSON.
 */
export function unnamedPlaces(options: readonly QemuOption[]): ReadonlyMap<QemuOption, number> {
  const texts: QemuOption[] = [];
  const implied: QemuOption[] = [];
  const jsons: QemuOption[] = [];
  for (const option of options) {
    if (option.name === 'drive') {
      if (Arguments.parse(option.value ?? '').get('if') === 'virtio') implied.push(option);
    } else if (option.name === 'device') {
      const device = Arguments.parse(option.value ?? '', 'driver');
      if (device.get('id') === undefined) (device.isJson ? jsons : texts).push(option);
    }
  }
  return new Map([...texts, ...implied, ...jsons].map((option, place) => [option, place]));
}

/** What a `-device` becomes; null when the machine has it no more. */
export function mapDevice(
  device: Arguments,
  unnamedPlace: number | undefined,
  profile: QemuProfile,
  places: Places,
): Arguments | null {
  const id = device.get('id');
  const path = `/machine/peripheral-anon/device[${unnamedPlace}]`;
  const known = profile.devices.find((entry) =>
    id === undefined ? entry.path === path : entry.id === id,
  );
  // An added one of the same name was plugged later, in its place.
  if (known === undefined || known.isAdded) return null;
  if (known.pci !== null && device.get('addr') === undefined) {
    const { bus, slot, function: functionNumber } = known.pci;
    device.set('bus', bus);
    device.set('addr', `0x${slot.toString(16)}.${functionNumber}`);
  }
  const rom = device.get('romfile');
  if (rom?.includes('/') === true) device.set('romfile', places.readable(rom));
  if (device.get('driver') === 'loader') {
    const file = device.get('file');
    if (file !== undefined) device.set('file', places.readable(file));
  }
  return device;
}
