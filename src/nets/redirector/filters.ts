/**
 * The filters through which a running QEMU gives us what its NICs say: one `filter-redirector` for
 * each, between the guest's device and the netdev, with two sockets. What the guest says comes out of
 * one and goes no further; what we write into the other goes on to the netdev. Frames *to* the guest
 * are not touched.
 *
 * The sockets are pairs of our making whose far ends QEMU is handed (`getfd`), so that neither paths
 * nor users nor mount namespaces stand between.
 *
 * **Closed by itself.** While a filter is there and our ends are closed, QEMU drops what the guest
 * says, without an event. That is the fence of a machine whose engine died, so it is never lifted in
 * passing: filters found when attaching are replaced behind a filter that swallows everything, and
 * without an instant in which a frame could leave.
 *
 * Names: filter `romulus-nfN`, its sockets `romulus-cN` and `romulus-iN`; the swallowing filter
 * `romulus-sfN` with `romulus-svN`. N counts the NICs of the present attachment.
 */
import { z } from 'zod';
import { RomulusError, toRomulusError } from '../../base/errors.ts';

/** How long QEMU may take for one step, milliseconds. */
export const STEP_TIMEOUT_MS = 5000;

/** What is needed of a monitor of QEMU; `QmpClient` is one. */
export interface NetMonitor {
  command(name: string, args?: object, options?: { timeoutMs?: number }): Promise<unknown>;
  /** As `command`, handing QEMU a descriptor with it. */
  commandWithDescriptor(
    name: string,
    args: object,
    descriptor: number,
    options?: { timeoutMs?: number },
  ): Promise<unknown>;
}

/** A NIC whose frames are to be held. */
export interface FilteredNic {
  /** Id of the netdev behind it. */
  readonly netdev: string;
  /** Descriptors of ours that QEMU is to have: into `capture` it writes, from `inject` it reads. */
  readonly capture: number;
  readonly inject: number;
}

const objectsSchema = z.array(z.object({ name: z.string() }));
const chardevsSchema = z.array(z.object({ label: z.string() }));

const OWN_FILTER = /^romulus-nf\d+$/;
const OWN_SWALLOWER = /^romulus-sf\d+$/;
const OWN_SOCKET = /^romulus-[ci]\d+$/;
const OWN_VOID = /^romulus-sv\d+$/;

/** Name of the filter of a NIC. */
export function filterName(nic: number): string {
  return `romulus-nf${nic}`;
}

const captureName = (nic: number): string => `romulus-c${nic}`;
const injectName = (nic: number): string => `romulus-i${nic}`;
const swallowerName = (nic: number): string => `romulus-sf${nic}`;
const voidName = (nic: number): string => `romulus-sv${nic}`;

interface Found {
  readonly filters: readonly string[];
  readonly swallowers: readonly string[];
  readonly sockets: readonly string[];
  readonly voids: readonly string[];
}

/**
 * Whether filters of ours are in this QEMU: then its network is closed, or somebody holds it.
 * @throws {RomulusError} as the monitor.
 */
export async function hasFilters(monitor: NetMonitor): Promise<boolean> {
  const { filters, swallowers } = await find(monitor);
  return filters.length + swallowers.length > 0;
}

/**
 * Puts the filters in; from then on everything the NICs say comes to us. What a predecessor left is
 * replaced.
 * @throws {RomulusError} ERR_NET_FILTER with QEMU's own words; then the network is as it was found:
 *   open, or closed.
 */
export async function attachFilters(
  monitor: NetMonitor,
  nics: readonly FilteredNic[],
): Promise<void> {
  const left = await find(monitor);
  const wasClosed = left.filters.length + left.swallowers.length > 0;
  try {
    if (wasClosed) await swallow(monitor, nics, left);
    await remove(monitor, { ...left, swallowers: [], voids: [] });
    for (const [index, nic] of nics.entries()) await attachOne(monitor, index, nic);
    if (wasClosed) {
      const { swallowers, voids } = await find(monitor);
      await remove(monitor, { filters: [], sockets: [], swallowers, voids });
    }
  } catch (error) {
    await giveUp(monitor, wasClosed);
    throw filterError(error);
  }
}

/**
 * Takes all filters of ours out: what the NICs say goes straight to their netdevs again.
 * @throws {RomulusError} ERR_NET_FILTER
 */
export async function removeFilters(monitor: NetMonitor): Promise<void> {
  try {
    await remove(monitor, await find(monitor));
  } catch (error) {
    throw filterError(error);
  }
}

async function attachOne(monitor: NetMonitor, index: number, nic: FilteredNic): Promise<void> {
  for (const [name, descriptor] of [
    [captureName(index), nic.capture],
    [injectName(index), nic.inject],
  ] as const) {
    await monitor.commandWithDescriptor('getfd', { fdname: name }, descriptor, {
      timeoutMs: STEP_TIMEOUT_MS,
    });
    await run(monitor, 'chardev-add', {
      id: name,
      backend: {
        type: 'socket',
        data: { addr: { type: 'fd', data: { str: name } }, server: false },
      },
    });
  }
  await run(monitor, 'object-add', {
    'qom-type': 'filter-redirector',
    id: filterName(index),
    netdev: nic.netdev,
    // Seen from the netdev: what it receives of the guest.
    queue: 'rx',
    outdev: captureName(index),
    indev: injectName(index),
  });
}

/** Before the present filters go: a frame walks the newest filter first. */
async function swallow(
  monitor: NetMonitor,
  nics: readonly FilteredNic[],
  left: Found,
): Promise<void> {
  for (const [index, { netdev }] of nics.entries()) {
    if (left.swallowers.includes(swallowerName(index))) continue;
    if (!left.voids.includes(voidName(index)))
      await run(monitor, 'chardev-add', {
        id: voidName(index),
        backend: { type: 'null', data: {} },
      });
    await run(monitor, 'object-add', {
      'qom-type': 'filter-redirector',
      id: swallowerName(index),
      netdev,
      queue: 'rx',
      outdev: voidName(index),
    });
  }
}

/** After a failure: a network that was open is open again, one that was closed stays so. */
async function giveUp(monitor: NetMonitor, wasClosed: boolean): Promise<void> {
  try {
    const present = await find(monitor);
    await remove(
      monitor,
      wasClosed ? { ...present, swallowers: [], voids: [] } : present,
      // A filter that nothing stands behind would open the network.
      { keepsFilters: wasClosed && present.swallowers.length === 0 },
    );
  } catch {
    // The failure that led here says more; what is left is closed, and the next attachment finds it.
  }
}

async function remove(
  monitor: NetMonitor,
  found: Found,
  options: { readonly keepsFilters?: boolean } = {},
): Promise<void> {
  if (options.keepsFilters === true) return;
  for (const id of [...found.filters, ...found.swallowers])
    await run(monitor, 'object-del', { id });
  for (const id of [...found.sockets, ...found.voids]) await run(monitor, 'chardev-remove', { id });
}

async function find(monitor: NetMonitor): Promise<Found> {
  const objects = objectsSchema.parse(await run(monitor, 'qom-list', { path: '/objects' }));
  const chardevs = chardevsSchema.parse(await run(monitor, 'query-chardev'));
  const named = (pattern: RegExp, names: readonly string[]): string[] =>
    names.filter((name) => pattern.test(name));
  const ids = objects.map(({ name }) => name);
  const labels = chardevs.map(({ label }) => label);
  return {
    filters: named(OWN_FILTER, ids),
    swallowers: named(OWN_SWALLOWER, ids),
    sockets: named(OWN_SOCKET, labels),
    voids: named(OWN_VOID, labels),
  };
}

async function run(monitor: NetMonitor, name: string, args?: object): Promise<unknown> {
  return await monitor.command(name, args, { timeoutMs: STEP_TIMEOUT_MS });
}

function filterError(cause: unknown): RomulusError {
  const error = toRomulusError(cause);
  if (error.code === 'ERR_NET_FILTER') return error;
  return new RomulusError(
    'ERR_NET_FILTER',
    `the machine's network output cannot be held: ${error.message}`,
    {
      remedy:
        'See what QEMU says; `--net hold=none` leaves the network alone, and lets connections see lost output.',
      cause,
      details: { cause: error.code },
    },
  );
}
