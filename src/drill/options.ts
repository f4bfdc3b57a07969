/** What a drill can be told. */

/** The machine's programs that a drill can run. */
export const WORKLOADS = ['idle', 'counter', 'random', 'hotspot', 'stream', 'kv'] as const;
export type Workload = (typeof WORKLOADS)[number];

/**
 * What strikes:
 * - `sigkill`: machine and engine of the primary are killed together, as when a host dies;
 * - `guest`, `engine`: only the one or the other;
 * - `sigstop`: both are frozen, and thawed once the other side runs;
 * - `link`: the cables between the nodes are cut both ways, the arbiter and the clients stay in reach;
 * - `uplink`: the cable between the primary's host and its clients is cut and mended; only where there
 *   is one;
 * - `backup`: the backup's engine is killed and started again.
 */
export const KILLS = ['sigkill', 'sigstop', 'link', 'uplink', 'backup', 'guest', 'engine'] as const;
export type Kill = (typeof KILLS)[number];

/** What the drill of every kind of machine can be told. */
interface CommonOptions {
  readonly memoryBytes: number;
  readonly intervalMs: number;
  /** How soon output that waits ends an epoch; 0: never early; null: as the nodes think best. */
  readonly minIntervalMs: number | null;
  readonly kill: Kill;
  readonly seed: number;
  /** After the failover: start the killed side again and fail over the other way. */
  readonly rejoin: boolean;
  /** How written pages are found; `mprotect` works on any kernel, for simulated machines. */
  readonly tracker: 'auto' | 'mprotect';
  /** Keep logs and audit files even when all went well. */
  readonly keep: boolean;
}

export interface SimDrillOptions extends CommonOptions {
  readonly guest: 'sim';
  readonly workload: Workload;
  /** Steps a second; null leaves it to the machine. */
  readonly rate: number | null;
  /** For `kv`: real `redis-benchmark` through the gateway instead of the built-in clients. */
  readonly redisBenchmark: boolean;
}

/**
 * What a QEMU machine runs beside its counter and its memory pattern, which judge it: nothing, a
 * steady rate of dirty pages, a job for CPU and memory, a busy shell, or all of that. `bare` is a
 * machine without any system that only counts, for a KVM that cannot boot a kernel.
 */
export const QEMU_WORKLOADS = ['pattern', 'dirty', 'work', 'shell', 'all', 'bare'] as const;
export const ACCELERATORS = ['tcg', 'kvm'] as const;
export type QemuWorkload = (typeof QEMU_WORKLOADS)[number];

export interface QemuDrillOptions extends CommonOptions {
  readonly guest: 'qemu';
  readonly workload: QemuWorkload;
  readonly accelerator: (typeof ACCELERATORS)[number];
  /** The machine has a disk, which is checked from within and from outside. */
  readonly disk: boolean;
  /** The machine has a card, two hosts of namespaces are built, and clients judge from outside. */
  readonly net: boolean;
  /** QEMU of the primary and of the backup: a path, `10.0`, `11.1` or `system`. */
  readonly qemu: string;
  readonly backupQemu: string;
  /** QEMU's machine type and CPU model; null chooses what both QEMUs have. */
  readonly machine: string | null;
  readonly cpu: string | null;
}

export type DrillOptions = SimDrillOptions | QemuDrillOptions;

/** The value of `--min-interval` that says so many milliseconds. */
export function minIntervalText(minIntervalMs: number): string {
  return minIntervalMs === 0 ? 'off' : `${minIntervalMs}ms`;
}
