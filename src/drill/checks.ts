/**
 * The verdict on a drill: the invariants of docs/INVARIANTS.md, each judged on evidence alone. Pure:
 * the same evidence gives the same verdict, so that tests can plant every kind of lie.
 */
import { CommitBook } from './commit-book.ts';
import type { AuditLine, Evidence } from './evidence.ts';
import type { HeardFrame, WorldRecord } from './world-record.ts';

/** One judgement. */
export interface Check {
  readonly name: string;
  readonly ok: boolean;
  /** What was looked at and what was found, in one sentence. */
  readonly text: string;
}

/** How output fared. */
export interface OutputCounts {
  readonly released: number;
  readonly lost: number;
  readonly reordered: number;
  readonly unlike: number;
  readonly afterTakeover: number;
}

const NS_PER_MS = 1e6;

function plural(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

/** A book for each node as the runner: its marks, the other's acknowledgements. */
function booksOf(evidence: Evidence): CommitBook[] {
  return evidence.audits.map((own, index) => {
    const others = evidence.audits.filter((_audit, other) => other !== index).flat();
    return new CommitBook(own, others);
  });
}

/** Invariant 1: no frame was heard before the epoch that made it was acknowledged. */
export function checkOutputCommit(evidence: Evidence): Check {
  const books = booksOf(evidence);
  let judged = 0;
  let early = 0;
  let example = '';
  for (const frame of evidence.record) {
    if (frame.lineOpen || frame.repeated) continue;
    judged += 1;
    if (books[frame.source]?.mayBeHeard(frame.step, frame.arrivalNs) === true) continue;
    early += 1;
    example ||= `, the first was seq ${frame.seq} made at step ${frame.step}`;
  }
  return {
    name: 'output commit',
    ok: early === 0 && judged > 0,
    text:
      early === 0
        ? `each of ${plural(judged, 'output')} was heard after its epoch was acknowledged, or while declared unprotected`
        : `${early} of ${plural(judged, 'output')} left before their epoch was acknowledged${example}`,
  };
}

/** The instants at which the world first heard each successor; null when it never did. */
function handovers(evidence: Evidence): (bigint | null)[] {
  return evidence.takeovers.map(
    ({ to, decidedAtNs }) => firstFrameAfter(evidence.record, to, decidedAtNs)?.arrivalNs ?? null,
  );
}

/** Frames that a fallen side let out and the promoted state does not contain. */
export function countLost(evidence: Evidence): number {
  const books = booksOf(evidence);
  const handedOverNs = handovers(evidence);
  let lost = 0;
  for (const [index, takeover] of evidence.takeovers.entries()) {
    const through = books[takeover.from]?.positionOf(takeover.promotedEpoch) ?? null;
    const sinceNs = handedOverNs[index - 1] ?? 0n;
    const untilNs = handedOverNs[index] ?? null;
    for (const frame of evidence.record) {
      if (frame.source !== takeover.from || frame.lineOpen || frame.repeated) continue;
      if (frame.arrivalNs < sinceNs || (untilNs !== null && frame.arrivalNs > untilNs)) continue;
      if (through === null || frame.step > through) lost += 1;
    }
  }
  return lost;
}

/** Invariants 2 and 3: the promotion started from an epoch no older than any released output. */
export function checkNothingLost(evidence: Evidence): Check {
  const lost = countLost(evidence);
  const epochs = evidence.takeovers.map(({ promotedEpoch }) => promotedEpoch).join(' and ');
  return {
    name: 'nothing lost',
    ok: lost === 0,
    text:
      evidence.takeovers.length === 0
        ? 'no failover, so nothing could be lost by one'
        : lost === 0
          ? `everything heard is contained in the promoted epoch ${epochs}`
          : `${plural(lost, 'heard output')} not contained in the promoted epoch ${epochs}`,
  };
}

/** Frames of a fallen side that were heard after the first frame of its successor. */
export function countAfterTakeover(evidence: Evidence): number {
  const handedOverNs = handovers(evidence);
  let late = 0;
  for (const [index, { from }] of evidence.takeovers.entries()) {
    const sinceNs = handedOverNs[index] ?? null;
    if (sinceNs === null) continue;
    // What the same node says once it has taken over again is another tenure.
    const again = evidence.takeovers.findIndex(({ to }, later) => later > index && to === from);
    const untilNs = again === -1 ? null : (handedOverNs[again] ?? null);
    for (const frame of evidence.record)
      if (
        frame.source === from &&
        frame.arrivalNs > sinceNs &&
        (untilNs === null || frame.arrivalNs < untilNs)
      )
        late += 1;
  }
  return late;
}

/** Invariant 4: two copies were never heard at once, and generations grew. */
export function checkOneRunner(evidence: Evidence): Check {
  const late = countAfterTakeover(evidence);
  const switches = countSwitches(evidence.record);
  const generations = evidence.takeovers.map(({ generation }) => generation);
  const grow = generations.every(
    (value, index) => index === 0 || value > (generations[index - 1] ?? 0),
  );
  const ok = late === 0 && grow && switches === evidence.takeovers.length;
  return {
    name: 'one runner',
    ok,
    text: ok
      ? `${plural(evidence.takeovers.length, 'change')} of the voice that the world hears, none back`
      : `${plural(switches, 'change')} of voice for ${plural(evidence.takeovers.length, 'failover')}, ` +
        `${plural(late, 'frame')} of the fallen side heard after its successor, generations ${generations.join(' < ')}`,
  };
}

function countSwitches(record: WorldRecord): number {
  let switches = 0;
  let speaking: number | null = null;
  for (const frame of record) {
    if (speaking !== null && frame.source !== speaking) switches += 1;
    speaking = frame.source;
  }
  return switches;
}

/** Frames heard for the first time out of their order, and repeats that changed. */
export function countDisorder(record: WorldRecord): { reordered: number; unlike: number } {
  const crcBySeq = new Map<number, number>();
  let reordered = 0;
  let unlike = 0;
  let previous: number | null = null;
  for (const frame of record) {
    if (frame.lineOpen) continue;
    const known = crcBySeq.get(frame.seq);
    if (known !== undefined) {
      if (known !== frame.crc) unlike += 1;
      continue;
    }
    if (previous !== null && frame.seq !== previous + 1) reordered += 1;
    crcBySeq.set(frame.seq, frame.crc);
    previous = frame.seq;
  }
  return { reordered, unlike };
}

/** Epochs acknowledged, and how often not in order and gap-free. */
export function countAckGaps(audits: readonly (readonly AuditLine[])[]): {
  gaps: number;
  acked: number;
} {
  let gaps = 0;
  let acked = 0;
  for (const audit of audits) {
    let last = 0;
    let lastInstance: string | null = null;
    for (const { what, epoch, instance } of audit) {
      if (what !== 'ack-sent' || epoch === null) continue;
      acked += 1;
      // Saying it twice is fine. Another instance is another image, which may begin at any later
      // epoch, never at an earlier.
      const inOrder =
        instance === lastInstance ? epoch === last + 1 || epoch === last : epoch > last;
      if (!inOrder) gaps += 1;
      last = epoch;
      lastInstance = instance;
    }
  }
  return { gaps, acked };
}

/** Invariant 5: output in order and gap-free, epochs acknowledged in order and gap-free. */
export function checkOrder(evidence: Evidence): Check {
  const { reordered, unlike } = countDisorder(evidence.record);
  const { gaps, acked } = countAckGaps(evidence.audits);
  return {
    name: 'order',
    ok: reordered === 0 && unlike === 0 && gaps === 0,
    text:
      reordered + unlike + gaps === 0
        ? `seqs without gap, repeats byte for byte the same, ${plural(acked, 'epoch')} acknowledged in order`
        : `${plural(reordered, 'output')} out of order, ${plural(unlike, 'repeat')} changed, ` +
          `${plural(gaps, 'gap')} among acknowledged epochs`,
  };
}

/** How output fared, counted. */
export function countOutput(evidence: Evidence): OutputCounts {
  const { reordered, unlike } = countDisorder(evidence.record);
  let released = 0;
  for (const frame of evidence.record) if (!frame.lineOpen && !frame.repeated) released += 1;
  return {
    released,
    lost: countLost(evidence),
    reordered,
    unlike,
    afterTakeover: countAfterTakeover(evidence),
  };
}

/** Milliseconds from an instant to the first frame heard from a node after it, or null. */
export function silenceMs(record: WorldRecord, source: number, sinceNs: bigint): number | null {
  const first = firstFrameAfter(record, source, sinceNs);
  return first === null ? null : Number(first.arrivalNs - sinceNs) / NS_PER_MS;
}

function firstFrameAfter(record: WorldRecord, source: number, sinceNs: bigint): HeardFrame | null {
  for (const frame of record)
    if (frame.source === source && frame.arrivalNs > sinceNs) return frame;
  return null;
}

/** All invariants that the record and the audits can settle. */
export function judgeEvidence(evidence: Evidence): Check[] {
  return [
    checkOutputCommit(evidence),
    checkNothingLost(evidence),
    checkOneRunner(evidence),
    checkOrder(evidence),
  ];
}

/** Nobody may take over but who had to. */
export function falseAlarmCheck(
  takeovers: readonly unknown[],
  outcomes: readonly { readonly heir: unknown }[],
): Check {
  const wanted = outcomes.filter(({ heir }) => heir !== null).length;
  return {
    name: 'no false alarm',
    ok: takeovers.length === wanted,
    text: `${takeovers.length} of ${wanted} failovers that had to be`,
  };
}
