/**
 * The play with a QEMU machine. The order of acts: boot the guest and have it check itself, protect it,
 * compare both images, run a while, strike at a random moment, wait for the outcome, run on, end the
 * load, have the survivor check itself, judge.
 */
import { Prng } from '../../base/prng.ts';
import type { NodeStatus } from '../../engine/status.ts';
import { type Outcome, playFailover, playStrike } from '../acts.ts';
import { type Check, falseAlarmCheck } from '../checks.ts';
import type { QemuDrillOptions } from '../options.ts';
import { type DrillVerdict, figuresOf, settingsOf } from '../result.ts';
import {
  AFTERMATH_MS,
  awaitProtected,
  compareImages,
  MENDED_MS,
  pause,
  refuseFalseStart,
  rejoin,
  RUN_MS_MIN,
  runUp,
} from '../run-up.ts';
import { longestStallMs } from './console-record.ts';
import { countCounter, judgeQemu, type QemuEvidence, tenuresOf } from './qemu-checks.ts';
import type { QemuTheatre } from './qemu-theatre.ts';
import { judgeServices, type ServicesEvidence, servicesFigures } from './services-checks.ts';
import { Witnesses } from './witnesses.ts';

const NS_PER_MS = 1e6;
/** Kinds that leave the old copy running for a while, or for good. */
const OLD_COPY_LIVES = new Set<QemuDrillOptions['kill']>(['sigstop', 'link', 'engine']);
/** Kinds at whose end the backup follows the primary that it began with. */
const STILL_FOLLOWED = new Set<QemuDrillOptions['kill']>(['backup', 'uplink']);

interface Tale {
  readonly evidence: QemuEvidence;
  readonly outcomes: readonly Outcome[];
  readonly before: NodeStatus | null;
  readonly checks: readonly Check[];
  readonly services: ServicesEvidence;
}

/** Plays and judges a drill with a QEMU machine. */
export async function playQemu(
  theatre: QemuTheatre,
  options: QemuDrillOptions,
  tell: (text: string) => void,
): Promise<DrillVerdict> {
  return judge(theatre, options, await play(theatre, options, tell));
}

function scrubCheck(match: { readonly ok: boolean; readonly text: string }): Check {
  return { name: 'images alike', ok: match.ok, text: match.text };
}

async function play(
  theatre: QemuTheatre,
  options: QemuDrillOptions,
  tell: (text: string) => void,
): Promise<Tale> {
  const random = new Prng(options.seed);
  const startedMs = performance.now();
  const sinceStart = (): number => Math.round(performance.now() - startedMs);
  // Nothing of the backup depends on the machine, and both take their time to start.
  await Promise.all([theatre.startMachine(), theatre.startNode(1)]);
  const wordBefore = await theatre.examine(0);
  tell(`the guest runs after ${sinceStart()} ms`);
  const witnesses = new Witnesses(theatre);
  await Promise.all([witnesses.begin(), theatre.startNode(0)]);
  await awaitProtected(theatre);
  tell(`protected after ${sinceStart()} ms`);
  const checks: Check[] = [];
  checks.push(scrubCheck(await compareImages(theatre, tell)));
  await runUp(theatre, random, options.intervalMs, tell);
  const before = theatre.node(0).progress;
  const first = await playStrike(theatre, options, tell);
  const outcomes: Outcome[] = [first];
  await witnesses.awaitAnswer(first.struckAtNs);
  if (options.rejoin && first.heir === 1) {
    await rejoin(theatre, tell);
    await awaitProtected(theatre, { index: 1, after: first.eventsSeen, takeovers: 1 });
    tell('it follows as the backup; protected the other way round');
    checks.push(scrubCheck(await compareImages(theatre, tell, { index: 1, takeovers: 1 })));
    await pause(RUN_MS_MIN + random.nextBelow(RUN_MS_MIN));
    refuseFalseStart(theatre, 1);
    const second = await playFailover(theatre, { from: 1, to: 0, kind: 'sigkill' }, tell);
    outcomes.push(second);
    await witnesses.awaitAnswer(second.struckAtNs);
  }
  await pause(AFTERMATH_MS);
  if (options.kill === 'link') {
    await theatre.mendLink();
    tell('the cables are mended');
    await pause(MENDED_MS);
  }
  const takeovers = theatre.takeovers();
  const survivor = takeovers.at(-1)?.to === 1 ? 1 : 0;
  const clients = await witnesses.hangUp(first.struckAtNs);
  const wordAfter = await theatre.examine(survivor);
  if (wordAfter !== null) tell(`the survivor checked itself: ${wordAfter.pattern}`);
  const services = await witnesses.examine(clients, {
    survivor,
    isFollowed: STILL_FOLLOWED.has(options.kill),
  });
  const evidence: QemuEvidence = {
    consoles: [theatre.consoleOf(0), theatre.consoleOf(1)],
    audits: theatre.audits(),
    takeovers,
    before: wordBefore,
    after: wordAfter,
    oldCopyLives: OLD_COPY_LIVES.has(options.kill),
  };
  await theatre.stopNodes(survivor);
  return { evidence, outcomes, before, checks, services };
}

/** From the strike to the first line that the survivor's console brought. */
function silenceMs({ evidence, outcomes }: Tale): number | null {
  const [first] = outcomes;
  if (first === undefined || first.heir === null) return null;
  const { heir, struckAtNs } = first;
  const heard = evidence.consoles[heir]?.find(({ atNs }) => atNs > struckAtNs);
  return heard === undefined ? null : Number(heard.atNs - struckAtNs) / NS_PER_MS;
}

function stallsOf({ evidence, outcomes }: Tale): { primary: number; survivor: number } {
  const tenures = tenuresOf(evidence);
  const [first, last] = [tenures[0], tenures.at(-1)];
  const struckAtNs = outcomes[0]?.struckAtNs ?? null;
  return {
    primary: first === undefined ? 0 : longestStallMs(first, struckAtNs),
    survivor: last === undefined ? 0 : longestStallMs(last, null),
  };
}

function judge(theatre: QemuTheatre, options: QemuDrillOptions, tale: Tale): DrillVerdict {
  const { evidence, outcomes, before } = tale;
  const own = judgeQemu(evidence);
  const checks: Check[] = [
    ...own,
    ...judgeServices(tale.services),
    ...tale.checks,
    ...outcomes.flatMap((outcome) => outcome.checks),
    falseAlarmCheck(evidence.takeovers, outcomes),
  ];
  if (theatre.droppedLines > 0)
    checks.push({ name: 'record', ok: false, text: 'more was heard than could be recorded' });
  const counts = countCounter(evidence);
  const [first] = outcomes;
  const [takeover = null] = evidence.takeovers;
  const state = new Set(['memory pattern', 'images alike', 'kernel log', 'programs']);
  return {
    schemaVersion: 1,
    guest: options.guest,
    workload: options.workload,
    ...settingsOf(options),
    ...figuresOf(before),
    promotedEpoch: takeover?.promotedEpoch ?? null,
    generation: evidence.takeovers.at(-1)?.generation ?? before?.generation ?? 0,
    stateMatches: checks.every(({ name, ok }) => ok || !state.has(name)),
    outputsReleased: counts.heard,
    outputsLost: counts.lost,
    outputsReordered: counts.reordered,
    releasedByBoth: counts.afterTakeover,
    detectMs: first?.detectMs ?? null,
    waitedMs: first?.waitedMs ?? null,
    promoteMs: first?.promoteMs ?? null,
    rtoMs: silenceMs(tale),
    stallMs: stallsOf(tale),
    incrementsAcknowledged: tale.services.clients?.redis.incrementsAcknowledged ?? null,
    ...servicesFigures(tale.services),
    heldFramesMax: options.net ? theatre.heldFramesMax : null,
    ok: checks.every(({ ok }) => ok),
    checks,
  };
}
