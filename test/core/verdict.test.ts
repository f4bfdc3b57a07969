/**
 * Goal: signals of any source add up to one verdict with its reason in words. Method: scripts of
 * signals as the heartbeat thread produces them, and properties over random ones.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  CROSS_CHANNEL_GRACE_MS,
  EVIDENCE_COUNT_MAX,
  type Signal,
  VerdictMaker,
} from '../../src/core/verdict.ts';

const life = (atMs: number, channel = 'heartbeat'): Signal => ({
  source: 'heartbeat',
  channel,
  kind: 'life',
  strength: -1,
  atMs,
  text: `${channel} heard`,
});
const reset = (atMs: number): Signal => ({
  source: 'connection',
  channel: 'heartbeat',
  kind: 'closed',
  strength: 0.5,
  atMs,
  text: 'heartbeat connection reset',
});
const refused = (atMs: number): Signal => ({
  source: 'connection',
  channel: 'heartbeat',
  kind: 'refused',
  strength: 0.5,
  atMs,
  text: 'redial refused',
});
const linkClosed = (atMs: number): Signal => ({
  source: 'connection',
  channel: 'link',
  kind: 'closed',
  strength: 0.5,
  atMs,
  text: 'link closed',
});
const silence = (atMs: number, strength: number): Signal => ({
  source: 'heartbeat',
  channel: 'heartbeat',
  kind: 'silence',
  strength,
  atMs,
  text: 'no heartbeat for 84 ms, phi 12.3, link silent too',
});

describe('VerdictMaker', () => {
  it('knows nobody at first, and accuses nobody it never heard', () => {
    const maker = new VerdictMaker();
    expect(maker.current.state).toBe('unknown');
    expect(maker.weigh(reset(1))).toBeNull();
    expect(maker.weigh(refused(2))).toBeNull();
    expect(maker.current.state).toBe('unknown');
  });

  it('says dead at once when the connection was reset and the redial refused', () => {
    const maker = new VerdictMaker();
    expect(maker.weigh(life(100))?.state).toBe('alive');
    expect(maker.weigh(reset(110))?.state).toBe('suspect');
    const verdict = maker.weigh(refused(113));
    expect(verdict).toMatchObject({
      state: 'dead',
      why: 'heartbeat connection reset and redial refused 3 ms later',
      atMs: 113,
      lastLifeMs: 100,
    });
    expect(verdict?.evidence).toHaveLength(2);
  });

  it('says dead at once when both connections closed, in either order', () => {
    for (const order of [
      [reset, linkClosed],
      [linkClosed, reset],
    ]) {
      const maker = new VerdictMaker();
      maker.weigh(life(100));
      expect(maker.weigh(order[0]?.(110) ?? reset(0))?.state).toBe('suspect');
      expect(maker.weigh(order[1]?.(110) ?? reset(0))?.state).toBe('dead');
    }
  });

  it('follows silence, and tells what it heard', () => {
    const maker = new VerdictMaker();
    maker.weigh(life(100));
    expect(maker.weigh(silence(150, 0.3))).toBeNull();
    expect(maker.weigh(silence(160, 0.6))?.state).toBe('suspect');
    expect(maker.weigh(silence(184, 1))).toMatchObject({
      state: 'dead',
      why: 'no heartbeat for 84 ms, phi 12.3, link silent too',
    });
    expect(maker.weigh(life(200))).toMatchObject({ state: 'alive', why: 'heartbeat heard' });
  });

  it('lets bytes read late from a dead process withdraw nothing', () => {
    const maker = new VerdictMaker();
    maker.weigh(life(100));
    maker.weigh(reset(110));
    maker.weigh(refused(111));
    expect(maker.weigh(life(112, 'link'))).toBeNull();
    expect(maker.current.state).toBe('dead');
    expect(maker.weigh(life(111 + CROSS_CHANNEL_GRACE_MS, 'link'))?.state).toBe('alive');
  });

  it('lets any sign of life end a silence at once', () => {
    const maker = new VerdictMaker();
    maker.weigh(life(100));
    maker.weigh(silence(184, 1));
    expect(maker.weigh(life(185, 'link'))?.state).toBe('alive');
  });

  it('takes a probe and a vote through the same door, until they expire', () => {
    const maker = new VerdictMaker();
    maker.weigh(life(100));
    const probe: Signal = {
      source: 'probe',
      channel: 'gateway',
      kind: 'unreachable',
      strength: 0.6,
      atMs: 110,
      text: 'the gateway cannot reach it',
      expiresAtMs: 1000,
    };
    const vote: Signal = { ...probe, source: 'vote', channel: 'client 7', strength: 0.4 };
    expect(maker.weigh(probe)?.state).toBe('suspect');
    expect(maker.weigh(vote)?.state).toBe('dead');
    expect(maker.review(999)).toBeNull();
    expect(maker.review(1000)?.state).toBe('alive');
  });

  it('withdraws an accusation of strength zero', () => {
    const maker = new VerdictMaker();
    maker.weigh(life(100));
    maker.weigh(silence(150, 0.7));
    expect(maker.weigh(silence(155, 0))?.state).toBe('alive');
  });

  it('keeps a bounded number of accusations, the strongest ones', () => {
    const maker = new VerdictMaker();
    maker.weigh(life(1));
    maker.weigh(reset(2));
    for (let voter = 0; voter < EVIDENCE_COUNT_MAX * 3; voter += 1) {
      maker.weigh({ ...reset(3), source: 'vote', channel: `${voter}`, strength: 0.001 });
    }
    const verdict = maker.weigh(refused(4));
    expect(verdict?.state).toBe('dead');
    expect(verdict?.evidence.length).toBeLessThanOrEqual(EVIDENCE_COUNT_MAX);
  });

  it('starts anew with another peer', () => {
    const maker = new VerdictMaker();
    maker.weigh(life(1));
    maker.weigh(reset(2));
    maker.forgetPeer(3);
    expect(maker.current.state).toBe('unknown');
    expect(maker.weigh(refused(4))).toBeNull();
  });

  it('gives, for any signals, a verdict exactly when the state changes', () => {
    const anySignal = fc.record({
      source: fc.constantFrom('heartbeat', 'connection', 'probe', 'vote'),
      channel: fc.constantFrom('heartbeat', 'link', 'x'),
      kind: fc.constantFrom('life', 'closed', 'refused', 'silence'),
      strength: fc.double({ min: -1, max: 1, noNaN: true }),
      atMs: fc.integer({ min: 0, max: 1000 }),
      text: fc.constant('something'),
    });
    fc.assert(
      fc.property(fc.array(anySignal, { maxLength: 100 }), (signals) => {
        const maker = new VerdictMaker();
        let state = maker.current.state;
        let heard = false;
        for (const signal of signals) {
          heard ||= signal.strength < 0;
          const verdict = maker.weigh(signal);
          if (verdict !== null) {
            expect(verdict.state).not.toBe(state);
            expect(verdict.why).not.toBe('');
            state = verdict.state;
          }
          expect(maker.current.state).toBe(state);
          expect(state === 'unknown').toBe(!heard);
        }
      }),
    );
  });
});
