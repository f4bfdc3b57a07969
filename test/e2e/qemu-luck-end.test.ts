/**
 * Goal: a machine that ends on purpose stays ended, and one whose engine alone died is protected
 * again. Method: real nodes, and a real QEMU that is switched off, quit, or left alone.
 */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { NodeProcess, PromotedEvent } from '../../src/drill/node-process.ts';
import { isProcessAlive } from '../../src/guests/process.ts';
import {
  copiesOf,
  exitCodeOf,
  killed,
  LuckStage,
  until,
  untilStatus,
  WAIT_MS,
} from '../support/qemu/luck-stage.ts';
import { requireQemu } from '../support/qemu/require-qemu.ts';

const hasQemu = await requireQemu();
const BARE = { bare: true, memoryMib: 32 } as const;

describe.runIf(hasQemu)('a protected QEMU', { timeout: 3 * WAIT_MS }, () => {
  let stage: LuckStage;
  beforeEach(async () => {
    stage = await LuckStage.open();
  });
  afterEach(() => stage.close());

  async function protect(): Promise<{ a: NodeProcess; b: NodeProcess }> {
    const a = stage.startNode('a', 'protect');
    const b = stage.startNode('b', 'backup');
    await untilStatus(a, 'protection', ({ state }) => state === 'protected');
    return { a, b };
  }

  async function expectOrderlyEnd(
    nodes: { a: NodeProcess; b: NodeProcess },
    why: RegExp,
  ): Promise<void> {
    const { a, b } = nodes;
    expect(await exitCodeOf(a)).toBe(0);
    expect(stage.logOf(a.child)).toMatch(why);
    await untilStatus(b, 'to give up', ({ state }) => state === 'lost');
    expect(b.progress?.why).toMatch(why);
    // Longer than any promise: nobody starts the copy.
    const here = stage.consoleOf('b').lines.length;
    await new Promise((resolve) => setTimeout(resolve, 3000));
    expect(stage.consoleOf('b').lines.length).toBe(here);
    expect(b.progress).toMatchObject({ role: 'backup', state: 'lost' });
    b.child.process.kill('SIGTERM');
    expect(await exitCodeOf(b)).toBe(0);
    expect(copiesOf(stage)).toEqual([]);
  }

  it('that is switched off stays off', async () => {
    const machine = await stage.startMachine();
    const nodes = await protect();
    await stage.switchOff('a', machine);
    await expectOrderlyEnd(nodes, /switched off \(guest-shutdown\)/);
  });

  it('whose user quits it stays off, and the next machine is protected by the same command', async () => {
    await stage.startMachine(BARE);
    const nodes = await protect();
    const user = await stage.userMonitor();
    await user.command('quit').catch(() => undefined);
    await expectOrderlyEnd(nodes, /switched off \(host-qmp-quit\)/);
    await stage.startMachine(BARE);
    await protect();
  });

  it.each([
    ['its notes', (): string => stage.stateOf('a')],
    ['another state directory', (): string => stage.path('a-anew')],
  ])('is protected again by an engine started anew, with %s', async (_, stateDir) => {
    const machine = await stage.startMachine(BARE);
    const { a, b } = await protect();
    // The backup first: nobody is left to take over.
    await killed(b.child);
    await killed(a.child);
    await until('the copy to go', () => copiesOf(stage).length === 0);
    const again = stage.startNode('a', 'protect', { stateDir: stateDir() });
    await untilStatus(again, 'a start', ({ state }) => state === 'unprotected');
    expect(machine.isGone()).toBe(false);
    stage.startNode('b', 'backup');
    await untilStatus(again, 'protection', ({ state }) => state === 'protected');
    const scrub = await stage.run(['scrub', '--state-dir', stateDir(), '--json']);
    expect(JSON.parse(scrub.stdout)).toMatchObject({ match: true });
    expect(isProcessAlive(machine.pid)).toBe(true);
  });

  it('whose copy stands still right after it took over is protected again once it runs', async () => {
    const machine = await stage.startMachine(BARE);
    const { a, b } = await protect();
    const [copy = 0] = copiesOf(stage);
    await Promise.all([killed(machine), killed(a.child)]);
    await b.waitFor('promoted', (event): event is PromotedEvent => event.event === 'promoted', {
      withinMs: WAIT_MS,
    });
    process.kill(copy, 'SIGSTOP');
    try {
      await until('an attempt in vain', () => stage.logOf(b.child).includes('cannot attach'));
      expect(b.child.isGone()).toBe(false);
    } finally {
      process.kill(copy, 'SIGCONT');
    }
    await untilStatus(b, 'an attachment', ({ state }) => state === 'unprotected');
    stage.startNode('a', 'protect', { stateDir: stage.path('a-anew') });
    await untilStatus(b, 'protection', ({ state }) => state === 'protected');
    expect(isProcessAlive(copy)).toBe(true);
  });

  it('whose copy took over is ended by its engine, though its notes are lost', async () => {
    const machine = await stage.startMachine(BARE);
    const { a, b } = await protect();
    await killed(a.child);
    const again = stage.startNode('a', 'protect', { stateDir: stage.path('a-anew') });
    await untilStatus(b, 'the copy', ({ role }) => role === 'primary');
    await until('the end of the old machine', () => machine.isGone());
    await untilStatus(b, 'protection', ({ state }) => state === 'protected');
    expect(again.progress).toMatchObject({ role: 'backup' });
  });
});
