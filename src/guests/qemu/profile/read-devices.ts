/**
 * Devices and objects as QEMU's object tree shows them, plugged ones included.
 *
 * A device that was plugged after the start is on no command line, so one must be made for it: its
 * properties that differ from their defaults, as `device-list-properties` gives them, are exactly
 * what `-device` needs to make it again. Properties without a default are texts and links of which
 * only those that were set are taken; numbers without a default are counters that nobody can set.
 */
import { ask, ifKnown, property, textProperty } from '../qmp/commands.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import { PROFILE_ENTRIES_MAX, type ProfileDevice, type QemuProfile } from './profile.ts';

/** Where devices are that the user made, with and without an id. */
const NAMED = '/machine/peripheral';
const UNNAMED = '/machine/peripheral-anon';
/** Set by place or by QEMU itself, or without meaning for a copy. */
const SKIPPED_PROPERTIES: ReadonlySet<string> = new Set([
  'addr',
  'failover_pair_id',
  'legacy-addr',
  'parent_bus',
  'romfile',
]);
/** Properties that name a vCPU among the possible ones. */
const CPU_PROPERTIES = ['socket-id', 'die-id', 'cluster-id', 'module-id', 'core-id', 'thread-id'];
/** Properties that objects of these types can have; other types are made again without any. */
const OBJECT_PROPERTIES: Readonly<Record<string, readonly string[]>> = {
  'rng-random': ['filename'],
  'rng-egd': ['chardev'],
  iothread: ['poll-max-ns', 'poll-grow', 'poll-shrink', 'aio-max-batch'],
};

/** What an engine puts into a machine for as long as it is attached bears this in front. */
const OUR_PREFIX = 'romulus-';

/** Whether a thing with this name is no part of the machine but was put there to replicate it. */
export function isOurs(name: string): boolean {
  return name.startsWith(OUR_PREFIX);
}

/** Things asked about at the same time; the client takes no more commands than it can bound. */
const BATCH_MAX = 8;

async function inBatches<In, Out>(
  items: readonly In[],
  each: (item: In) => Promise<Out>,
): Promise<Out[]> {
  const results: Out[] = [];
  for (let at = 0; at < items.length; at += BATCH_MAX) {
    results.push(...(await Promise.all(items.slice(at, at + BATCH_MAX).map(each))));
  }
  return results;
}

/** What the command line says of devices and objects. */
export interface GivenNames {
  readonly deviceIds: ReadonlySet<string>;
  readonly objectIds: ReadonlySet<string>;
  /** Devices without an id that the start makes; QEMU numbers them in order. */
  readonly unnamedDeviceCount: number;
}

/** All devices that the user made, at the start or since. */
export async function readDevices(client: QmpClient, given: GivenNames): Promise<ProfileDevice[]> {
  const places = await Promise.all(
    [NAMED, UNNAMED].map(async (path) => {
      const children = await ask(client, 'qom-list', { path });
      return children.flatMap(({ name, type }) => {
        const driver = childType(type);
        return driver === null
          ? []
          : [{ path: `${path}/${name}`, name, driver, isNamed: path === NAMED }];
      });
    }),
  );
  const devices = places.flat().slice(0, PROFILE_ENTRIES_MAX);
  const defaults = new Map<string, ReturnType<typeof readDefaults>>();
  return inBatches(devices, async ({ path, name, driver, isNamed }) => {
    const isPlugged = (await property(client, path, 'hotplugged')) === true;
    const isGiven = isNamed
      ? given.deviceIds.has(name)
      : Number(/^device\[(\d+)\]$/.exec(name)?.[1] ?? Infinity) < given.unnamedDeviceCount;
    const isAdded = isPlugged || !isGiven;
    const pci = await readPciPlace(client, path);
    let properties = {};
    if (isAdded) {
      const known = defaults.get(driver) ?? readDefaults(client, driver);
      defaults.set(driver, known);
      properties = await readProperties(client, path, driver, await known);
    }
    return { id: isNamed ? name : null, path, driver, isAdded, pci, properties };
  });
}

/** Objects that are no memory backends. */
export async function readObjects(
  client: QmpClient,
  given: GivenNames,
): Promise<QemuProfile['objects']> {
  const children = await ask(client, 'qom-list', { path: '/objects' });
  const objects = children.flatMap(({ name, type }) => {
    const objectType = childType(type);
    const isOther =
      objectType !== null && !objectType.startsWith('memory-backend-') && !isOurs(name);
    return isOther ? [{ id: name, type: objectType }] : [];
  });
  return inBatches(objects.slice(0, PROFILE_ENTRIES_MAX), async ({ id, type }) => {
    const properties: Record<string, string> = {};
    for (const name of OBJECT_PROPERTIES[type] ?? []) {
      const value = propertyText(await property(client, `/objects/${id}`, name));
      if (value !== undefined && value !== '') properties[name] = value;
    }
    return { id, type, isAdded: !given.objectIds.has(id), properties };
  });
}

async function readPciPlace(client: QmpClient, path: string): Promise<ProfileDevice['pci']> {
  // Only PCI devices have it.
  const multifunction = await property(client, path, 'multifunction');
  if (typeof multifunction !== 'boolean') return null;
  const [address, bus] = await Promise.all([
    property(client, path, 'addr'),
    textProperty(client, path, 'parent_bus'),
  ]);
  if (typeof address !== 'number' || address < 0 || address > 0xff || bus === undefined)
    return null;
  return { bus: bus.split('/').at(-1) ?? '', slot: address >> 3, function: address & 7 };
}

type Defaults = ReadonlyMap<string, { readonly type: string; readonly value: unknown }>;

async function readDefaults(client: QmpClient, driver: string): Promise<Defaults> {
  const listed = await ask(client, 'device-list-properties', { typename: driver });
  return new Map(
    listed.map(({ name, type, 'default-value': value }) => [name, { type, value }] as const),
  );
}

async function readProperties(
  client: QmpClient,
  path: string,
  driver: string,
  defaults: Defaults,
): Promise<Record<string, string>> {
  const properties: Record<string, string> = {};
  if (driver.endsWith('-cpu')) {
    for (const name of CPU_PROPERTIES) {
      const value = await property(client, path, name);
      if (typeof value === 'number' && value >= 0) properties[name] = String(value);
    }
    return properties;
  }
  await inBatches([...defaults], async ([name, { type, value: usual }]) => {
    if (type.startsWith('child<')) return;
    // A DIMM's addr is where it lies in memory; only that of PCI devices is told elsewhere.
    const isMemoryAddress = name === 'addr' && type.startsWith('uint64');
    if (SKIPPED_PROPERTIES.has(name) && !isMemoryAddress) return;
    const value = await property(client, path, name);
    const text = propertyText(value);
    if (text === undefined || text === '' || value === usual) return;
    if (usual === undefined && !isTellingWithoutDefault(name, value, path)) return;
    properties[name] = text;
  });
  const bus = await textProperty(client, path, 'parent_bus');
  if (bus !== undefined && bus !== '' && !bus.startsWith('/machine/unattached/')) {
    properties['bus'] = bus.split('/').at(-1) ?? '';
  }
  return properties;
}

/** Of properties without a default: texts that were set, and links to objects of the user's. */
function isTellingWithoutDefault(name: string, value: unknown, path: string): boolean {
  if (name === 'bootindex') return typeof value === 'number' && value >= 0;
  if (typeof value !== 'string') return false;
  return !value.startsWith('/') || value.startsWith('/objects/') || value.startsWith(`${NAMED}/`)
    ? !value.startsWith(`${path}/`)
    : false;
}

function propertyText(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (typeof value === 'number') return String(value);
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  return undefined;
}

function childType(type: string): string | null {
  return /^child<(.*)>$/.exec(type)?.[1] ?? null;
}

/** NICs and what is behind them, found by their properties. */
export async function readNics(
  client: QmpClient,
  devices: readonly ProfileDevice[],
): Promise<QemuProfile['nics']> {
  const found = await inBatches(devices, async ({ id, path }) => {
    const mac = await ifKnown(textProperty(client, path, 'mac'));
    if (mac === undefined) return [];
    const netdev = (await textProperty(client, path, 'netdev')) ?? '';
    return [{ device: id ?? path, netdev, mac }];
  });
  return found.flat();
}
