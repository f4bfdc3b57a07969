/**
 * The verdict on a drill with QEMU: judged on what the consoles said, what the guest says of itself
 * afterwards, and the nodes' audit files. Pure.
 *
 * A console is not held back as output to the world is: it shows what the machine did, also in an
 * epoch that was lost with its host. So the survivor repeats lines, but none from before the
 * checkpoint that it started from, and leaves none out.
 */
import { type Check, countAckGaps } from '../checks.ts';
import type { AuditLine, Takeover } from '../evidence.ts';
import { excusedOf } from './kernel-log.ts';
import { countBreaks, lastNumberBefore, type Tenure, tenureOf } from './console-record.ts';
import type { SerialText } from './serial-line.ts';

/** What the guest told over its control line. */
export interface GuestWord {
  /** Outcome of checking the whole pattern: `ok ...` or `BAD ...`. */
  readonly pattern: string;
  /** Warnings and worse in the kernel's log. */
  readonly complaints: readonly string[];
  /** For how long it says to run, and when it was asked and had answered by this host's clock. */
  readonly uptimeMs: number;
  readonly askedAtMs: number;
  readonly answeredAtMs: number;
}

/** All that the checks look at. */
export interface QemuEvidence {
  /** Everything read from the console of each side. */
  readonly consoles: readonly (readonly SerialText[])[];
  readonly audits: readonly (readonly AuditLine[])[];
  readonly takeovers: readonly Takeover[];
  readonly before: GuestWord | null;
  readonly after: GuestWord | null;
  /** A copy that lives on beside its successor: only its engine was struck, or the cable. */
  readonly oldCopyLives: boolean;
}

/** How the counter fared. */
export interface CounterCounts {
  readonly heard: number;
  readonly lost: number;
  readonly reordered: number;
  readonly repeated: number;
  /** Lines of the old copy read after the new one's first. */
  readonly afterTakeover: number;
}

/** The tenures, in order: the first side's, then each successor's. */
export function tenuresOf(evidence: QemuEvidence): Tenure[] {
  const { takeovers, consoles } = evidence;
  const starts = [{ side: 0, fromNs: null as bigint | null }].concat(
    takeovers.map(({ to, decidedAtNs }) => ({ side: to, fromNs: decidedAtNs })),
  );
  return starts.map(({ side, fromNs }, index) => {
    const again = starts.find((start, later) => later > index && start.side === side);
    return tenureOf(side, consoles[side] ?? [], { fromNs, untilNs: again?.fromNs ?? null });
  });
}

/** When the checkpoint of an epoch began, as its primary noted. */
function startOf(audit: readonly AuditLine[], epoch: number): bigint | null {
  return (
    audit.findLast((line) => line.what === 'mark' && line.epoch === epoch)?.startedAtNs ?? null
  );
}

interface Handover {
  readonly epoch: number;
  readonly first: number;
  readonly lastOfOld: number;
  /** The last number read before the promoted checkpoint began; null when nobody marked it. */
  readonly settled: number | null;
}

function handovers(evidence: QemuEvidence, tenures: readonly Tenure[]): (Handover | null)[] {
  return evidence.takeovers.map(({ from, promotedEpoch }, index) => {
    const [old, heir] = [tenures[index], tenures[index + 1]];
    const first = heir?.counted[0]?.number;
    const lastOfOld = old?.counted.at(-1)?.number;
    if (old === undefined || first === undefined || lastOfOld === undefined) return null;
    const startNs = startOf(evidence.audits[from] ?? [], promotedEpoch);
    const settled = startNs === null ? null : lastNumberBefore(old, startNs);
    return { epoch: promotedEpoch, first, lastOfOld, settled };
  });
}

/** How the counter fared over all tenures. */
export function countCounter(evidence: QemuEvidence): CounterCounts {
  const tenures = tenuresOf(evidence);
  let [lost, repeated, afterTakeover] = [0, 0, 0];
  for (const [index, handover] of handovers(evidence, tenures).entries()) {
    if (handover === null) continue;
    lost += Math.max(0, handover.first - handover.lastOfOld - 1);
    repeated += Math.max(0, handover.lastOfOld - handover.first + 1);
    const heirNs = tenures[index + 1]?.counted[0]?.atNs;
    if (heirNs !== undefined)
      afterTakeover += tenures[index]?.lines.filter(({ atNs }) => atNs > heirNs).length ?? 0;
  }
  return {
    heard: tenures.reduce((sum, { counted }) => sum + counted.length, 0),
    lost,
    reordered: tenures.reduce((sum, tenure) => sum + countBreaks(tenure), 0),
    repeated,
    afterTakeover,
  };
}

/** The counter goes on without a gap, and repeats nothing that the promoted epoch contains. */
export function checkCounter(evidence: QemuEvidence): Check {
  const tenures = tenuresOf(evidence);
  const complaints: string[] = [];
  const words: string[] = [];
  for (const tenure of tenures) {
    const breaks = countBreaks(tenure);
    if (tenure.counted.length === 0) complaints.push(`side ${tenure.side} said no number`);
    if (breaks > 0) complaints.push(`side ${tenure.side} broke the sequence ${breaks} times`);
  }
  for (const handover of handovers(evidence, tenures)) {
    if (handover === null) continue;
    const { epoch, first, lastOfOld, settled } = handover;
    if (first > lastOfOld + 1)
      complaints.push(`the survivor began with ${first}, the last heard was ${lastOfOld}`);
    if (settled === null) complaints.push(`nobody marked epoch ${epoch}`);
    else if (first <= settled)
      complaints.push(
        `the survivor repeated ${first}, though ${settled} had been said before epoch ${epoch} ended`,
      );
    words.push(
      `went on with ${first}; ${lastOfOld} was the last of the old copy, ${settled} the last before epoch ${epoch} ended`,
    );
  }
  const count = tenures.reduce((sum, { counted }) => sum + counted.length, 0);
  return {
    name: 'counter',
    ok: complaints.length === 0,
    text:
      complaints.length === 0
        ? [`${count} numbers without a gap`, ...words].join(', the survivor ')
        : complaints.join('; '),
  };
}

/** The promotion started from an epoch no older than any whose output was released. */
export function checkNothingLost(evidence: QemuEvidence): Check {
  const worse: string[] = [];
  for (const { from, promotedEpoch, decidedAtNs } of evidence.takeovers) {
    const audit = evidence.audits[from] ?? [];
    let released = 0;
    for (const { what, epoch, atNs } of audit)
      if ((what === 'release' || what === 'ack-received') && epoch !== null && atNs < decidedAtNs)
        released = Math.max(released, epoch);
    if (released > promotedEpoch)
      worse.push(`${released} was committed, ${promotedEpoch} promoted`);
  }
  const epochs = evidence.takeovers.map(({ promotedEpoch }) => promotedEpoch).join(' and ');
  return {
    name: 'nothing lost',
    ok: worse.length === 0,
    text:
      worse.length > 0
        ? worse.join('; ')
        : evidence.takeovers.length === 0
          ? 'no failover, so nothing could be lost by one'
          : `no epoch after the promoted ${epochs} had been committed`,
  };
}

/** Generations grew, and a copy that was killed said nothing after its successor. */
export function checkOneRunner(evidence: QemuEvidence): Check {
  const { takeovers, oldCopyLives } = evidence;
  const grow = takeovers.every(
    ({ generation }, index) => index === 0 || generation > (takeovers[index - 1]?.generation ?? 0),
  );
  const { afterTakeover } = countCounter(evidence);
  const ok = grow && (afterTakeover === 0 || oldCopyLives);
  return {
    name: 'one runner',
    ok,
    text:
      `generations ${takeovers.map(({ generation }) => generation).join(' < ') || 'unchanged'}, ` +
      (afterTakeover === 0
        ? 'no line of the old copy after the new one spoke'
        : `${afterTakeover} lines on the old copy's console after the new one spoke` +
          (oldCopyLives ? ' (it was not killed; its console is not held back)' : '')),
  };
}

/** Epochs acknowledged in order and gap-free. */
export function checkAcknowledged(evidence: QemuEvidence): Check {
  const { gaps, acked } = countAckGaps(evidence.audits);
  return {
    name: 'order',
    ok: gaps === 0 && acked > 0,
    text:
      gaps === 0
        ? `${acked} epochs acknowledged in order, none left out`
        : `${gaps} gaps among acknowledged epochs`,
  };
}

/** No page of the self-describing memory is torn, stale or of another place. */
export function checkPattern(evidence: QemuEvidence): Check {
  const all = evidence.consoles.flat().map(({ text }) => text);
  const wrong = all.filter((text) => text.startsWith('p BAD'));
  for (const word of [evidence.before, evidence.after])
    if (word?.pattern.startsWith('ok') !== true) wrong.push(word?.pattern ?? 'no answer');
  const last = tenuresOf(evidence).at(-1);
  const heard = last?.lines.filter(({ text }) => text.startsWith('p ok')).length ?? 0;
  if (heard === 0) wrong.push('the survivor never reported on its pattern');
  return {
    name: 'memory pattern',
    ok: wrong.length === 0,
    text:
      wrong.length === 0
        ? `every page is whole and of its generation: ${evidence.after?.pattern}`
        : wrong.slice(0, 3).join('; '),
  };
}

/** No program ended or found itself wrong; every job gave the same result as its first time. */
export function checkPrograms(evidence: QemuEvidence): Check {
  const all = evidence.consoles.flat().map(({ text }) => text);
  const wrong = all.filter((text) => text.startsWith('!') || /^[cw] BAD/.test(text));
  const jobs: [string, RegExp][] = [
    ['work', /^w \d+ [\d.]+ ([0-9a-f]{8})$/],
    ['shell', /^s \d+ ([0-9a-f]{8})$/],
  ];
  let rounds = 0;
  for (const [name, line] of jobs) {
    const sums = all.map((text) => line.exec(text)?.[1]).filter((sum) => sum !== undefined);
    rounds += sums.length;
    const distinct = new Set(sums).size;
    if (distinct > 1) wrong.push(`${name} came to ${distinct} different results`);
  }
  return {
    name: 'programs',
    ok: wrong.length === 0,
    text:
      wrong.length === 0
        ? `all run on${rounds > 0 ? `, ${rounds} rounds of work with the same result` : ''}`
        : wrong.slice(0, 3).join('; '),
  };
}

/** What the guest's clock and this host's may differ by in a minute or two, both being right. */
const CLOCK_SLACK_MS = 200;

/** How much longer the guest says to have run than this host's clock went on; at most 0 if it is right. */
function clockAheadMs({ before, after }: QemuEvidence): number {
  if (before === null || after === null) return 0;
  return after.uptimeMs - before.uptimeMs - (after.answeredAtMs - before.askedAtMs);
}

/** The guest's clock stands still while the machine does, and never jumps ahead to make up for it. */
export function checkClock(evidence: QemuEvidence): Check {
  const aheadMs = clockAheadMs(evidence);
  return {
    name: 'guest clock',
    ok: aheadMs <= CLOCK_SLACK_MS,
    text:
      aheadMs <= CLOCK_SLACK_MS
        ? `never ahead of the host's: ${Math.round(-aheadMs)} ms of standstill in all`
        : `ran ${Math.round(aheadMs)} ms more than the host's in the same time`,
  };
}

/**
 * The guest's kernel found nothing to complain about since before it was protected. That a busy host let
 * the machine wait is no fault of the copy, and its kernel may notice (`excusedOf`); a clock that jumped
 * would tell the same, and is found by itself (`checkClock`).
 */
export function checkKernelLog(evidence: QemuEvidence): Check {
  const known = new Set(evidence.before?.complaints);
  const fresh = (evidence.after?.complaints ?? []).filter((line) => !known.has(line));
  const excused = checkClock(evidence).ok ? excusedOf(fresh) : new Set<string>();
  const serious = fresh.filter((line) => !excused.has(line));
  return {
    name: 'kernel log',
    ok: serious.length === 0,
    text:
      serious.length > 0
        ? `${serious.length} new: ${serious.slice(0, 3).join(' / ')}`
        : excused.size === 0
          ? 'no new warning in the guest'
          : `${excused.size} lines of a kernel that noticed that this busy host did not run it; nothing else`,
  };
}

/** All that the evidence can settle; a machine without any system is judged on its counter. */
export function judgeQemu(evidence: QemuEvidence): Check[] {
  const checks = [
    checkCounter(evidence),
    checkNothingLost(evidence),
    checkOneRunner(evidence),
    checkAcknowledged(evidence),
  ];
  if (evidence.before === null && evidence.after === null) return checks;
  return [
    ...checks,
    checkPattern(evidence),
    checkPrograms(evidence),
    checkKernelLog(evidence),
    checkClock(evidence),
  ];
}
