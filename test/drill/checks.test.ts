/**
 * Goal: the checks of a drill catch every kind of lie. Method: a small, honest run is written down
 * by hand; each test plants one lie in it and expects one check to fail.
 */
import { describe, expect, it } from 'vitest';
import { type Check, countOutput, judgeEvidence } from '../../src/drill/checks.ts';
import type { AuditLine, Evidence } from '../../src/drill/evidence.ts';
import { parseAudit } from '../../src/drill/evidence.ts';
import { type HeardFrame, WorldRecord } from '../../src/drill/world-record.ts';

const MS = 1_000_000n;

function heard(
  source: number,
  atMs: number,
  seq: number,
  more: Partial<HeardFrame> = {},
): HeardFrame {
  return {
    source,
    arrivalNs: BigInt(atMs) * MS,
    lineOpen: false,
    repeated: false,
    stream: 0,
    seq,
    step: seq * 10,
    inputSeq: 0,
    crc: seq,
    ...more,
  };
}

function audit(
  atMs: number,
  what: string,
  epoch: number | null = null,
  position: number | null = null,
): AuditLine {
  return { atNs: BigInt(atMs) * MS, what, epoch, instance: 'b#1', position, startedAtNs: null };
}

/**
 * Two outputs while unprotected, then epochs 1 (through step 20), 2 (40) and 3 (60); b acknowledges
 * 1 and 2, a dies at 300 ms, b takes over from epoch 2 and repeats output 4.
 */
function honest(): { frames: HeardFrame[]; a: AuditLine[]; b: AuditLine[] } {
  return {
    frames: [
      heard(0, 10, 0, { lineOpen: true, step: 0, seq: 1 }),
      heard(0, 20, 1),
      heard(0, 30, 2),
      heard(0, 160, 3),
      heard(0, 161, 4),
      heard(1, 400, 4, { lineOpen: true, step: 40 }),
      heard(1, 401, 4, { repeated: true }),
      heard(1, 420, 5),
      heard(1, 430, 6),
    ],
    a: [
      audit(5, 'open'),
      audit(90, 'hold'),
      audit(100, 'mark', 1, 20),
      audit(150, 'mark', 2, 40),
      audit(200, 'mark', 3, 60),
    ],
    b: [audit(110, 'ack-sent', 1), audit(155, 'ack-sent', 2), audit(395, 'open')],
  };
}

function evidenceOf(run: ReturnType<typeof honest>): Evidence {
  const record = new WorldRecord();
  for (const frame of run.frames) record.append(frame);
  return {
    record,
    audits: [run.a, run.b],
    takeovers: [{ from: 0, to: 1, promotedEpoch: 2, generation: 3, decidedAtNs: 390n * MS }],
  };
}

function failing(checks: readonly Check[]): string[] {
  return checks.filter(({ ok }) => !ok).map(({ name }) => name);
}

describe('the checks', () => {
  it('pass an honest run', () => {
    const checks = judgeEvidence(evidenceOf(honest()));
    expect(failing(checks)).toEqual([]);
    expect(countOutput(evidenceOf(honest()))).toEqual({
      released: 6,
      lost: 0,
      reordered: 0,
      unlike: 0,
      afterTakeover: 0,
    });
  });

  it('catch output that left before the acknowledgement', () => {
    const run = honest();
    run.frames[3] = heard(0, 154, 3);
    expect(failing(judgeEvidence(evidenceOf(run)))).toContain('output commit');
  });

  it('catch output of an epoch that was never acknowledged, and that it is lost', () => {
    const run = honest();
    run.frames.splice(5, 0, heard(0, 210, 5));
    run.frames[8] = heard(1, 420, 5, { repeated: true });
    const failed = failing(judgeEvidence(evidenceOf(run)));
    expect(failed).toContain('output commit');
    expect(failed).toContain('nothing lost');
    expect(countOutput(evidenceOf(run)).lost).toBe(1);
  });

  it('catch a promotion from too old an epoch', () => {
    const evidence = evidenceOf(honest());
    const [takeover] = evidence.takeovers;
    if (takeover === undefined) throw new Error('there is one');
    const older = { ...evidence, takeovers: [{ ...takeover, promotedEpoch: 1 }] };
    expect(failing(judgeEvidence(older))).toEqual(['nothing lost']);
  });

  it('catch two voices at once', () => {
    const run = honest();
    run.frames.splice(8, 0, heard(0, 425, 4, { repeated: true }));
    expect(failing(judgeEvidence(evidenceOf(run)))).toEqual(['one runner']);
    expect(countOutput(evidenceOf(run)).afterTakeover).toBe(1);
  });

  it('catch a second change of voice that no failover explains', () => {
    const evidence = { ...evidenceOf(honest()), takeovers: [] };
    expect(failing(judgeEvidence(evidence))).toContain('one runner');
  });

  it('catch a gap in the output', () => {
    const run = honest();
    run.frames.splice(7, 1);
    expect(failing(judgeEvidence(evidenceOf(run)))).toEqual(['order']);
  });

  it('catch a repeat that changed', () => {
    const run = honest();
    run.frames[6] = heard(1, 401, 4, { repeated: true, crc: 99 });
    expect(failing(judgeEvidence(evidenceOf(run)))).toEqual(['order']);
  });

  it('catch a gap among the acknowledged epochs', () => {
    const run = honest();
    run.b.splice(2, 0, audit(160, 'ack-sent', 4));
    expect(failing(judgeEvidence(evidenceOf(run)))).toContain('order');
  });

  it('let a new image begin at a later epoch, and never at an earlier', () => {
    const run = honest();
    run.b.splice(2, 0, { ...audit(160, 'ack-sent', 9), instance: 'b#2' });
    expect(failing(judgeEvidence(evidenceOf(run)))).not.toContain('order');
    run.b.splice(3, 0, { ...audit(161, 'ack-sent', 3), instance: 'b#3' });
    expect(failing(judgeEvidence(evidenceOf(run)))).toContain('order');
  });

  it('let output go unacknowledged while that is declared, and only then', () => {
    const run = honest();
    run.b = run.b.filter(({ what }) => what !== 'ack-sent');
    run.a.push(audit(158, 'open'));
    const evidence = { ...evidenceOf(run), takeovers: [] };
    expect(failing(judgeEvidence(evidence))).not.toContain('output commit');
    run.a.pop();
    expect(failing(judgeEvidence({ ...evidenceOf(run), takeovers: [] }))).toContain(
      'output commit',
    );
  });
});

describe('audit files', () => {
  it('forgive a last line cut short, and nothing else', () => {
    const line = '{"at":"1000","what":"mark","epoch":1,"position":20}';
    expect(parseAudit(`${line}\n{"at":"2`, 'a')).toEqual([
      { atNs: 1000n, what: 'mark', epoch: 1, instance: null, position: 20, startedAtNs: null },
    ]);
    expect(() => parseAudit(`{"at":\n${line}\n`, 'a')).toThrow(/line 1/);
  });
});
