/**
 * Goal: silence is judged by the past, the observer's own standstill is not the peer's silence.
 * Method: time is an argument, so every case is a short script of instants.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FailureDetector } from '../../src/core/failure-detector.ts';

const INTERVAL_MS = 10;

function regular(
  beats: number,
  intervalMs = INTERVAL_MS,
): { detector: FailureDetector; atMs: number } {
  const detector = new FailureDetector({ intervalMs: INTERVAL_MS });
  let atMs = 1000;
  for (let beat = 0; beat < beats; beat += 1) {
    detector.heard(atMs);
    atMs += intervalMs;
  }
  return { detector, atMs: atMs - intervalMs };
}

/** Heartbeats as agreed, for so long; when the last came. */
function goOn(detector: FailureDetector, fromMs: number, durationMs: number): number {
  let nowMs = fromMs;
  while (nowMs < fromMs + durationMs) {
    nowMs += INTERVAL_MS;
    detector.heard(nowMs);
  }
  return nowMs;
}

function silenceUntilPhi(detector: FailureDetector, fromMs: number, phi: number): number {
  for (let silentMs = 0; silentMs < 5000; silentMs += 0.5) {
    if (detector.suspicion(fromMs + silentMs).phi >= phi) return silentMs;
  }
  throw new Error('never suspicious');
}

describe('FailureDetector', () => {
  it('accuses nobody it never heard', () => {
    const detector = new FailureDetector({ intervalMs: INTERVAL_MS });
    expect(detector.suspicion(1e9).phi).toBe(0);
    detector.ticked(0, 500);
    expect(detector.suspicion(1e9).phi).toBe(0);
  });

  it('calls a heartbeat late from 74 ms on at the default heartbeat, whatever it learnt before', () => {
    const { detector, atMs } = regular(100);
    expect(detector.heard(atMs + 73)).toEqual({ intervalMs: 73, isLate: false });
    expect(detector.heard(atMs + 73 + 74)).toEqual({ intervalMs: 74, isLate: true });
    const nowMs = goOn(detector, atMs + 147, 1000);
    expect(detector.suspicion(nowMs + 74).phi).toBeLessThan(4);
    expect(detector.heard(nowMs + 74)).toEqual({ intervalMs: 74, isLate: true });
  });

  it('calls no heartbeat late for what it stood still itself, but tells the whole interval', () => {
    const { detector, atMs } = regular(10);
    detector.ticked(atMs + 10, atMs + 200);
    expect(detector.heard(atMs + 205)).toEqual({ intervalMs: 205, isLate: false });
  });

  it('knows no interval before the first heartbeat, nor of a peer that it forgot', () => {
    const detector = new FailureDetector({ intervalMs: INTERVAL_MS });
    expect(detector.heard(1000)).toBeNull();
    detector.forgetPeer();
    expect(detector.heard(9000)).toBeNull();
  });

  it('reaches phi 8 after a silence between 60 and 90 ms at the default heartbeat', () => {
    const { detector, atMs } = regular(100);
    const silentMs = silenceUntilPhi(detector, atMs, 8);
    expect(silentMs).toBeGreaterThan(60);
    expect(silentMs).toBeLessThan(90);
  });

  it('gives a peer that was heard only on the link time to start its heartbeats', () => {
    const detector = new FailureDetector({ intervalMs: INTERVAL_MS });
    detector.sign(1000);
    expect(detector.suspicion(5500).phi).toBeLessThan(0.1);
    expect(detector.suspicion(6200).phi).toBeGreaterThan(8);
    detector.heard(1500);
    expect(silenceUntilPhi(detector, 1500, 8)).toBeLessThan(90);
  });

  it('judges by the agreed interval while it has no past', () => {
    const { detector, atMs } = regular(1);
    expect(silenceUntilPhi(detector, atMs, 8)).toBeLessThan(90);
    expect(detector.suspicion(atMs + INTERVAL_MS * 2).phi).toBeLessThan(0.1);
  });

  it('tolerates more when the past was irregular', () => {
    const steady = regular(200);
    const detector = new FailureDetector({ intervalMs: INTERVAL_MS });
    let atMs = 1000;
    for (let beat = 0; beat < 200; beat += 1) {
      detector.heard(atMs);
      atMs += beat % 4 === 0 ? 40 : 5;
    }
    const last = atMs - 5;
    expect(silenceUntilPhi(detector, last, 8)).toBeGreaterThan(
      silenceUntilPhi(steady.detector, steady.atMs, 8),
    );
  });

  it('learns nothing from outages', () => {
    const { detector, atMs } = regular(100);
    const before = silenceUntilPhi(detector, atMs, 8);
    let nowMs = atMs;
    for (let outage = 0; outage < 20; outage += 1) {
      nowMs += 60_000;
      detector.heard(nowMs);
    }
    expect(silenceUntilPhi(detector, nowMs, 8)).toBe(before);
  });

  it('takes its own standstill off the silence', () => {
    const { detector, atMs } = regular(100);
    // The observer meant to run 5 ms after the last heartbeat and ran after 10 s.
    detector.ticked(atMs + 5, atMs + 10_000);
    const suspicion = detector.suspicion(atMs + 10_000);
    expect(suspicion.discountedMs).toBeCloseTo(9995);
    expect(suspicion.silentMs).toBeCloseTo(5);
    expect(suspicion.phi).toBeLessThan(0.1);
  });

  it('still accuses a silent peer after its own standstill, a bounded time later', () => {
    const { detector, atMs } = regular(100);
    detector.ticked(atMs + 5, atMs + 10_000);
    const silentMs = silenceUntilPhi(detector, atMs + 10_000, 8);
    expect(silentMs).toBeGreaterThan(150);
    expect(silentMs).toBeLessThan(250);
  });

  it('forgets its own lateness with time', () => {
    const { detector, atMs } = regular(100);
    detector.ticked(atMs, atMs + 100);
    const nowMs = goOn(detector, atMs + 100, 60_000);
    expect(detector.suspicion(nowMs).stretchMs).toBe(0);
    expect(silenceUntilPhi(detector, nowMs, 8)).toBeLessThan(90);
  });

  it('tolerates what the host does: half as much again as the longest standstill of late', () => {
    for (const standStill of [
      (detector: FailureDetector, atMs: number): void => detector.ticked(atMs, atMs + 100),
      (detector: FailureDetector, atMs: number): void => void detector.heard(atMs + 110),
    ]) {
      const { detector, atMs } = regular(100);
      standStill(detector, atMs);
      const nowMs = goOn(detector, atMs + 110, 3000);
      const silentMs = silenceUntilPhi(detector, nowMs, 8);
      expect(silentMs).toBeGreaterThan(140);
      expect(silentMs).toBeLessThan(230);
      expect(detector.suspicion(nowMs + 100).phi).toBeLessThan(1);
    }
  });

  it('never tolerates much more than 300 ms at the default heartbeat', () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 0, max: 2000, noNaN: true }), { minLength: 1, maxLength: 20 }),
        (standstills) => {
          const { detector, atMs } = regular(100);
          let nowMs = atMs;
          for (const standstillMs of standstills) {
            detector.ticked(nowMs, nowMs + standstillMs);
            nowMs = goOn(detector, nowMs + standstillMs, 1000);
          }
          expect(silenceUntilPhi(detector, nowMs, 8)).toBeLessThan(360);
        },
      ),
    );
  });

  it('does not take a standstill before the last sign of life off the silence after it', () => {
    const { detector, atMs } = regular(100);
    detector.heard(atMs + 490);
    detector.ticked(atMs, atMs + 500);
    expect(detector.suspicion(atMs + 500).silentMs).toBe(0);
    expect(detector.suspicion(atMs + 600).silentMs).toBeCloseTo(100);
  });

  it('takes other traffic as life, not as a sample', () => {
    const { detector, atMs } = regular(100);
    let nowMs = atMs;
    for (let message = 0; message < 1000; message += 1) {
      nowMs += 1;
      detector.sign(nowMs);
    }
    expect(detector.lastLifeMs).toBe(nowMs);
    expect(silenceUntilPhi(detector, nowMs, 8)).toBeGreaterThan(60);
    detector.sign(atMs);
    expect(detector.lastLifeMs).toBe(nowMs);
  });

  it('starts anew with another peer', () => {
    const { detector, atMs } = regular(100);
    detector.forgetPeer();
    expect(detector.suspicion(atMs + 10_000).phi).toBe(0);
    expect(detector.lastLifeMs).toBeNull();
  });

  it('never sees suspicion fall while the silence lasts and the observer runs on time', () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 0, max: 100, noNaN: true }), { minLength: 2, maxLength: 50 }),
        fc.array(fc.double({ min: 0, max: 50, noNaN: true }), { minLength: 1, maxLength: 50 }),
        (intervals, steps) => {
          const detector = new FailureDetector({ intervalMs: INTERVAL_MS });
          let nowMs = 0;
          for (const intervalMs of intervals) {
            nowMs += intervalMs;
            detector.heard(nowMs);
          }
          let before = detector.suspicion(nowMs).phi;
          for (const stepMs of steps) {
            nowMs += stepMs;
            detector.ticked(nowMs, nowMs);
            const { phi } = detector.suspicion(nowMs);
            expect(phi).toBeGreaterThanOrEqual(before - 1e-9);
            expect(Number.isFinite(phi)).toBe(true);
            before = phi;
          }
        },
      ),
    );
  });
});
