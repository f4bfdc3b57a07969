/**
 * Goal: the verdict on a QEMU drill catches every way in which a copy can be wrong. Method: an
 * honest story, in which nothing is found, and one lie at a time.
 */
import { describe, expect, it } from 'vitest';
import type { AuditLine, Takeover } from '../../../src/drill/evidence.ts';
import { lastNumberBefore, tenureOf } from '../../../src/drill/qemu/console-record.ts';
import {
  countCounter,
  type GuestWord,
  judgeQemu,
  type QemuEvidence,
} from '../../../src/drill/qemu/qemu-checks.ts';
import type { SerialText } from '../../../src/drill/qemu/serial-line.ts';

const MS = 1_000_000n;

function said(atMs: number, text: string): SerialText {
  return { atNs: BigInt(atMs) * MS, text };
}

function audit(
  atMs: number,
  what: string,
  epoch: number,
  extra: Partial<AuditLine> = {},
): AuditLine {
  const atNs = BigInt(atMs) * MS;
  return { atNs, what, epoch, instance: null, position: null, startedAtNs: null, ...extra };
}

function mark(startMs: number, epoch: number): AuditLine {
  return audit(startMs + 2, 'mark', epoch, { startedAtNs: BigInt(startMs) * MS });
}

const EARLY = '<4>[0.0] early';
const BEFORE: GuestWord = {
  pattern: 'ok 8192 pages generation 1',
  complaints: [EARLY],
  uptimeMs: 5000,
  askedAtMs: 20_000,
  answeredAtMs: 20_020,
};
/** Twenty seconds later by this host's clock, of which the guest stood still for one. */
const AFTER: GuestWord = {
  pattern: 'ok 8192 pages generation 3',
  complaints: [EARLY],
  uptimeMs: 24_000,
  askedAtMs: 39_990,
  answeredAtMs: 40_000,
};

interface Story {
  a: SerialText[];
  b: SerialText[];
  auditA: AuditLine[];
  auditB: AuditLine[];
  takeovers: Takeover[];
  evidence: Partial<QemuEvidence>;
}

/**
 * A number every 10 ms from 1 at 10 ms; checkpoints begin at 25, 50 and 75 ms; epochs 1 and 2 are
 * acknowledged, a dies at 85 ms and b goes on from epoch 2 (through number 5) at 200 ms.
 */
function honest(): Story {
  return {
    a: [
      ...[1, 2, 3, 4, 5, 6, 7, 8].map((number) => said(number * 10, `c ${number}`)),
      said(81, 'p ok 40 generation 2'),
    ],
    b: [
      ...[6, 7, 8, 9, 10, 11].map((number) => said(140 + number * 10, `c ${number}`)),
      said(300, 'p ok 80 generation 3'),
      said(301, 's 1 89526ac8'),
      said(302, 's 2 89526ac8'),
    ],
    auditA: [
      mark(25, 1),
      audit(40, 'ack-received', 1),
      mark(50, 2),
      audit(60, 'ack-received', 2),
      audit(61, 'release', 2),
      mark(75, 3),
    ],
    auditB: [
      audit(35, 'ack-sent', 1, { instance: 'b#1' }),
      audit(55, 'ack-sent', 2, { instance: 'b#1' }),
    ],
    takeovers: [{ from: 0, to: 1, promotedEpoch: 2, generation: 3, decidedAtNs: 190n * MS }],
    evidence: {},
  };
}

function judge(story: Story): { failed: string[]; evidence: QemuEvidence } {
  const evidence: QemuEvidence = {
    consoles: [story.a, story.b],
    audits: [story.auditA, story.auditB],
    takeovers: story.takeovers,
    before: BEFORE,
    after: AFTER,
    oldCopyLives: false,
    ...story.evidence,
  };
  const failed = judgeQemu(evidence)
    .filter(({ ok }) => !ok)
    .map(({ name }) => name);
  return { failed, evidence };
}

describe('the verdict on a QEMU drill', () => {
  it('finds nothing in an honest story', () => {
    const { failed, evidence } = judge(honest());
    expect(failed).toEqual([]);
    expect(countCounter(evidence)).toEqual({
      heard: 14,
      lost: 0,
      reordered: 0,
      repeated: 3,
      afterTakeover: 0,
    });
  });

  it('takes the end of a broken line for that line', () => {
    const story = honest();
    for (const [index, line] of story.a.entries())
      if (line.text.startsWith('c '))
        story.a[index] = { ...line, text: `c ${Number(line.text.slice(2)) + 100}` };
    story.b = [
      said(199, '06'),
      said(200, 'c 107'),
      said(210, 'c 108'),
      said(300, 'p ok 1 generation 3'),
    ];
    const { failed, evidence } = judge(story);
    expect(failed).toEqual([]);
    expect(
      tenureOf(1, evidence.consoles[1] ?? [], { fromNs: null, untilNs: null }).counted[0]?.number,
    ).toBe(106);
  });

  const LIES: [string, string, (story: Story) => void][] = [
    ['a gap on one side', 'counter', (story) => story.a.splice(3, 1)],
    ['a gap between the sides', 'counter', (story) => story.b.splice(0, 4)],
    [
      'nothing from the survivor',
      'counter',
      (story) => {
        story.b = story.b.filter(({ text }) => !text.startsWith('c '));
      },
    ],
    [
      'a copy older than its epoch',
      'counter',
      (story) => story.b.unshift(said(195, 'c 4'), said(197, 'c 5')),
    ],
    [
      'an epoch that nobody marked',
      'counter',
      (story) => {
        story.auditA = story.auditA.filter(({ what, epoch }) => what !== 'mark' || epoch !== 2);
      },
    ],
    ['a torn page', 'memory pattern', (story) => story.b.push(said(310, 'p BAD page 1 of 2'))],
    [
      'a stale page, found at the end',
      'memory pattern',
      (story) => {
        story.evidence = { after: { ...AFTER, pattern: 'BAD page 3', complaints: [] } };
      },
    ],
    [
      'a pattern that nobody looked at',
      'memory pattern',
      (story) => {
        story.b = story.b.filter(({ text }) => !text.startsWith('p '));
      },
    ],
    [
      'a committed epoch left out',
      'nothing lost',
      (story) => story.auditA.push(audit(80, 'ack-received', 3)),
    ],
    ['a dead copy that speaks', 'one runner', (story) => story.a.push(said(205, 'c 9'))],
    [
      'a skipped acknowledgement',
      'order',
      (story) => story.auditB.push(audit(70, 'ack-sent', 4, { instance: 'b#1' })),
    ],
    [
      'a program that ended',
      'programs',
      (story) => story.b.push(said(310, '! counter ended with status 1')),
    ],
    [
      'a job that came to something else',
      'programs',
      (story) => story.b.push(said(310, 's 3 00000000')),
    ],
    [
      'a kernel that complains',
      'kernel log',
      (story) => {
        story.evidence = {
          after: {
            ...AFTER,
            pattern: 'ok 1 pages generation 3',
            complaints: ['<4>[0.0] early', '<3>[9.0] BUG: soft lockup'],
          },
        };
      },
    ],
  ];

  it.each(LIES)('catches %s', (_what, check, lie) => {
    const story = honest();
    lie(story);
    expect(judge(story).failed).toEqual([check]);
  });

  it('allows a copy that was not killed to speak on', () => {
    const story = honest();
    story.a.push(said(205, 'c 9'), said(215, 'c 10'));
    story.evidence = { oldCopyLives: true };
    expect(judge(story).failed).toEqual([]);
  });

  it('follows two takeovers, there and back', () => {
    const story = honest();
    story.b.push(...[12, 13].map((number) => said(200 + number * 10, `c ${number}`)));
    story.b.sort((left, right) => Number(left.atNs - right.atNs));
    story.auditB.push(mark(315, 9), audit(325, 'ack-received', 9));
    story.a.push(
      said(500, 'c 12'),
      said(510, 'c 13'),
      said(520, 'c 14'),
      said(530, 'p ok 1 generation 9'),
    );
    story.takeovers.push({
      from: 1,
      to: 0,
      promotedEpoch: 9,
      generation: 5,
      decidedAtNs: 490n * MS,
    });
    expect(judge(story).failed).toEqual([]);
  });

  it('judges a machine without any system on its counter', () => {
    const story = honest();
    story.b = story.b.filter(({ text }) => text.startsWith('c '));
    story.evidence = { before: null, after: null };
    expect(judge(story).failed).toEqual([]);
    story.b.splice(1, 1);
    expect(judge(story).failed).toEqual(['counter']);
  });

  const starved = (clockMs: number, watchdogMs: number): string =>
    `<4>[15.7] clocksource: Long readout interval, skipping watchdog check: cs_nsec: ${clockMs * 1e6} wd_nsec: ${watchdogMs * 1e6}`;

  it.each([
    ['a kernel that a busy host did not run', starved(2732, 2733), 0, []],
    ['one whose clocks went apart', starved(2732, 732), 0, ['kernel log']],
    ['one whose clocks all jumped ahead', starved(2732, 2733), 2000, ['kernel log', 'guest clock']],
    ['a clock that jumped and told nobody', EARLY, 2000, ['guest clock']],
    [
      'one that read a clock in time after all',
      '<4>[14.1] clocksource: timekeeping watchdog on CPU0: hpet retried 2 times before success',
      0,
      [],
    ],
  ])('%s', (_what, complaint, jumpMs, failed) => {
    const story = honest();
    const complaints = [EARLY, complaint];
    story.evidence = { after: { ...AFTER, complaints, uptimeMs: AFTER.uptimeMs + jumpMs } };
    expect(judge(story).failed).toEqual(failed);
  });

  const apart = (clockMs: number, watchdogMs: number): string[] => [
    "<4>[19.521] clocksource: timekeeping watchdog on CPU0: Marking clocksource 'tsc' as unstable because the skew is too large:",
    `<4>[19.524] clocksource:                       'hpet' wd_nsec: ${watchdogMs * 1e6} wd_now: 75136f74 wd_last: 7227afcf mask: ffffffff`,
    `<4>[19.525] clocksource:                       'tsc' cs_nsec: ${clockMs * 1e6} cs_now: 9cfba25d2 cs_last: 9955c05e8 mask: ffffffffffffffff`,
    "<4>[19.532] clocksource:                       'tsc' is current clocksource.",
    "<4>[19.540] TSC found unstable after boot, most likely due to broken BIOS. Use 'tsc=unstable'.",
    "<4>[19.548] clocksource: Not enough CPUs to check clocksource 'tsc'.",
  ];

  const slowlyRead = (ms: number): string[] => [
    `<4>[14.022] clocksource: timekeeping watchdog on CPU0: hpet read-back delay of ${ms * 1e6}ns, attempt 2, marking unstable`,
    "<4>[14.031] TSC found unstable after boot, most likely due to broken BIOS. Use 'tsc=unstable'.",
    "<4>[14.149] clocksource: Not enough CPUs to check clocksource 'tsc'.",
  ];

  it.each([
    ['in which a clock was read', slowlyRead(0.183), 0, []],
    ['too long for a reading', slowlyRead(21), 0, ['kernel log']],
    ['that was no reading', slowlyRead(0.183).slice(1), 0, ['kernel log']],
    ['in which a jumping clock was read', slowlyRead(0.183), 2000, ['kernel log', 'guest clock']],
    ['by which QEMU sets two clocks apart', apart(489.62, 490.04), 0, []],
    ['that is too long for that', apart(489, 590), 0, ['kernel log']],
    ['that the clock made up for', apart(489.62, 490.04), 2000, ['kernel log', 'guest clock']],
    ['with a word cut off', apart(489.62, 490.04).slice(1), 0, ['kernel log']],
    [
      'and a warning beside it',
      [...apart(489.62, 490.04), '<4>[20.1] BUG: soft lockup'],
      0,
      ['kernel log'],
    ],
  ])('a standstill %s', (_what, complaints, jumpMs, failed) => {
    const story = honest();
    story.evidence = {
      after: { ...AFTER, complaints: [EARLY, ...complaints], uptimeMs: AFTER.uptimeMs + jumpMs },
    };
    expect(judge(story).failed).toEqual(failed);
  });

  it('does not take silence for an answer', () => {
    const story = honest();
    story.evidence = { after: null };
    expect(judge(story).failed).toEqual(['memory pattern']);
  });

  it('counts only what was read before an instant', () => {
    const tenure = tenureOf(0, honest().a, { fromNs: null, untilNs: null });
    expect(lastNumberBefore(tenure, 50n * MS)).toBe(4);
    expect(lastNumberBefore(tenure, 5n * MS)).toBe(0);
  });
});
