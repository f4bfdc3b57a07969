/**
 * The acts of a drill: each strikes in one way, waits for what must come of it, and reports what
 * the invariants alone cannot tell (who was fenced, who declared itself unprotected).
 */
import { unreachable } from '../base/assert.ts';
import { isProcessAlive } from '../guests/process.ts';
import type { NodeEvent } from '../engine/status.ts';
import type { Check } from './checks.ts';
import type { PromotedEvent } from './node-process.ts';
import type { DrillOptions, Kill } from './options.ts';
import { awaitProtected, compareImages } from './run-up.ts';
import { START_WAIT_MS, type Theatre } from './theatre.ts';

/** Longest wait for the survivor to take over. */
export const FAILOVER_WAIT_MS = 60_000;
/** Longest wait for its first output; an idle machine says little. */
export const FIRST_OUTPUT_WAIT_MS = 30_000;
/** Longest wait for a copy that lost to be stopped. */
export const FENCE_WAIT_MS = 30_000;
/** How long a thawed primary is watched for output it must not release. */
const THAW_WATCH_MS = 500;
/** How long the machine is cut off from its clients. */
const UPLINK_CUT_MS = 1000;
/** How long the machine runs unprotected while the backup is away. */
const UNPROTECTED_RUN_MS = 500;

type NodeIndex = 0 | 1;

/** What came of a strike. */
export interface Outcome {
  /** When we struck. */
  readonly struckAtNs: bigint;
  /** Who took over, if anybody had to. */
  readonly heir: NodeIndex | null;
  readonly detectMs: number | null;
  readonly waitedMs: number | null;
  readonly promoteMs: number | null;
  readonly checks: readonly Check[];
  /** Events of the survivor up to here, so that a later wait looks at new ones only. */
  readonly eventsSeen: number;
}

const NAMES = ['a', 'b'] as const;
const NS_PER_MS = 1e6;

/** Strikes as asked and waits for the outcome. Node 0 is the primary. */
export function playStrike(
  theatre: Theatre,
  options: DrillOptions,
  tell: (text: string) => void,
): Promise<Outcome> {
  switch (options.kill) {
    case 'backup':
      return playBackupLoss(theatre, tell);
    case 'link':
      return playPartition(theatre, tell);
    case 'uplink':
      return playSilence(theatre, tell);
    case 'sigkill':
    case 'sigstop':
    case 'guest':
    case 'engine':
      return playFailover(theatre, { from: 0, to: 1, kind: options.kill }, tell);
    default:
      return unreachable(options.kill, 'kind of strike');
  }
}

function isPrimaryState(event: NodeEvent): event is Extract<NodeEvent, { event: 'state' }> {
  return event.event === 'state' && event.role === 'primary';
}

function signalTargets(
  theatre: Theatre,
  index: NodeIndex,
  kind: Kill,
): { pid: number; what: string }[] {
  const engine = { pid: theatre.node(index).child.pid, what: 'engine' };
  const machine = { pid: theatre.machineOf(index).pid, what: 'machine' };
  if (kind === 'guest') return [machine];
  if (kind === 'engine') return [engine];
  return [machine, engine];
}

/** Kills or freezes one side and waits until the other runs and is heard. */
export async function playFailover(
  theatre: Theatre,
  strike: { readonly from: NodeIndex; readonly to: NodeIndex; readonly kind: Kill },
  tell: (text: string) => void,
): Promise<Outcome> {
  const { from, to, kind } = strike;
  const heir = theatre.node(to);
  const eventsBefore = heir.events.length;
  const heardBefore = (await theatre.heardCounts())[to] ?? 0;
  const targets = signalTargets(theatre, from, kind);
  const signal = kind === 'sigstop' ? 'SIGSTOP' : 'SIGKILL';
  const struckAtNs = process.hrtime.bigint();
  for (const { pid } of targets) process.kill(pid, signal);
  tell(`${signal} to ${NAMES[from]}'s ${targets.map(({ what }) => what).join(' and ')}`);
  const promoted = await heir.waitFor(
    'promoted',
    (event): event is PromotedEvent => event.event === 'promoted',
    { withinMs: FAILOVER_WAIT_MS, after: eventsBefore },
  );
  const detectMs = detectionMs(promoted, struckAtNs);
  tell(
    `${NAMES[to]} took over from epoch ${promoted.epoch}, generation ${promoted.generation}: ${promoted.why}`,
  );
  await theatre.waitUntilHeard(to, heardBefore, FIRST_OUTPUT_WAIT_MS);
  tell(`the world hears ${NAMES[to]}`);
  await heir.waitFor('primary', isPrimaryState, { withinMs: START_WAIT_MS, after: eventsBefore });
  const checks = kind === 'sigstop' ? [await thaw(theatre, from, targets, tell)] : [];
  return {
    struckAtNs,
    heir: to,
    detectMs,
    waitedMs: promoted.waitedMs,
    promoteMs: promoted.promoteMs,
    checks,
    eventsSeen: heir.events.length,
  };
}

/**
 * From the strike until the backup was sure that it may take over: its verdict, and its own promises
 * run out. What follows is the promotion.
 */
function detectionMs(promoted: PromotedEvent, struckAtNs: bigint): number {
  return Math.max(0, Number(BigInt(promoted.decidedAtNs) - struckAtNs) / NS_PER_MS);
}

/** A thawed primary must find itself replaced: release nothing, stop its machine. */
async function thaw(
  theatre: Theatre,
  index: NodeIndex,
  targets: readonly { readonly pid: number }[],
  tell: (text: string) => void,
): Promise<Check> {
  const machinePid = theatre.machineOf(index).pid;
  const before = await theatre.heardCounts();
  for (const { pid } of targets) process.kill(pid, 'SIGCONT');
  tell(`${NAMES[index]} is thawed`);
  const fenced = await machineEnds(machinePid);
  await new Promise((resolve) => setTimeout(resolve, THAW_WATCH_MS));
  const after = await theatre.heardCounts();
  const released = (after[index] ?? 0) - (before[index] ?? 0);
  tell(fenced ? `${NAMES[index]} fenced its machine` : `${NAMES[index]} did NOT fence its machine`);
  return {
    name: 'thawed side',
    ok: fenced && (released === 0 || !theatre.outputIsHeld),
    text: `released ${released} ${theatre.outputWord} after the thaw, ${fenced ? 'and stopped its machine' : 'and its machine still runs'}`,
  };
}

async function machineEnds(machinePid: number): Promise<boolean> {
  const deadlineMs = performance.now() + FENCE_WAIT_MS;
  while (performance.now() < deadlineMs) {
    if (!isProcessAlive(machinePid)) return true;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return false;
}

/** Kills the backup's engine: the primary must say that it is unprotected, go on, and recover. */
async function playBackupLoss(theatre: Theatre, tell: (text: string) => void): Promise<Outcome> {
  const primary = theatre.node(0);
  let eventsBefore = primary.events.length;
  const struckAtNs = process.hrtime.bigint();
  process.kill(theatre.node(1).child.pid, 'SIGKILL');
  tell("SIGKILL to b's engine");
  const declared = await primary.waitForState(['unprotected'], {
    withinMs: FAILOVER_WAIT_MS,
    after: eventsBefore,
  });
  tell(`a says unprotected: ${declared.why}`);
  const heard = (await theatre.heardCounts())[0] ?? 0;
  await theatre.waitUntilHeard(0, heard, FIRST_OUTPUT_WAIT_MS);
  await new Promise((resolve) => setTimeout(resolve, UNPROTECTED_RUN_MS));
  const flowed = ((await theatre.heardCounts())[0] ?? 0) - heard;
  eventsBefore = primary.events.length;
  await theatre.startNode(1);
  await awaitProtected(theatre, { index: 0, after: eventsBefore, takeovers: 0 });
  tell('b came back; protected again');
  const match = await compareImages(theatre, tell);
  return {
    struckAtNs,
    heir: null,
    detectMs: null,
    waitedMs: null,
    promoteMs: null,
    checks: [
      {
        name: 'unprotected and said so',
        ok: flowed > 0,
        text: `declared unprotected, ${flowed} ${theatre.outputWord} went on meanwhile, protected again after b's return`,
      },
      { name: 'images alike', ok: match.ok, text: match.text },
    ],
    eventsSeen: primary.events.length,
  };
}

/** Cuts the cables: exactly one side may end up heard, and it does not matter which. */
async function playPartition(theatre: Theatre, tell: (text: string) => void): Promise<Outcome> {
  const [primary, backup] = [theatre.node(0), theatre.node(1)];
  const seen = { primary: primary.events.length, backup: backup.events.length };
  const heard = await theatre.heardCounts();
  const struckAtNs = process.hrtime.bigint();
  await theatre.cutLink();
  tell('the cables between a and b are cut both ways');
  const promotion = backup
    .waitFor('promoted', (event): event is PromotedEvent => event.event === 'promoted', {
      withinMs: FAILOVER_WAIT_MS,
      after: seen.backup,
    })
    .then((event) => event as PromotedEvent | null);
  const alone = primary
    .waitForState(['unprotected'], { withinMs: FAILOVER_WAIT_MS, after: seen.primary })
    .then((): PromotedEvent | null => null);
  const promoted = await Promise.any([promotion, alone]);
  const survivor: NodeIndex = promoted === null ? 0 : 1;
  tell(
    promoted === null
      ? 'a won the register: it goes on alone and unprotected'
      : `b won the register and took over from epoch ${promoted.epoch}: ${promoted.why}`,
  );
  const checks: Check[] = [];
  if (promoted !== null) {
    const fenced = await machineEnds(theatre.machine.pid);
    tell(fenced ? 'a fenced its machine' : 'a did NOT fence its machine');
    checks.push({
      name: 'losing side',
      ok: fenced,
      text: fenced ? 'a lost the register and stopped its machine' : "a's machine still runs",
    });
  }
  await theatre.waitUntilHeard(survivor, heard[survivor] ?? 0, FIRST_OUTPUT_WAIT_MS);
  await theatre.node(survivor).waitFor('primary', isPrimaryState, { withinMs: START_WAIT_MS });
  return {
    struckAtNs,
    heir: promoted === null ? null : 1,
    detectMs: promoted === null ? null : detectionMs(promoted, struckAtNs),
    waitedMs: promoted?.waitedMs ?? null,
    promoteMs: promoted?.promoteMs ?? null,
    checks,
    eventsSeen: theatre.node(survivor).events.length,
  };
}

/**
 * Cuts the machine off from its clients, not from the backup: nothing is wrong with either copy, so
 * nobody may take over.
 */
async function playSilence(theatre: Theatre, tell: (text: string) => void): Promise<Outcome> {
  const struckAtNs = process.hrtime.bigint();
  await theatre.cutUplink(0);
  tell('the cable between a and its clients is cut');
  await new Promise((resolve) => setTimeout(resolve, UPLINK_CUT_MS));
  await theatre.mendUplink(0);
  tell('it is mended');
  const takeovers = theatre.takeovers().length;
  return {
    struckAtNs,
    heir: null,
    detectMs: null,
    waitedMs: null,
    promoteMs: null,
    checks: [
      {
        name: 'nobody took over',
        ok: takeovers === 0,
        text:
          takeovers === 0
            ? 'a ran on while its clients could not reach it'
            : 'the backup took over from a living primary',
      },
    ],
    eventsSeen: theatre.node(0).events.length,
  };
}
