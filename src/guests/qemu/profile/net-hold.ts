/**
 * Whether what a machine's NICs say can be held back: it must pass through QEMU itself, where a
 * filter sees it. Two settings lead it past: vhost, with which the kernel sends the frames, and
 * several queues, which QEMU's filters refuse.
 */
import { readdirSync, readlinkSync } from 'node:fs';
import { toRomulusError } from '../../../base/errors.ts';
import type { Arguments } from './arguments.ts';
import { profileError } from './process.ts';
import type { QemuProfile } from './profile.ts';
import { netdevOptions, type Refusal } from './refusals.ts';

const VHOST_NET = '/dev/vhost-net';
const WITHOUT =
  'or protect it with --net hold=none: connections may then see output that a failover takes back.';

/** The netdevs behind the machine's NICs, by id; a NIC without one says nothing to anybody. */
export function netdevsOfNics(profile: QemuProfile): string[] {
  return [...new Set(profile.nics.map(({ netdev }) => netdev).filter((id) => id !== ''))];
}

/**
 * What stands against holding the output of this machine.
 * @param opensVhost whether its process has vhost-net open: that tells of netdevs plugged later, too.
 */
export function heldNetRefusals(profile: QemuProfile, opensVhost: boolean): Refusal[] {
  const netdevs = netdevOptions(profile);
  const withVhost = netdevs.filter(hasVhost).map(textOf);
  if (withVhost.length === 0 && opensVhost) withVhost.push('a netdev plugged after the start');
  return [
    ...withVhost.map(
      (what): Refusal => ({
        code: 'vhost',
        what,
        why: 'with vhost the kernel sends frames past QEMU: output cannot be held back',
        remedy: `Start the machine with vhost=off on this netdev, ${WITHOUT}`,
      }),
    ),
    ...netdevs.filter(hasQueues).map(
      (netdev): Refusal => ({
        code: 'net-queues',
        what: textOf(netdev),
        why: 'QEMU cannot hold back the output of a netdev with several queues',
        remedy: `Start the machine without queues= (and without mq=on), ${WITHOUT}`,
      }),
    ),
  ];
}

/**
 * Whether a process has vhost-net open.
 * @throws {RomulusError} ERR_GUEST_PROFILE when its descriptors cannot be seen.
 */
export function hasVhostNet(pid: number, procRoot = '/proc'): boolean {
  const directory = `${procRoot}/${pid}/fd`;
  try {
    return readdirSync(directory).some((fd) => linkOf(`${directory}/${fd}`) === VHOST_NET);
  } catch (cause) {
    const why = toRomulusError(cause).message;
    throw profileError(pid, `the descriptors of process ${pid} cannot be seen: ${why}`, cause);
  }
}

/** Whether this netdev, as an option says it, goes through vhost. */
export function hasVhost(netdev: Arguments): boolean {
  return netdev.isOn('vhost') || netdev.isOn('vhostforce');
}

/** Whether it has several queues. */
export function hasQueues(netdev: Arguments): boolean {
  const lists = [netdev.get('fds'), netdev.get('vhostfds')];
  return (
    Number(netdev.get('queues') ?? 1) > 1 || lists.some((list) => list?.includes(':') === true)
  );
}

function linkOf(path: string): string | null {
  try {
    return readlinkSync(path);
  } catch (error) {
    // Closed while we looked.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

function textOf(netdev: Arguments): string {
  return `-netdev ${netdev.get('id') ?? netdev.get('type') ?? ''}`;
}
