/**
 * Two hosts, their clients and the cables between them, as network namespaces of this machine:
 *
 * ```
 *   a: tap0 ─ br0 ─ lan ──┐               ┌── lan ─ br0 ─ tap0 :b
 *                         ├─ clients ─ switch
 *   client: lan ──────────┘
 *   a: repl ───────────────── hosts ─ switch ─────────── repl :b
 * ```
 *
 * The machine's card is on the tap of whichever host runs it; the nodes talk over `repl` alone. A cable
 * is cut at the switch, so that the host sees its carrier go and no more.
 *
 * The names hold the process that made them: the next drill removes what a killed one left, with the
 * processes in it and its directory.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { RomulusError } from '../../base/errors.ts';
import { isProcessAlive, processStartTime } from '../../guests/process.ts';
import { killIfThere } from '../children.ts';
import { runHelper } from '../qemu/command.ts';
import { isRoot, type Say } from '../qemu/debian.ts';
import { ensureTools } from '../qemu/tools.ts';

/** Where iproute2 keeps its named namespaces. */
const NAMES_FOLDER = '/run/netns';
/** As `STAGE_PREFIX` and mkdtemp make it, then the owner, when it started, and the place. */
/** A drill's directory, its process, when that started, and the place. */
const NAME_PATTERN = /^(romulus-drill-[A-Za-z0-9]+)\.(\d+)\.(\d+)\.[a-z]+$/;
const PLACES = ['switch', 'a', 'b', 'client'] as const;
type Place = (typeof PLACES)[number];
export type Host = 'a' | 'b';
export const HOSTS: readonly Host[] = ['a', 'b'];

/** The tap of each host, for the machine's card. */
export const TAP = 'tap0';
/** Addresses of the nodes towards each other. */
export const NODE_ADDRESSES: Readonly<Record<Host, string>> = { a: '10.78.0.1', b: '10.78.0.2' };
/** The machine and its clients. */
export const GUEST_ADDRESS = '10.77.0.10';
const CLIENT_ADDRESS = '10.77.0.1';
const PREFIX_BITS = 24;

/** A cable of a host: to its clients, or to the other host. */
export type Cable = 'lan' | 'repl';

/** The namespaces of one drill. */
export class TwoHosts {
  readonly #prefix: string;

  private constructor(prefix: string) {
    this.#prefix = prefix;
  }

  /**
   * Makes the namespaces for the drill whose directory this is, after removing what dead drills left.
   * @throws {RomulusError} ERR_HOST_NAMESPACES when we are not root or the kernel lacks a part.
   */
  static async make(directory: string, say: Say): Promise<TwoHosts> {
    if (!isRoot())
      throw new RomulusError('ERR_HOST_NAMESPACES', 'only root may make network namespaces', {
        remedy: 'Run the drill as root, or without --net.',
      });
    await ensureTools(['ip'], say);
    await removeLeftovers();
    const own = `${process.pid}.${processStartTime(process.pid) ?? 0}`;
    const hosts = new TwoHosts(`${basename(directory)}.${own}`);
    try {
      await hosts.#build();
    } catch (cause) {
      await hosts.remove();
      throw new RomulusError('ERR_HOST_NAMESPACES', 'this kernel gives us no two hosts', {
        remedy:
          'Network namespaces, bridges, veth pairs and taps are needed; a container may lack them.',
        cause,
        details: { reason: cause instanceof Error ? cause.message : String(cause) },
      });
    }
    return hosts;
  }

  /** What to put before a command so that it runs there. */
  enter(place: Place): readonly string[] {
    return ['ip', 'netns', 'exec', this.#name(place)];
  }

  /** Pulls a cable of a host: nothing passes either way. */
  async cut(host: Host, cable: Cable): Promise<void> {
    await this.#ip('switch', 'link', 'set', `${cable}-${host}`, 'down');
  }

  /** Plugs it in again. */
  async mend(host: Host, cable: Cable): Promise<void> {
    await this.#ip('switch', 'link', 'set', `${cable}-${host}`, 'up');
  }

  /** Ends what still runs in the namespaces, and removes them. Idempotent. */
  async remove(): Promise<void> {
    for (const place of PLACES)
      if (existsSync(join(NAMES_FOLDER, this.#name(place))))
        await removeNamespace(this.#name(place));
  }

  /** Removes them at once, from an exit handler. */
  removeNow(): void {
    for (const place of PLACES)
      if (existsSync(join(NAMES_FOLDER, this.#name(place))))
        execFileSync('ip', ['netns', 'del', this.#name(place)]);
  }

  async #build(): Promise<void> {
    for (const place of PLACES) {
      await runHelper('ip', ['netns', 'add', this.#name(place)]);
      await this.#ip(place, 'link', 'set', 'lo', 'up');
    }
    for (const bridge of ['clients', 'hosts']) await this.#bridge('switch', bridge);
    for (const host of HOSTS) {
      await this.#plug(host, 'lan', 'clients');
      await this.#plug(host, 'repl', 'hosts');
      await this.#bridge(host, 'br0');
      await this.#ip(host, 'tuntap', 'add', 'dev', TAP, 'mode', 'tap');
      for (const port of [TAP, 'lan']) await this.#ip(host, 'link', 'set', port, 'master', 'br0');
      await this.#ip(host, 'link', 'set', TAP, 'up');
      await this.#address(host, 'repl', NODE_ADDRESSES[host]);
    }
    await this.#plug('client', 'lan', 'clients');
    await this.#address('client', 'lan', CLIENT_ADDRESS);
  }

  async #bridge(place: Place, name: string): Promise<void> {
    await this.#ip(place, 'link', 'add', name, 'type', 'bridge', 'mcast_snooping', '0');
    await this.#ip(place, 'link', 'set', name, 'up');
  }

  /** A cable from a place to a bridge of the switch. */
  async #plug(place: Place, name: string, bridge: string): Promise<void> {
    const port = `${name}-${place}`;
    const far = ['peer', 'name', port, 'netns', this.#name('switch')];
    await this.#ip(place, 'link', 'add', name, 'type', 'veth', ...far);
    await this.#ip('switch', 'link', 'set', port, 'master', bridge, 'up');
    await this.#ip(place, 'link', 'set', name, 'up');
  }

  async #address(place: Place, device: string, address: string): Promise<void> {
    await this.#ip(place, 'addr', 'add', `${address}/${PREFIX_BITS}`, 'dev', device);
  }

  async #ip(place: Place, ...words: string[]): Promise<void> {
    await runHelper('ip', ['-n', this.#name(place), ...words]);
  }

  #name(place: Place): string {
    return `${this.#prefix}.${place}`;
  }
}

/** The namespaces of drills that were killed: their processes are ended, their files removed. */
export async function removeLeftovers(): Promise<void> {
  if (!existsSync(NAMES_FOLDER)) return;
  for (const name of readdirSync(NAMES_FOLDER)) {
    const [, directory, pid, startTime] = NAME_PATTERN.exec(name) ?? [];
    if (directory === undefined || isOwnerAlive(Number(pid), startTime)) continue;
    await removeNamespace(name);
    rmSync(join(tmpdir(), directory), { recursive: true, force: true });
  }
}

async function removeNamespace(name: string): Promise<void> {
  const inside = await runHelper('ip', ['netns', 'pids', name]);
  for (const pid of inside.split('\n').filter((line) => line !== '')) killIfThere(Number(pid));
  await runHelper('ip', ['netns', 'del', name]);
}

function isOwnerAlive(pid: number, startTime: string | undefined): boolean {
  return isProcessAlive(pid) && processStartTime(pid) === startTime;
}
