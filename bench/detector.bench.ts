/**
 * How fast a dead primary is found, and how often a living one is accused.
 *
 * A primary's heartbeat runs in a process of its own; it is killed (its connection breaks, its
 * port refuses) or frozen (pure silence) at random moments, many times. `verdictMs` is from the
 * signal to the verdict in the main thread of the backup, `detectMs` to the instant from which the
 * backup may act on it: when its last promise has run out as well.
 *
 * With `--stress SECONDS` also: both cores saturated by stress-ng, nobody dies, and every verdict
 * other than "alive" is counted; then the same with whole nodes that protect a machine at work, and every
 * change of the register is counted. Run with `npx tsx bench/detector.bench.ts`; prints one JSON object.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { pathToFileURL } from 'node:url';
import { Prng } from '../src/base/prng.ts';
import { asGeneration, MIB } from '../src/base/units.ts';
import type { Verdict } from '../src/core/verdict.ts';
import { type Heartbeat, startHeartbeat } from '../src/signals/heartbeat.ts';
import { monotonicMs } from '../src/signals/promise-words.ts';
import { HeartbeatChild } from '../test/signals/heartbeat-child.ts';
import { withPair } from './lib/pair.ts';
import {
  type BenchResult,
  type Claim,
  numberOf,
  percentile,
  type Row,
  rounded,
} from './lib/result.ts';

const HOST = '127.0.0.1';
const STRIKES = 60;
const DETECT_KILL_MS_MAX = 60;
const DETECT_FREEZE_MS_MAX = 120;
const SETTLE_MS_MIN = 500;
const SETTLE_MS_RANDOM = 60;
const WAIT_MS_MAX = 10_000;

interface Sample {
  /** To the verdict in the heartbeat thread, before the main thread was told. */
  readonly threadMs: number;
  readonly verdictMs: number;
  readonly detectMs: number;
  readonly why: string;
}

/** The backup under measurement, in this process. */
class Backup {
  readonly verdicts: { readonly verdict: Verdict; readonly heardAtMs: number }[] = [];
  heartbeat: Heartbeat | null = null;

  async start(port: number): Promise<void> {
    this.heartbeat = await startHeartbeat({
      role: 'backup',
      endpoint: { host: HOST, port },
      generation: asGeneration(1),
      instance: 'b#1',
      onVerdict: (verdict) => {
        this.verdicts.push({ verdict, heardAtMs: monotonicMs() });
      },
      onFailed: (error) => {
        throw error;
      },
    });
  }

  /** The last verdict, once it is of this state and not older than `sinceMs`. */
  async waitFor(
    state: 'alive' | 'dead',
    sinceMs = 0,
  ): Promise<{ verdict: Verdict; heardAtMs: number }> {
    const deadlineMs = monotonicMs() + WAIT_MS_MAX;
    for (;;) {
      const last = this.verdicts.at(-1);
      if (last?.verdict.state === state && last.verdict.atMs >= sinceMs) return last;
      if (monotonicMs() > deadlineMs) throw new Error(`no verdict "${state}"`);
      await pause(1);
    }
  }

  /** Sends the signal, waits for the verdict and for the promises to run out. */
  async measure(child: HeartbeatChild, signal: 'SIGKILL' | 'SIGSTOP'): Promise<Sample> {
    const words = this.heartbeat?.words;
    if (words === undefined) throw new Error('the backup was not started');
    await this.waitFor('alive');
    const sentAtMs = monotonicMs();
    child.process.kill(signal);
    const { verdict, heardAtMs } = await this.waitFor('dead', sentAtMs);
    const promisedUntilMs = Number(words.seal()) / 1e6;
    words.unseal();
    return {
      threadMs: verdict.atMs - sentAtMs,
      verdictMs: heardAtMs - sentAtMs,
      detectMs: Math.max(heardAtMs, promisedUntilMs) - sentAtMs,
      why: verdict.why,
    };
  }
}

async function pause(ms: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, ms));
}

async function startChild(): Promise<{ child: HeartbeatChild; port: number }> {
  const endpoint = { host: HOST, port: 0 };
  const child = new HeartbeatChild({ role: 'primary', endpoint, partner: 'b#1' });
  const { port = 0 } = await child.ready();
  return { child, port };
}

/** Each time with a pair that was never struck: a detector remembers who came back, and waits longer. */
async function measureStrikes(
  prng: Prng,
  signal: 'SIGKILL' | 'SIGSTOP',
  strikes: number,
): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (let strike = 0; strike < strikes; strike += 1) {
    const { child, port } = await startChild();
    const backup = new Backup();
    await backup.start(port);
    await backup.waitFor('alive');
    await pause(SETTLE_MS_MIN + prng.nextFloat() * SETTLE_MS_RANDOM);
    samples.push(await backup.measure(child, signal));
    await backup.heartbeat?.stop();
    if (signal === 'SIGSTOP') await child.kill();
  }
  return samples;
}

/** Keeps every core busy for so long. */
async function saturate(seconds: number): Promise<void> {
  const load = spawn('stress-ng', [
    '--cpu',
    `${availableParallelism()}`,
    '--timeout',
    `${seconds}`,
    '--quiet',
  ]);
  const end = (): void => void load.kill('SIGTERM');
  process.once('exit', end);
  const [code] = (await once(load, 'exit')) as [number | null];
  process.off('exit', end);
  if (code !== 0) throw new Error(`stress-ng ended with ${code}`);
}

async function measureFalseVerdicts(seconds: number): Promise<Record<string, number | string>> {
  const { child, port } = await startChild();
  const backup = new Backup();
  await backup.start(port);
  await backup.waitFor('alive');
  await saturate(seconds);
  const states = backup.verdicts.map(({ verdict }) => verdict);
  const primaryStates = child.events.filter(({ event }) => event === 'verdict');
  const row = {
    case: `nobody dies, ${availableParallelism()} cores saturated`,
    seconds,
    falselyDead: states.filter(({ state }) => state === 'dead').length,
    falselySuspect: states.filter(({ state }) => state === 'suspect').length,
    falselyDeadByPrimary: primaryStates.filter(({ state }) => state === 'dead').length,
    falselySuspectByPrimary: primaryStates.filter(({ state }) => state === 'suspect').length,
    priority: backup.heartbeat?.priority ?? 'none',
    why: states.map(({ why }) => why).join('; '),
  };
  await backup.heartbeat?.stop();
  await child.kill();
  return row;
}

/** The same with whole nodes at work. A generation more is a promotion, or a primary that went on alone. */
async function measureFalseFailovers(seconds: number): Promise<Record<string, number | string>> {
  return await withPair(
    {
      memoryBytes: 256 * MIB,
      workload: 'hotspot',
      rate: 20_000,
      beacons: 20_000,
      intervalMs: 25,
    },
    async (pair) => {
      await pair.protect();
      const before = await pair.status();
      await saturate(seconds);
      const after = await pair.status();
      return {
        case: `whole nodes at work, nobody dies, ${availableParallelism()} cores saturated`,
        seconds,
        epochs: after.epoch - before.epoch,
        promotions: pair.backupEvents.filter(({ event }) => event.event === 'promoted').length,
        registerChanges: after.generation - before.generation,
        state: after.state,
      };
    },
  );
}

function rowOf(name: string, samples: readonly Sample[]): Record<string, number | string> {
  const threads = samples.map(({ threadMs }) => threadMs);
  const verdicts = samples.map(({ verdictMs }) => verdictMs);
  const detects = samples.map(({ detectMs }) => detectMs);
  return {
    case: name,
    samples: samples.length,
    threadMsP50: rounded(percentile(threads, 0.5)),
    threadMsP99: rounded(percentile(threads, 0.99)),
    verdictMsP50: rounded(percentile(verdicts, 0.5)),
    verdictMsP99: rounded(percentile(verdicts, 0.99)),
    verdictMsMax: rounded(Math.max(...verdicts)),
    detectMsP50: rounded(percentile(detects, 0.5)),
    detectMsP99: rounded(percentile(detects, 0.99)),
    detectMsMax: rounded(Math.max(...detects)),
    why: samples.at(-1)?.why ?? '',
  };
}

function claimsOf(rows: readonly Row[]): Claim[] {
  const [kills, freezes, stressed, whole] = rows;
  const claims: Claim[] = [
    {
      what: 'heartbeats alone, SIGKILL: detectMs p99',
      measured: numberOf(kills, 'detectMsP99'),
      relation: 'at most',
      bound: DETECT_KILL_MS_MAX,
      unit: 'ms',
    },
    {
      what: 'heartbeats alone, SIGSTOP: detectMs p99',
      measured: numberOf(freezes, 'detectMsP99'),
      relation: 'at most',
      bound: DETECT_FREEZE_MS_MAX,
      unit: 'ms',
    },
  ];
  if (stressed === undefined) return claims;
  const during = `in ${numberOf(stressed, 'seconds')} s with every core saturated`;
  return [
    ...claims,
    {
      what: `a living primary called dead (its backup would take over) ${during}`,
      measured: numberOf(stressed, 'falselyDead'),
      relation: 'at most',
      bound: 0,
      unit: '',
    },
    {
      what: `a living backup called dead (its primary would go on alone) ${during}`,
      measured: numberOf(stressed, 'falselyDeadByPrimary'),
      relation: 'at most',
      bound: 0,
      unit: '',
    },
    {
      what: `whole nodes: promotions of a copy whose primary lives ${during}`,
      measured: numberOf(whole, 'promotions'),
      relation: 'at most',
      bound: 0,
      unit: '',
    },
    {
      what: `whole nodes: changes of the register ${during}`,
      measured: numberOf(whole, 'registerChanges'),
      relation: 'at most',
      bound: 0,
      unit: '',
    },
  ];
}

/** Strikes many times; with `stressSeconds`, also waits that long for a false verdict. */
export async function run(
  options: { stressSeconds?: number; seed?: number; strikes?: number } = {},
): Promise<BenchResult> {
  const { seed = 1, strikes = STRIKES, stressSeconds = 0 } = options;
  const prng = new Prng(seed);
  const rows: Row[] = [
    rowOf('SIGKILL: the connection breaks', await measureStrikes(prng, 'SIGKILL', strikes)),
    rowOf('SIGSTOP: pure silence', await measureStrikes(prng, 'SIGSTOP', strikes)),
  ];
  if (stressSeconds > 0)
    rows.push(
      await measureFalseVerdicts(stressSeconds),
      await measureFalseFailovers(stressSeconds),
    );
  return {
    name: 'detector',
    rows,
    claims: claimsOf(rows),
    notes: [
      `heartbeats every 10 ms, promises of 40 ms, seed ${seed}`,
      'targets: detectMsP99 at most 60 ms for SIGKILL and 120 ms for SIGSTOP, no false verdict',
    ],
  };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const at = process.argv.indexOf('--stress');
  const stressSeconds = at < 0 ? 0 : Number(process.argv[at + 1]);
  process.stdout.write(`${JSON.stringify(await run({ stressSeconds }), null, 2)}\n`);
}
