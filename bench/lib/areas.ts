/** Every area of the bench: what it is called, what it shows, and how it is run at each depth. */
import type { BenchResult, Mode } from './result.ts';

/** Settings of a whole run that an area may heed. */
export interface RunSettings {
  readonly mode: Mode;
  /** How long `detector` keeps every core busy to see whether anybody is falsely called dead. */
  readonly stressSeconds: number;
  /** How many drills of each kind `failover` runs, and `qemu-failover`, whose drills are longer. */
  readonly drills: number;
  readonly qemuDrills: number;
  /** How long `qemu-soak` goes on. */
  readonly soakSeconds: number;
}

export interface Area {
  readonly name: string;
  readonly title: string;
  /** Left out unless it is named. */
  readonly onlyByName?: true;
  /** Longest it may take; after that it is ended and counts as failed. */
  readonly withinSeconds: { readonly [mode in Mode]: number };
  readonly run: (settings: RunSettings) => Promise<BenchResult>;
}

const MIB = 1024 * 1024;
/** A day. */
export const SOAK_SECONDS_MAX = 86_400;

function isQuick({ mode }: RunSettings): boolean {
  return mode === 'quick';
}

/** In the order in which they run and are reported. */
export const AREAS: readonly Area[] = [
  {
    name: 'native-capture',
    title: 'Capture: scan and copy beside their floor',
    withinSeconds: { quick: 60, full: 240 },
    run: async (settings) =>
      (await import('../native-capture.bench.ts')).run(
        isQuick(settings) ? { bytesMax: 256 * MIB } : {},
      ),
  },
  {
    name: 'page-delta',
    title: 'Page deltas: speed and size beside copies, LZ4 and gzip',
    withinSeconds: { quick: 90, full: 240 },
    run: async (settings) =>
      (await import('../page-delta.bench.ts')).run(isQuick(settings) ? { rounds: 2 } : {}),
  },
  {
    name: 'sent-bytes',
    title: 'Sent bytes of real machines beside LZ4 alone',
    withinSeconds: { quick: 60, full: 120 },
    run: async (settings) =>
      (await import('../sent-bytes.bench.ts')).run(isQuick(settings) ? { epochs: 16 } : {}),
  },
  {
    name: 'sim-stop',
    title: 'Stopping the simulated machine',
    withinSeconds: { quick: 60, full: 120 },
    run: async (settings) =>
      (await import('../sim-stop.bench.ts')).run(isQuick(settings) ? { stops: 50 } : {}),
  },
  {
    name: 'link',
    title: 'The link beside a plain TCP copy',
    withinSeconds: { quick: 90, full: 240 },
    run: async (settings) =>
      (await import('../link.bench.ts')).run(isQuick(settings) ? { rounds: 6 } : {}),
  },
  {
    name: 'base-image',
    title: 'A base image beside a plain TCP copy',
    withinSeconds: { quick: 120, full: 300 },
    run: async (settings) =>
      (await import('../base-image.bench.ts')).run({ rounds: isQuick(settings) ? 1 : 3 }),
  },
  {
    name: 'qemu-pause',
    title: 'A pause of a real QEMU beside its floor',
    withinSeconds: { quick: 180, full: 900 },
    run: async (settings) =>
      (await import('../qemu-pause.bench.ts')).run(
        isQuick(settings) ? { dirtySets: [1000], memoriesMib: [], rounds: 20 } : {},
      ),
  },
  {
    name: 'qemu-run',
    title: 'A Linux in a real QEMU under protection: slowdown and pace',
    withinSeconds: { quick: 240, full: 1800 },
    run: async (settings) =>
      (await import('../qemu-run.bench.ts')).run(
        isQuick(settings) ? { jobSeconds: 4, jobTurns: 1, paceSeconds: 10 } : {},
      ),
  },
  {
    name: 'qemu-peers',
    title: 'A real QEMU beside COLO and full images',
    withinSeconds: { quick: 240, full: 600 },
    run: async (settings) =>
      (await import('../qemu-peers.bench.ts')).run(
        isQuick(settings) ? { seconds: 3, dirtySets: [1000] } : {},
      ),
  },
  {
    name: 'qemu-disk',
    title: "A real QEMU's disk under protection",
    withinSeconds: { quick: 420, full: 1500 },
    run: async (settings) =>
      (await import('../qemu-disk.bench.ts')).run(
        isQuick(settings)
          ? {
              syncMib: 64,
              syncRounds: 1,
              writeSeconds: 4,
              writeRounds: 1,
              policySeconds: 4,
              nodesWarmMs: 2000,
            }
          : {},
      ),
  },
  {
    name: 'qemu-net',
    title: "A real QEMU's network under protection",
    withinSeconds: { quick: 600, full: 2400 },
    run: async (settings) =>
      (await import('../qemu-net.bench.ts')).run(
        isQuick(settings) ? { seconds: 2, rounds: 1, nodesWarmMs: 2000 } : {},
      ),
  },
  {
    name: 'qemu-soak',
    title: 'A real QEMU with disk and network under protection, for long',
    onlyByName: true,
    withinSeconds: { quick: 300, full: SOAK_SECONDS_MAX + 300 },
    run: async ({ soakSeconds }) =>
      (await import('../qemu-soak.bench.ts')).run({ seconds: soakSeconds }),
  },
  {
    name: 'sweep',
    title: 'Interval x workload x rate',
    withinSeconds: { quick: 120, full: 600 },
    run: async (settings) =>
      (await import('../sweep.bench.ts')).run(
        isQuick(settings)
          ? {
              workloads: ['hotspot', 'kv'],
              rates: [20_000],
              intervalsMs: [10, 50],
              stretchMs: 1000,
            }
          : {},
      ),
  },
  {
    name: 'dirty-set',
    title: 'Cost follows the dirty set, not the memory',
    withinSeconds: { quick: 120, full: 480 },
    run: async (settings) =>
      (await import('../dirty-set.bench.ts')).run(
        isQuick(settings) ? { quick: true, stretchMs: 1000 } : {},
      ),
  },
  {
    name: 'sustained',
    title: '100, 200 and 500 epochs a second',
    withinSeconds: { quick: 60, full: 240 },
    run: async (settings) =>
      (await import('../sustained.bench.ts')).run(
        isQuick(settings) ? { seconds: 4, fasterSeconds: 2, warmMs: 500 } : {},
      ),
  },
  {
    name: 'detector',
    title: 'Finding a dead primary',
    withinSeconds: { quick: 60, full: 2400 },
    run: async (settings) =>
      (await import('../detector.bench.ts')).run({
        ...(isQuick(settings) && { strikes: 6 }),
        stressSeconds: settings.stressSeconds,
      }),
  },
  {
    name: 'failover',
    title: 'Failover, in drills of the whole',
    withinSeconds: { quick: 120, full: 600 },
    run: async (settings) => (await import('../failover.bench.ts')).run({ times: settings.drills }),
  },
  {
    name: 'qemu-failover',
    title: 'Failover of a real QEMU, in drills of the whole',
    withinSeconds: { quick: 240, full: 14_400 },
    run: async (settings) =>
      (await import('../qemu-failover.bench.ts')).run({
        times: settings.qemuDrills,
        ...(isQuick(settings) && { kinds: [] }),
      }),
  },
];
