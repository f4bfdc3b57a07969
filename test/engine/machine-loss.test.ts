/** Goal: who loses sight of a machine finds out what became of it: its copy takes over from the dead alone. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import pino from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { asEpoch } from '../../src/base/units.ts';
import { Primary } from '../../src/core/primary.ts';
import { DEFAULT_PRIMARY_LIMITS, type PrimaryEvent } from '../../src/core/primary-types.ts';
import { DEFAULT_PROMISE_MARGIN } from '../../src/core/promise.ts';
import { MachineLoss } from '../../src/engine/machine-loss.ts';
import type { GuestLoss } from '../../src/guests/guest.ts';

const CUT_OFF = new RomulusError('ERR_DISK_LOST', 'the disk is gone', { remedy: 'None.' });
const SWITCHED_OFF: GuestLoss = { kind: 'ended', why: 'switched off' };

let events: PrimaryEvent[] = [];
let broken: RomulusError[] = [];
let machine: ReturnType<typeof spawn>;

beforeEach(async () => {
  events = [];
  broken = [];
  machine = spawn('sleep', ['1000']);
  await once(machine, 'spawn');
});

afterEach(() => {
  machine.kill('SIGKILL');
});

function lossWith(lastWords: GuestLoss | null): MachineLoss {
  return new MachineLoss({
    core: new Primary({
      instance: 'a#1',
      firstEpoch: asEpoch(1),
      intervalMs: 25,
      minIntervalMs: 0,
      promiseMargin: DEFAULT_PROMISE_MARGIN,
      onSilence: 'arbiter',
      watermarks: { lowBytes: 1, highBytes: 2, limitBytes: 4 },
      limits: DEFAULT_PRIMARY_LIMITS,
    }),
    log: pino({ level: 'silent' }),
    machinePid: machine.pid ?? 0,
    lastWords: () => Promise.resolve(lastWords),
    step: (event) => events.push(event),
    onBroken: (error) => broken.push(error),
  });
}

async function kill(): Promise<void> {
  machine.kill('SIGKILL');
  await once(machine, 'exit');
}

describe('MachineLoss', () => {
  it('gives the image up when the machine lives', async () => {
    await lossWith(null).settle(CUT_OFF);
    expect(events).toEqual([]);
    expect(broken).toEqual([CUT_OFF]);
  });

  it('has the copy take over from a machine that died', async () => {
    await kill();
    await lossWith(null).settle(CUT_OFF);
    expect(events).toMatchObject([{ kind: 'guestLost' }]);
    expect(broken).toEqual([]);
  });

  it('lets one that is alone run on when a thread of ours ended, and has the node fail', () => {
    const loss = lossWith(null);
    loss.unheld(CUT_OFF);
    expect(events).toEqual([{ kind: 'shutdown', why: CUT_OFF.message }]);
    const why = CUT_OFF.message;
    expect(loss.outcomeOf({ kind: 'finish', reason: 'shutdown', why })).toEqual({
      kind: 'failed',
      why,
      error: CUT_OFF,
    });
  });

  it.each(['settle', 'netLost'] as const)(
    'has nobody take over from one that was switched off, though its sockets closed first: %s',
    async (way) => {
      await kill();
      await lossWith(SWITCHED_OFF)[way](CUT_OFF);
      expect(events).toEqual([{ kind: 'shutdown', why: 'switched off' }]);
      expect(broken).toEqual([]);
    },
  );
});
