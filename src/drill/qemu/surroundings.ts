/**
 * What a drill's machine has beside processor and memory: a disk with a replica on the other host, a
 * card on a tap of either host. Either may be missing.
 */
import {
  GUEST_ADDRESS,
  type Host,
  HOSTS,
  NODE_ADDRESSES,
  TAP,
  TwoHosts,
} from '../hosts/two-hosts.ts';
import type { Stage } from '../children.ts';
import type { QemuDrillOptions } from '../options.ts';
import type { Say } from './debian.ts';
import { BLOCKS_MIB, BLOCKS_PARTITION, DISK_ID, FILES_PARTITION, makeDisk } from './drill-disk.ts';
import { ensureTools } from './tools.ts';

const GUEST_NETWORK = `${GUEST_ADDRESS}/24`;
const CARD_ADDRESS = '52:54:00:77:00:0a';
/** Writes of the guest's `disk` program: a few in every epoch. */
const WRITES_A_SECOND = 50;

/** The host of a node. */
export function hostNamed(index: 0 | 1): Host {
  return HOSTS[index] ?? 'a';
}

/** Of one drill. */
export class Surroundings {
  readonly hosts: TwoHosts | null;
  readonly #disks: readonly [string, string] | null;

  private constructor(hosts: TwoHosts | null, disks: readonly [string, string] | null) {
    this.hosts = hosts;
    this.#disks = disks;
  }

  /**
   * Makes what the options ask for, installing what is missing.
   * @throws {RomulusError} ERR_HOST_PACKAGES, ERR_HOST_NAMESPACES, ERR_HOST_HELPER
   */
  static async make(
    options: Pick<QemuDrillOptions, 'disk' | 'net'>,
    stage: Stage,
    say: Say,
  ): Promise<Surroundings> {
    const { disk, net } = options;
    if (net) await ensureTools(['ip', 'ping', 'redis-benchmark'], say);
    if (disk) await ensureTools(['mke2fs', 'e2fsck', 'debugfs', 'redis-check-rdb'], say);
    const disks = [stage.path('disk-a.raw'), stage.path('disk-b.raw')] as const;
    if (disk) await makeDisk(disks[0]);
    const hosts = net ? await TwoHosts.make(stage.directory, say) : null;
    return new Surroundings(hosts, disk ? disks : null);
  }

  /** The disk's file on a host, null without a disk. */
  diskOf(index: 0 | 1): string | null {
    return this.#disks?.[index] ?? null;
  }

  /** What a process of a host is run by. */
  launcherOf(index: 0 | 1): readonly string[] {
    return this.hosts?.enter(hostNamed(index)) ?? [];
  }

  /** Where the other host reaches a node, null when both are on this one. */
  addressOf(index: 0 | 1): string | null {
    return this.hosts === null ? null : NODE_ADDRESSES[hostNamed(index)];
  }

  /** Programs of the guest that belong to it. */
  get programs(): readonly string[] {
    return this.#disks === null ? [] : ['disk'];
  }

  /** For the machine on its first host. */
  machineArgs(): readonly string[] {
    const disk = this.diskOf(0);
    const drive = `if=none,id=${DISK_ID},file=${disk},format=raw,discard=unmap,cache=unsafe`;
    const tap = `tap,id=n0,ifname=${TAP},script=no,downscript=no,vhost=off`;
    return [
      // What this host would lose in a power cut is not what is rehearsed here.
      ...(disk === null ? [] : ['-drive', drive, '-device', `virtio-blk-pci,drive=${DISK_ID}`]),
      ...(this.hosts === null
        ? []
        : ['-netdev', tap, '-device', `virtio-net-pci,netdev=n0,mac=${CARD_ADDRESS}`]),
    ];
  }

  /** For the guest's kernel. */
  kernelArgs(): readonly string[] {
    return [
      ...(this.#disks === null
        ? []
        : [
            `romulus.disk=${WRITES_A_SECOND}/${BLOCKS_MIB}/${BLOCKS_PARTITION}`,
            `romulus.filesystem=${FILES_PARTITION}`,
          ]),
      ...(this.hosts === null ? [] : [`romulus.address=${GUEST_NETWORK}`]),
    ];
  }

  /** A host's part of the mapping. */
  mappingOf(index: 0 | 1): { drives?: Record<string, string> } {
    const disk = this.diskOf(index);
    return disk === null ? {} : { drives: { [DISK_ID]: disk } };
  }
}
