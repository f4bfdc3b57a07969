/**
 * Goal: whatever output waits when, epochs that it ends early keep their distance, leave the machine
 * its share of the time, and take nothing from the pace that was asked for.
 */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { EpochPacer } from '../../src/core/epoch-pacer.ts';
import { PAUSE_BURST_MS, PAUSE_SHARE_MAX } from '../../src/core/pause-budget.ts';

const MARKS = { lowBytes: 10, highBytes: 100, limitBytes: 1000 };

const moment = fc.record({
  /** When output begins to wait, since the checkpoint before; null: none does. */
  waitsAfterMs: fc.option(fc.double({ min: 0, max: 40, noNaN: true })),
  pauseMs: fc.double({ min: 0.1, max: 30, noNaN: true }),
  /** How late the question comes. */
  lateMs: fc.double({ min: 0, max: 3, noNaN: true }),
  queueBytes: fc.constantFrom(0, 5, 50, 150),
});

it('early epochs keep their distance and their share', () => {
  fc.assert(
    fc.property(
      fc.record({
        intervalMs: fc.double({ min: 1, max: 50, noNaN: true }),
        minIntervalMs: fc.oneof(fc.constant(0), fc.double({ min: 0.5, max: 60, noNaN: true })),
      }),
      fc.array(moment, { minLength: 1, maxLength: 60 }),
      ({ intervalMs, minIntervalMs }, moments) => {
        const pacer = new EpochPacer({ intervalMs, minIntervalMs, watermarks: MARKS });
        pacer.asked(0);
        pacer.answered();
        let askedAtMs = 0;
        const early: { readonly askedAtMs: number; readonly pauseMs: number }[] = [];
        for (const { waitsAfterMs, pauseMs, lateMs, queueBytes } of moments) {
          pacer.queueLevel(queueBytes);
          const ordinaryMs = pacer.dueAtMs ?? Number.NaN;
          const waitsAtMs = waitsAfterMs === null ? Number.NaN : askedAtMs + waitsAfterMs;
          if (waitsAtMs < ordinaryMs) pacer.outputWaiting();
          const dueMs = pacer.dueOnFreeLinkAtMs ?? Number.NaN;
          // A busy link keeps to the pace that was asked for.
          expect(pacer.dueAtMs).toBe(ordinaryMs);
          expect(dueMs).toBeLessThanOrEqual(ordinaryMs);
          if (dueMs < ordinaryMs) {
            expect(minIntervalMs).toBeGreaterThan(0);
            expect(pacer.isBacklogged).toBe(false);
            expect(dueMs - askedAtMs).toBeGreaterThanOrEqual(minIntervalMs - 1e-9);
          }
          // It may be too late already when output begins to wait.
          askedAtMs = Math.max(dueMs, waitsAtMs < ordinaryMs ? waitsAtMs : dueMs) + lateMs;
          pacer.asked(askedAtMs);
          pacer.answered(pauseMs);
          if (dueMs < ordinaryMs && askedAtMs < ordinaryMs) early.push({ askedAtMs, pauseMs });
        }
        for (const [from, first] of early.entries()) {
          let pausedMs = 0;
          for (const { askedAtMs: atMs, pauseMs } of early.slice(from)) {
            const allowedMs = (atMs - first.askedAtMs) * PAUSE_SHARE_MAX + PAUSE_BURST_MS;
            expect(pausedMs).toBeLessThanOrEqual(allowedMs + 1e-6);
            pausedMs += pauseMs;
          }
        }
      },
    ),
  );
});
