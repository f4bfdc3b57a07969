/** Goal: what the heartbeat thread observes becomes the right verdict, in words. Time is given. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Signal, Verdict } from '../../src/core/verdict.ts';
import { PeerJudge } from '../../src/signals/peer-judge.ts';

function make(): { judge: PeerJudge; verdicts: Verdict[]; signals: Signal[] } {
  const verdicts: Verdict[] = [];
  const signals: Signal[] = [];
  const judge = new PeerJudge({
    startedAtMs: 1000,
    intervalMs: 10,
    phiDead: 8,
    onVerdict: (verdict) => verdicts.push(verdict),
    onSignal: (signal) => signals.push(signal),
  });
  return { judge, verdicts, signals };
}

function beat(judge: PeerJudge, fromMs: number, beats: number): number {
  let atMs = fromMs;
  for (let count = 0; count < beats; count += 1) {
    judge.heartbeatHeard(atMs);
    atMs += 10;
  }
  return atMs - 10;
}

function passSilently(judge: PeerJudge, fromMs: number, forMs: number): void {
  for (let atMs = fromMs + 5; atMs <= fromMs + forMs; atMs += 5) {
    judge.ticked(atMs, atMs);
    judge.review(atMs);
  }
}

const states = (verdicts: readonly Verdict[]): string[] => verdicts.map(({ state }) => state);

describe('PeerJudge', () => {
  it('follows silence from alive by suspect to dead, and back', () => {
    const { judge, verdicts } = make();
    const lastMs = beat(judge, 1000, 50);
    passSilently(judge, lastMs, 200);
    judge.heartbeatHeard(lastMs + 201);
    expect(states(verdicts)).toEqual(['alive', 'suspect', 'dead', 'alive']);
    expect(verdicts[2]?.why).toMatch(/^no heartbeat for \d+ ms, phi \d+\.\d$/);
    expect(verdicts[2]?.lastLifeMs).toBe(lastMs);
  });

  it('says when the link was silent too, and when it was not', () => {
    const { judge, verdicts } = make();
    const lastMs = beat(judge, 1000, 50);
    judge.linkHeard(lastMs - 3);
    passSilently(judge, lastMs, 200);
    expect(verdicts.at(-1)?.why).toMatch(/, link silent too$/);
    const other = make();
    const otherLastMs = beat(other.judge, 1000, 50);
    other.judge.linkHeard(otherLastMs + 40);
    passSilently(other.judge, otherLastMs + 40, 200);
    expect(other.verdicts.at(-1)?.why).toMatch(
      /^no heartbeat for 1\d\d ms, .*link silent for \d+ ms$/,
    );
  });

  it('accuses nobody after its own standstill', () => {
    const { judge, verdicts } = make();
    const lastMs = beat(judge, 1000, 50);
    judge.ticked(lastMs + 5, lastMs + 5000);
    judge.review(lastMs + 5000);
    expect(states(verdicts)).toEqual(['alive']);
  });

  it('does not take what an earlier peer said on the link for life', () => {
    const { judge, verdicts } = make();
    judge.linkHeard(990);
    passSilently(judge, 1000, 300);
    expect(verdicts).toEqual([]);
    beat(judge, 1300, 5);
    judge.forgetPeer(2000);
    judge.linkHeard(1999);
    passSilently(judge, 2000, 300);
    expect(states(verdicts)).toEqual(['alive']);
  });

  it('needs no silence when connection and port agree', () => {
    const { judge, verdicts, signals } = make();
    const lastMs = beat(judge, 1000, 5);
    judge.connectionClosed('heartbeat', 'reset', lastMs + 4);
    judge.redialRefused(lastMs + 6);
    expect(verdicts.at(-1)).toMatchObject({
      state: 'dead',
      why: 'heartbeat connection reset and redial refused 2 ms later',
    });
    expect(signals.map(({ text }) => text)).toEqual([
      'heartbeat connection reset',
      'redial refused',
    ]);
  });

  it('does not call dead a host that the network cannot reach, but for its silence', () => {
    const { judge, verdicts } = make();
    const lastMs = beat(judge, 1000, 5);
    judge.connectionClosed('heartbeat', 'reset', lastMs + 4);
    judge.redialUnreachable('EHOSTUNREACH', lastMs + 6);
    expect(verdicts.at(-1)?.state).toBe('suspect');
    passSilently(judge, lastMs + 6, 200);
    expect(verdicts.at(-1)?.state).toBe('dead');
  });

  it('expects nothing more of a peer that said goodbye, until it is heard again', () => {
    const { judge, verdicts } = make();
    const lastMs = beat(judge, 1000, 5);
    judge.goodbye({ reason: 'shutdown', text: 'maintenance' }, lastMs + 1);
    judge.connectionClosed('heartbeat', 'closed', lastMs + 2);
    judge.redialRefused(lastMs + 3);
    judge.connectionClosed('link', 'closed', lastMs + 3);
    passSilently(judge, lastMs + 3, 1000);
    expect(states(verdicts)).toEqual(['alive', 'suspect']);
    judge.heartbeatHeard(lastMs + 2000);
    expect(states(verdicts)).toEqual(['alive', 'suspect', 'alive']);
  });

  it('withdraws the end of a link that was made again', () => {
    const { judge, verdicts } = make();
    const lastMs = beat(judge, 1000, 5);
    judge.connectionClosed('link', 'reset', lastMs + 1);
    judge.connectionOpened('link', lastMs + 5);
    expect(states(verdicts)).toEqual(['alive', 'suspect', 'alive']);
  });

  it('comes to the same verdicts when reviews are left out while all is calm', () => {
    const step = fc.record({
      pauseMs: fc.oneof(
        { weight: 8, arbitrary: fc.constant(10) },
        { weight: 2, arbitrary: fc.integer({ min: 1, max: 150 }) },
      ),
      lateMs: fc.oneof(
        { weight: 8, arbitrary: fc.constant(0) },
        { weight: 1, arbitrary: fc.integer({ min: 1, max: 80 }) },
      ),
      happens: fc.constantFrom('heard', 'heard', 'heard', 'nothing', 'closed', 'made', 'goodbye'),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const [always, sparing] = [make(), make()];
        let nowMs = 1000;
        for (const { pauseMs, lateMs, happens } of steps) {
          nowMs += pauseMs;
          for (const { judge } of [always, sparing]) {
            if (happens === 'heard') judge.heartbeatHeard(nowMs);
            else if (happens === 'closed') judge.connectionClosed('heartbeat', 'reset', nowMs);
            else if (happens === 'made') judge.connectionOpened('heartbeat', nowMs);
            else if (happens === 'goodbye')
              judge.goodbye({ reason: 'shutdown', text: 'maintenance' }, nowMs);
            judge.ticked(nowMs - lateMs, nowMs);
          }
          always.judge.review(nowMs);
          if (!sparing.judge.isCalm(nowMs, 12.5)) sparing.judge.review(nowMs);
        }
        expect(sparing.verdicts).toEqual(always.verdicts);
      }),
    );
  });
});
