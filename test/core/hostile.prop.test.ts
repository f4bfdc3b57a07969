/**
 * Goal: whatever a peer says, in whatever order, a state machine neither throws nor lets output go.
 *
 * The simulation feeds the machines what honest peers could have sent; here the peer is hostile.
 */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { asEpoch, asGeneration } from '../../src/base/units.ts';
import { Backup } from '../../src/core/backup.ts';
import { type BackupEvent, DEFAULT_BACKUP_LIMITS } from '../../src/core/backup-types.ts';
import { DEFAULT_QUEUE_WATERMARKS } from '../../src/core/epoch-pacer.ts';
import { Primary } from '../../src/core/primary.ts';
import { DEFAULT_PRIMARY_LIMITS, type PrimaryEvent } from '../../src/core/primary-types.ts';
import { DEFAULT_PROMISE_MARGIN } from '../../src/core/promise.ts';

const linkId = fc.integer({ min: 1, max: 3 });
const epoch = fc.nat({ max: 6 }).map(asEpoch);
const generation = fc.nat({ max: 4 }).map(asGeneration);
const instance = fc.constantFrom('b#1', 'b#2', 'a#1', 'c#1', '', 'x'.repeat(500));
const text = fc.constantFrom('', 'why');

const toPrimary: fc.Arbitrary<PrimaryEvent> = fc.oneof(
  fc.record({
    kind: fc.constant('backupHello' as const),
    linkId,
    node: fc.constantFrom('b', 'c'),
    holds: fc.option(fc.record({ instance, epoch })),
    descriptorMatches: fc.boolean(),
    oldestRetainedEpoch: fc.option(epoch),
    provenSinceEpoch: fc.option(epoch),
  }),
  fc.record({ kind: fc.constant('backupReady' as const), linkId, instance }),
  fc.record({ kind: fc.constant('linkClosed' as const), linkId, why: text }),
  fc.record({
    kind: fc.constant('acknowledged' as const),
    linkId,
    instance,
    epoch,
    promiseMs: fc.constantFrom(0, 40, 1e12, Number.NaN),
    sentAtMs: fc.constantFrom(Number.NEGATIVE_INFINITY, 0, 50),
  }),
  fc.record({
    kind: fc.constant('promised' as const),
    instance,
    promiseMs: fc.constantFrom(0, 40, 1e12, Number.NaN),
    sentAtMs: fc.constantFrom(0, 50),
  }),
  fc.record({ kind: fc.constant('applied' as const), linkId, instance, epoch }),
);

it('a primary that was not answered by the register lets nothing go', () => {
  fc.assert(
    fc.property(fc.array(toPrimary, { maxLength: 40 }), (events) => {
      const primary = newPrimary();
      let nowMs = 0;
      primary.step({ kind: 'start' }, nowMs);
      for (const event of events) {
        nowMs += 1;
        for (const { kind } of primary.step(event, nowMs)) {
          expect(['openOutput', 'releaseOutput']).not.toContain(kind);
        }
      }
    }),
  );
});

it('a paired primary lets go only what its partner acknowledged, for no longer than promised', () => {
  fc.assert(
    fc.property(fc.array(toPrimary, { maxLength: 40 }), (events) => {
      const primary = pairedPrimary();
      let nowMs = 20;
      let acknowledged = 1;
      for (const event of events) {
        nowMs += 1;
        const isPartner = 'instance' in event && event.instance === 'b#1';
        if (event.kind === 'acknowledged' && isPartner && event.epoch <= 3) {
          acknowledged = Math.max(acknowledged, event.epoch);
        }
        for (const effect of primary.step(event, nowMs)) {
          expect(effect.kind).not.toBe('openOutput');
          if (effect.kind !== 'releaseOutput') continue;
          expect(effect.throughEpoch).toBeLessThanOrEqual(acknowledged);
          expect(effect.untilMs).toBeLessThan(50 + 10_000);
        }
      }
    }),
  );
});

const toBackup: fc.Arbitrary<BackupEvent> = fc.oneof(
  fc.record({ kind: fc.constant('linkUp' as const), linkId }),
  fc.record({ kind: fc.constant('linkClosed' as const), linkId, why: text }),
  fc.record({
    kind: fc.constant('welcome' as const),
    linkId,
    generation,
    runner: fc.constantFrom('a#1', 'c#1'),
    plan: fc.constantFrom('full' as const, 'changed' as const, 'resume' as const),
    fromEpoch: epoch,
  }),
  fc.record({ kind: fc.constant('imagePrepared' as const), linkId, instance: fc.constant('b#9') }),
  fc.record({ kind: fc.constant('baseEnd' as const), linkId, complete: fc.boolean() }),
  fc.record({
    kind: fc.constant('epochReceived' as const),
    linkId,
    epoch,
    intact: fc.boolean(),
    bytes: fc.nat(),
  }),
  fc.record({ kind: fc.constant('paired' as const), linkId, generation, instance }),
  fc.record({
    kind: fc.constant('goodbye' as const),
    linkId,
    reason: fc.constantFrom('shutdown' as const, 'guest-lost' as const, 'fenced' as const),
    text,
  }),
  fc.record({
    kind: fc.constant('verdict' as const),
    verdict: fc.constantFrom('dead' as const, 'alive' as const),
    why: text,
  }),
);

it('a backup starts nothing, and applies only gap-free, whatever a peer says', () => {
  fc.assert(
    fc.property(fc.array(toBackup, { maxLength: 60 }), (events) => {
      const backup = new Backup({
        node: 'b',
        promiseMs: 40,
        onSilence: 'arbiter',
        limits: DEFAULT_BACKUP_LIMITS,
      });
      backup.step({ kind: 'start' }, 0);
      let applied: number | null = null;
      let nowMs = 0;
      for (const event of events) {
        nowMs += 1;
        for (const effect of backup.step(event, nowMs)) {
          expect(['startGuest', 'openOutput', 'becomePrimary']).not.toContain(effect.kind);
          if (effect.kind === 'prepareImage') applied = null;
          if (effect.kind !== 'apply') continue;
          if (applied !== null) expect(effect.epoch).toBe(applied + 1);
          applied = effect.epoch;
        }
      }
    }),
  );
});

function newPrimary(): Primary {
  return new Primary({
    instance: 'a#1',
    firstEpoch: asEpoch(1),
    intervalMs: 5,
    minIntervalMs: 0,
    promiseMargin: DEFAULT_PROMISE_MARGIN,
    onSilence: 'arbiter',
    watermarks: DEFAULT_QUEUE_WATERMARKS,
    limits: DEFAULT_PRIMARY_LIMITS,
  });
}

/** Paired with b#1 over link 1, epochs 1 to 3 taken, the first acknowledged. */
function pairedPrimary(): Primary {
  const primary = newPrimary();
  const alone = { generation: asGeneration(1), runner: 'a#1', partner: null };
  const paired = { generation: asGeneration(2), runner: 'a#1', partner: 'b#1' };
  const answer = { kind: 'registerAnswer', outcome: 'changed', won: true } as const;
  const taken = { kind: 'checkpointTaken', diskWrites: 0, pages: 1, bytes: 1, pauseMs: 1 } as const;
  const ofLink = { linkId: 1 } as const;
  const events: readonly PrimaryEvent[] = [
    { kind: 'start' },
    { kind: 'registerAnswer', requestId: 1, outcome: 'read', word: null },
    { ...answer, requestId: 2, word: alone },
    {
      kind: 'backupHello',
      ...ofLink,
      node: 'b',
      holds: null,
      descriptorMatches: true,
      oldestRetainedEpoch: null,
      provenSinceEpoch: null,
    },
    { kind: 'backupReady', ...ofLink, instance: 'b#1' },
    { kind: 'syncRoundDone', ...ofLink, pages: 1, dirtyLeft: 0, durationMs: 1 },
    { ...taken, epoch: asEpoch(1), framesSent: 1 },
    {
      kind: 'acknowledged',
      ...ofLink,
      instance: 'b#1',
      epoch: asEpoch(1),
      promiseMs: 40,
      sentAtMs: 7,
    },
    { ...answer, requestId: 3, word: paired },
    { kind: 'timer' },
    { kind: 'timer' },
    { kind: 'timer' },
    { ...taken, epoch: asEpoch(2), framesSent: 2 },
    { kind: 'timer' },
    { kind: 'timer' },
    { kind: 'timer' },
    { kind: 'timer' },
    { ...taken, epoch: asEpoch(3), framesSent: 3 },
  ];
  events.forEach((event, index) => primary.step(event, index));
  expect(primary.status).toMatchObject({ state: 'protected', takenEpoch: 3 });
  return primary;
}
