/**
 * One drill from start to verdict. The order of acts: set the stage, wait until protected, run a
 * while, strike at a random moment, wait for the outcome, run on, stop the machine at an
 * instruction boundary, judge. Every wait is bounded; every process and file is gone afterwards,
 * except the evidence of a drill that failed.
 */
import { RomulusError } from '../base/errors.ts';
import { Prng } from '../base/prng.ts';
import type { NodeStatus } from '../engine/status.ts';
import { type Check, countOutput, judgeEvidence, silenceMs } from './checks.ts';
import type { Evidence } from './evidence.ts';
import { examineMachine, type MachineVerdict } from './final-state.ts';
import { type Outcome, playFailover, playStrike } from './acts.ts';
import type { KvOutcome } from './kv-load.ts';
import type { DrillObserver } from './observer.ts';
import type { DrillOptions } from './options.ts';
import { runRedisBenchmark } from './redis-benchmark.ts';
import type { DrillResult, SpreadMs } from './result.ts';
import { PROTECT_WAIT_MS, Theatre } from './theatre.ts';
import { WorldRecord } from './world-record.ts';

/** How long the machine runs protected before the strike. */
const RUN_MS_MIN = 1000;
const RUN_MS_MAX = 3000;
/** How long the survivor runs on before it is stopped and examined. */
const AFTERMATH_MS = 1000;
/** How long both sides see each other again after a partition, before the end. */
const MENDED_MS = 300;

interface Tale {
  readonly evidence: Evidence;
  readonly overflowed: boolean;
  readonly outcomes: readonly Outcome[];
  readonly machine: MachineVerdict;
  readonly kv: KvOutcome | null;
  readonly before: NodeStatus | null;
}

/**
 * Stages one failure and judges what came of it.
 * @throws {RomulusError} when the drill could not be played to its end; its files are kept then.
 */
export async function runDrill(
  options: DrillOptions,
  observer: DrillObserver,
): Promise<DrillResult> {
  const story: string[] = [];
  const tell = (text: string): void => {
    story.push(text);
    observer.onStory(text);
  };
  const theatre = await Theatre.open(options, (node, status) =>
    observer.onProgress(node === 0 ? 'a' : 'b', status),
  );
  observer.onStart(theatre.stage.directory);
  const onExit = (): void => theatre.stage.closeNow();
  const onSignal = (): void => {
    void theatre.close({ keepFiles: false }).then(() => process.exit(130));
  };
  process.once('exit', onExit);
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  let keepFiles = true;
  try {
    const tale = await play(theatre, options, tell);
    const result = judge(options, tale, story);
    keepFiles = options.keep || !result.ok;
    return { ...result, evidence: keepFiles ? theatre.stage.directory : null };
  } catch (error) {
    tell(
      `the drill with seed ${options.seed} broke off; its files are in ${theatre.stage.directory}`,
    );
    throw error;
  } finally {
    await theatre.close({ keepFiles });
    process.removeListener('exit', onExit);
    process.removeListener('SIGINT', onSignal);
    process.removeListener('SIGTERM', onSignal);
  }
}

async function play(
  theatre: Theatre,
  options: DrillOptions,
  tell: (text: string) => void,
): Promise<Tale> {
  const random = new Prng(options.seed);
  const startedMs = performance.now();
  await theatre.startMachine();
  await theatre.startNode(0);
  await theatre.runMachine();
  await theatre.startNode(1);
  await theatre.node(0).waitForState(['protected'], { withinMs: PROTECT_WAIT_MS });
  tell(
    `machine, two nodes and a world outside started; protected after ${Math.round(performance.now() - startedMs)} ms`,
  );
  const load = await startLoad(theatre, options);
  await pause(RUN_MS_MIN + random.nextBelow(RUN_MS_MAX - RUN_MS_MIN));
  await pause(random.nextFloat() * options.intervalMs);
  const before = theatre.node(0).progress;
  refuseFalseStart(theatre);
  await awaitProtection(theatre, tell);
  const struckAtNs = process.hrtime.bigint();
  const outcomes: Outcome[] = [await playStrike(theatre, options, tell)];
  if (options.rejoin && outcomes[0]?.heir === 1) {
    tell('the fallen side is started again by the same command');
    await theatre.startNode(0);
    await theatre.node(1).waitForState(['protected'], {
      withinMs: PROTECT_WAIT_MS,
      after: outcomes[0].eventsSeen,
    });
    tell('it follows as the backup; protected the other way round');
    await pause(RUN_MS_MIN + random.nextBelow(RUN_MS_MIN));
    outcomes.push(await playFailover(theatre, { from: 1, to: 0, kind: 'sigkill' }, tell));
  }
  await pause(AFTERMATH_MS);
  if (options.kill === 'link') {
    theatre.mendLink();
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

/**
 * On a busy host protection may have been lost meanwhile, and is being regained: a strike right then
 * would rightly lose what was declared unprotected.
 */
async function awaitProtection(theatre: Theatre, tell: (text: string) => void): Promise<void> {
  const primary = theatre.node(0);
  const state = primary.lastState;
  if (state === null || state.state === 'protected' || state.state === 'backlogged') return;
  tell(`a is ${state.state} (${state.why}): waiting until it is protected again`);
  await primary.waitForState(['protected'], {
    withinMs: PROTECT_WAIT_MS,
    after: primary.events.length,
  });
}

/** @throws {RomulusError} ERR_HOST_BUSY when the backup took over before anything struck. */
function refuseFalseStart(theatre: Theatre): void {
  const [first] = theatre.takeovers();
  if (first === undefined) return;
  throw new RomulusError('ERR_HOST_BUSY', 'the backup took over before anything struck', {
    remedy: 'This host is too busy for heartbeats of 10 ms: leave it some processor time.',
    details: { promotedEpoch: first.promotedEpoch },
  });
}

/** What drives the machine from outside, if its workload needs that. */
interface Load {
  readonly finish: (struckAtNs: bigint) => Promise<KvOutcome | null>;
}

async function startLoad(theatre: Theatre, options: DrillOptions): Promise<Load> {
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

function judge(options: DrillOptions, tale: Tale, story: readonly string[]): DrillResult {
  const checks: Check[] = [
    ...judgeEvidence(tale.evidence),
    ...tale.machine.checks,
    ...tale.outcomes.flatMap(({ checks }) => checks),
    falseAlarmCheck(tale),
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
    kill: options.kill,
    seed: options.seed,
    memoryBytes: options.memoryBytes,
    intervalMs: options.intervalMs,
    tracker: before?.tracker ?? null,
    epochs: before?.ackedEpoch ?? 0,
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
    pauseMs: spread(before?.pauseMs),
    scanMs: spread(before?.scanMs),
    copyMs: spread(before?.copyMs),
    outputDelayMs: spread(before?.outputDelayMs),
    dirtyPages: { p50: before?.dirtyPages.p50 ?? 0, max: before?.dirtyPages.max ?? 0 },
    bytesRaw: before?.bytesRaw ?? 0,
    bytesSent: before?.bytesSent ?? 0,
    incrementsAcknowledged: tale.kv?.incrementsAcknowledged ?? null,
    ok: checks.every(({ ok }) => ok),
    checks,
    story,
    evidence: null,
  };
}

/** Nobody may take over but who had to. */
function falseAlarmCheck({ evidence, outcomes }: Tale): Check {
  const wanted = outcomes.filter(({ heir }) => heir !== null).length;
  const found = evidence.takeovers.length;
  return {
    name: 'no false alarm',
    ok: found === wanted,
    text: `${found} of ${wanted} failovers that had to be`,
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

function spread(value: SpreadMs | undefined): SpreadMs {
  return { p50: value?.p50 ?? 0, p99: value?.p99 ?? 0, max: value?.max ?? 0 };
}

function pause(durationMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, durationMs));
}
