/**
 * The play with a simulated machine. The order of acts: wait until protected, run a while, strike at
 * a random moment, wait for the outcome, run on, stop the machine at an instruction boundary, judge.
 */
import { Prng } from '../base/prng.ts';
import type { NodeStatus } from '../engine/status.ts';
import { type Outcome, playFailover, playStrike } from './acts.ts';
import { type Check, countOutput, falseAlarmCheck, judgeEvidence, silenceMs } from './checks.ts';
import type { Evidence } from './evidence.ts';
import { examineMachine, type MachineVerdict } from './final-state.ts';
import type { KvOutcome } from './kv-load.ts';
import type { SimDrillOptions } from './options.ts';
import { NO_SERVICES } from './qemu/services-checks.ts';
import { runRedisBenchmark } from './redis-benchmark.ts';
import { type DrillVerdict, figuresOf, settingsOf } from './result.ts';
import {
  AFTERMATH_MS,
  awaitProtected,
  MENDED_MS,
  pause,
  refuseFalseStart,
  rejoin,
  RUN_MS_MIN,
  runUp,
} from './run-up.ts';
import type { SimTheatre } from './sim-theatre.ts';
import { WorldRecord } from './world-record.ts';

interface Tale {
  readonly evidence: Evidence;
  readonly overflowed: boolean;
  readonly outcomes: readonly Outcome[];
  readonly machine: MachineVerdict;
  readonly kv: KvOutcome | null;
  readonly before: NodeStatus | null;
}

/** Plays and judges a drill with a simulated machine. */
export async function playSim(
  theatre: SimTheatre,
  options: SimDrillOptions,
  tell: (text: string) => void,
): Promise<DrillVerdict> {
  return judge(options, await play(theatre, options, tell));
}

async function play(
  theatre: SimTheatre,
  options: SimDrillOptions,
  tell: (text: string) => void,
): Promise<Tale> {
  const random = new Prng(options.seed);
  const startedMs = performance.now();
  await theatre.startMachine();
  await theatre.startNode(0);
  await theatre.runMachine();
  await theatre.startNode(1);
  await awaitProtected(theatre);
  tell(
    `machine, two nodes and a world outside started; protected after ${Math.round(performance.now() - startedMs)} ms`,
  );
  const load = await startLoad(theatre, options);
  await runUp(theatre, random, options.intervalMs, tell);
  const before = theatre.node(0).progress;
  const struckAtNs = process.hrtime.bigint();
  const outcomes: Outcome[] = [await playStrike(theatre, options, tell)];
  if (options.rejoin && outcomes[0]?.heir === 1) {
    await rejoin(theatre, tell);
    await awaitProtected(theatre, { index: 1, after: outcomes[0].eventsSeen, takeovers: 1 });
    tell('it follows as the backup; protected the other way round');
    await pause(RUN_MS_MIN + random.nextBelow(RUN_MS_MIN));
    refuseFalseStart(theatre, 1);
    outcomes.push(await playFailover(theatre, { from: 1, to: 0, kind: 'sigkill' }, tell));
  }
  await pause(AFTERMATH_MS);
  if (options.kill === 'link') {
    await theatre.mendLink();
    tell('the cables are mended');
    await pause(MENDED_MS);
  }
  const kv = await load.finish(struckAtNs);
  const survivor = theatre.takeovers().at(-1)?.to === 1 ? 1 : 0;
  const { columns, overflowed, machine } = await examineMachine(theatre, survivor, tell);
  const takeovers = theatre.takeovers();
  return {
    evidence: { record: new WorldRecord(columns), audits: theatre.audits(), takeovers },
    overflowed,
    outcomes,
    machine,
    kv,
    before,
  };
}

/** What drives the machine from outside, if its workload needs that. */
interface Load {
  readonly finish: (struckAtNs: bigint) => Promise<KvOutcome | null>;
}

async function startLoad(theatre: SimTheatre, options: SimDrillOptions): Promise<Load> {
  if (options.workload !== 'kv') return { finish: () => Promise.resolve(null) };
  if (!options.redisBenchmark) {
    await theatre.world.ask({ ask: 'startKv' });
    return { finish: () => theatre.world.ask({ ask: 'finishKv' }) };
  }
  const { port } = await theatre.world.ask({ ask: 'openGateway' });
  const benchmark = runRedisBenchmark(theatre.stage, port);
  // It may fail while nobody waits for it yet; `finish` will tell.
  benchmark.catch(() => undefined);
  return {
    finish: async (struckAtNs) => {
      const outcome = await benchmark;
      return outcome.endedAtNs > struckAtNs
        ? outcome
        : { ...outcome, complaints: [...outcome.complaints, 'it ended before the strike'] };
    },
  };
}

function judge(options: SimDrillOptions, tale: Tale): DrillVerdict {
  const checks: Check[] = [
    ...judgeEvidence(tale.evidence),
    ...tale.machine.checks,
    ...tale.outcomes.flatMap(({ checks }) => checks),
    falseAlarmCheck(tale.evidence.takeovers, tale.outcomes),
  ];
  if (tale.kv !== null) checks.push(kvCheck(tale.kv));
  if (tale.overflowed)
    checks.push({ name: 'record', ok: false, text: 'more was heard than could be recorded' });
  const counts = countOutput(tale.evidence);
  const [first] = tale.outcomes;
  const [takeover = null] = tale.evidence.takeovers;
  const before = tale.before;
  return {
    schemaVersion: 1,
    guest: options.guest,
    workload: options.workload,
    ...settingsOf(options),
    ...figuresOf(before),
    promotedEpoch: takeover?.promotedEpoch ?? null,
    generation: tale.evidence.takeovers.at(-1)?.generation ?? before?.generation ?? 0,
    stateMatches: tale.machine.stateMatches,
    outputsReleased: counts.released,
    outputsLost: counts.lost,
    outputsReordered: counts.reordered,
    releasedByBoth: counts.afterTakeover,
    detectMs: first?.detectMs ?? null,
    waitedMs: first?.waitedMs ?? null,
    promoteMs: first?.promoteMs ?? null,
    rtoMs:
      first === undefined || first.heir === null
        ? null
        : silenceMs(tale.evidence.record, first.heir, first.struckAtNs),
    stallMs: null,
    incrementsAcknowledged: tale.kv?.incrementsAcknowledged ?? null,
    ...NO_SERVICES,
    heldFramesMax: null,
    ok: checks.every(({ ok }) => ok),
    checks,
  };
}

function kvCheck(kv: KvOutcome): Check {
  const [complaint] = kv.complaints;
  const ok = complaint === undefined && kv.incrementsAcknowledged > 0;
  return {
    name: 'acknowledged writes',
    ok,
    text: ok
      ? `all ${kv.incrementsAcknowledged} acknowledged INCRs are in the machine, each done once`
      : (complaint ?? 'no INCR was acknowledged'),
  };
}
