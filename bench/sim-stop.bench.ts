/**
 * What stopping the simulated machine costs, seen by the client that asks: until the stop is
 * answered, until the device state (asked for in the same write) is there, and the whole pause.
 * The floor of every checkpoint of this machine, whatever is copied meanwhile.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { MIB } from '../src/base/units.ts';
import { attachSim } from '../src/guests/sim/sim-guest.ts';
import { startSim } from '../src/guests/sim/spawn.ts';
import { type BenchResult, percentile, rounded } from './lib/result.ts';

const STOPS = 500;
const CASES = [
  { workload: 'idle', rate: 250 },
  { workload: 'random', rate: 20_000 },
  { workload: 'random', rate: 0 },
  { workload: 'hotspot', rate: 0 },
  { workload: 'stream', rate: 0 },
  { workload: 'kv', rate: 20_000 },
] as const;

/** Stops every kind of machine `stops` times. */
export async function run(options: { stops?: number } = {}): Promise<BenchResult> {
  const { stops = STOPS } = options;
  const rows: Record<string, number | string>[] = [];
  const directory = await mkdtemp(join(tmpdir(), 'romulus-bench-'));
  try {
    for (const [index, { workload, rate }] of CASES.entries()) {
      const socketPath = join(directory, `m${index}`);
      const machine = await startSim({ socketPath, memoryBytes: 256 * MIB, workload, rate });
      const kill = (): void => machine.kill('SIGKILL');
      process.once('exit', kill);
      try {
        rows.push({ workload, stepsPerSecond: rate, ...(await measure(socketPath, stops)) });
      } finally {
        await machine.stop();
        process.off('exit', kill);
      }
    }
  } finally {
    await rm(directory, { recursive: true });
  }
  return {
    name: 'sim-stop',
    rows,
    notes: [
      `${stops} stops each, 2 ms apart; stepsPerSecond 0 is unlimited.`,
      'Times include this client: one write, the wake-up of its event loop, 68 KiB of state.',
    ],
  };
}

async function measure(socketPath: string, count: number): Promise<Record<string, number>> {
  const guest = await attachSim({ socketPath });
  const stops: number[] = [];
  const states: number[] = [];
  const pauses: number[] = [];
  const before = await guest.info();
  const begin = performance.now();
  let pausedMs = 0;
  for (let i = 0; i < count; i++) {
    await sleep(2);
    const start = performance.now();
    await guest.suspend();
    const stopped = performance.now();
    await guest.saveDeviceState();
    const saved = performance.now();
    await guest.resume();
    const resumed = performance.now();
    stops.push((stopped - start) * 1000);
    states.push((saved - start) * 1000);
    pauses.push((resumed - start) * 1000);
    pausedMs += resumed - start;
  }
  const ranMs = performance.now() - begin - pausedMs;
  const after = await guest.info();
  await guest.detach();
  return {
    reachedStepsPerSecond: Math.round(((after.step - before.step) / ranMs) * 1000),
    stopP50Us: rounded(percentile(stops, 0.5)),
    stopP99Us: rounded(percentile(stops, 0.99)),
    stateP50Us: rounded(percentile(states, 0.5)),
    stateP99Us: rounded(percentile(states, 0.99)),
    pauseP50Us: rounded(percentile(pauses, 0.5)),
    pauseP99Us: rounded(percentile(pauses, 0.99)),
  };
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  console.log(JSON.stringify(await run(), null, 2));
}
