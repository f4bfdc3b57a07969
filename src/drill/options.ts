/** What a drill can be told. */

/** The machine's programs that a drill can run. */
export const WORKLOADS = ['idle', 'counter', 'random', 'hotspot', 'stream', 'kv'] as const;
export type Workload = (typeof WORKLOADS)[number];

/**
 * What strikes:
 * - `sigkill`: machine and engine of the primary are killed together, as when a host dies;
 * - `guest`, `engine`: only the one or the other;
 * - `sigstop`: both are frozen, and thawed once the other side runs;
 * - `link`: the cables between the nodes are cut both ways, the arbiter stays in reach;
 * - `backup`: the backup's engine is killed and started again.
 */
export const KILLS = ['sigkill', 'sigstop', 'link', 'backup', 'guest', 'engine'] as const;
export type Kill = (typeof KILLS)[number];

export interface DrillOptions {
  readonly guest: 'sim';
  readonly workload: Workload;
  readonly memoryBytes: number;
  /** Steps a second; null leaves it to the machine. */
  readonly rate: number | null;
  readonly intervalMs: number;
  readonly kill: Kill;
  readonly seed: number;
  /** After the failover: start the killed side again and fail over the other way. */
  readonly rejoin: boolean;
  /** For `kv`: real `redis-benchmark` through the gateway instead of the built-in clients. */
  readonly redisBenchmark: boolean;
  /** How written pages are found; `mprotect` works on any kernel. */
  readonly tracker: 'auto' | 'mprotect';
  /** Keep logs and audit files even when all went well. */
  readonly keep: boolean;
}

/** The kinds after which the backup must be the running copy. */
export function expectsFailover(kill: Kill): boolean {
  return kill !== 'backup' && kill !== 'link';
}
