/**
 * Goal: whatever the user and the guest itself do to a protected QEMU, the right thing happens.
 * Method: one machine and two nodes as processes, through its user's pause, a reboot, a balloon, a
 * plugged device, the death of the waiting copy, and failovers both ways.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { NodeProcess } from '../../src/drill/node-process.ts';
import { VIRTIO_MODULES } from '../../src/drill/qemu/guest-image.ts';
import { excusedOf } from '../../src/drill/qemu/kernel-log.ts';
import type { Child } from '../../src/drill/children.ts';
import { isProcessAlive } from '../../src/guests/process.ts';
import type { QmpClient } from '../../src/guests/qemu/qmp/qmp-client.ts';
import {
  copiesOf,
  killed,
  LuckStage,
  until,
  untilStatus,
  WAIT_MS,
} from '../support/qemu/luck-stage.ts';
import { requireQemu } from '../support/qemu/require-qemu.ts';

const hasQemu = await requireQemu();

describe.runIf(hasQemu)('a protected QEMU', { timeout: 3 * WAIT_MS }, () => {
  let stage: LuckStage;
  let machine: Child;
  let user: QmpClient;
  let a: NodeProcess;
  let b: NodeProcess;
  /** What the guest's kernel complained of while it booted: that the host did not let it measure clocks. */
  let ofTheBoot: readonly string[];

  beforeAll(async () => {
    stage = await LuckStage.open();
    machine = await stage.startMachine({
      kernelArgs: ['romulus.pattern=8/50', `romulus.modules=${VIRTIO_MODULES.join()}`],
      extraArgs: [
        '-device',
        'pcie-root-port,id=port0,chassis=1',
        '-device',
        'virtio-balloon-pci,id=balloon0',
      ],
    });
    user = await stage.userMonitor();
    ofTheBoot = await stage.ask('a', 'complaints');
    a = stage.startNode('a', 'protect');
    b = stage.startNode('b', 'backup');
    await untilStatus(a, 'protection', ({ state }) => state === 'protected');
  }, 3 * WAIT_MS);

  afterAll(() => stage?.close());

  const counts = (side: 'a' | 'b'): number => stage.consoleOf(side).lines.length;
  const epochOf = (node: NodeProcess): number => node.progress?.epoch ?? 0;

  /** As docs/QEMU.md says: one `stop` holds, also in the very milliseconds of a checkpoint. */
  async function pauseByUser(): Promise<void> {
    await user.command('stop');
    for (let look = 0; look < 10; look += 1) {
      expect(await user.command('query-status')).toMatchObject({ status: 'paused' });
      await sleep(77);
    }
  }

  /** Its programs run, and listen. */
  async function saysMore(side: 'a' | 'b'): Promise<void> {
    await stage.consoleOf(side).waitFor('more', (text) => text.startsWith('c '), {
      withinMs: WAIT_MS,
      after: counts(side),
    });
  }

  /** The guest on that side says more, finds its memory whole, and its kernel has no complaint. */
  async function goesOn(side: 'a' | 'b'): Promise<void> {
    await saysMore(side);
    expect((await stage.ask(side, 'check'))[0]).toMatch(/^ok /);
    const complaints = await stage.ask(side, 'complaints');
    const excused = excusedOf(complaints);
    const known = (line: string): boolean => ofTheBoot.includes(line) || excused.has(line);
    expect(complaints.filter((line) => !known(line))).toEqual([]);
  }

  async function scrubMatches(side: 'a' | 'b' = 'a'): Promise<void> {
    const scrub = await stage.run(['scrub', '--state-dir', stage.stateOf(side), '--json']);
    expect(JSON.parse(scrub.stdout)).toMatchObject({ match: true });
  }

  it('is neither checkpointed nor resumed while its user has paused it', async () => {
    await pauseByUser();
    await sleep(500);
    const before = epochOf(a);
    const events = a.events.length;
    await sleep(1000);
    expect(epochOf(a) - before).toBeLessThanOrEqual(1);
    // Nothing is repeated every epoch, neither to the log nor as an event.
    expect(a.events.length - events).toBeLessThanOrEqual(2);
    expect(await user.command('query-status')).toMatchObject({ status: 'paused' });
    expect(a.progress).toMatchObject({ state: 'protected' });
    await user.command('cont');
    await untilStatus(a, 'more epochs', ({ epoch }) => epoch > before + 5);
    expect(a.progress).toMatchObject({ state: 'protected' });
  });

  it('goes on being protected while its guest grows and shrinks a balloon', async () => {
    await user.command('balloon', { value: 96 * 1024 * 1024 });
    await until('the balloon', async () => {
      const { actual } = (await user.command('query-balloon')) as { actual: number };
      return actual <= 97 * 1024 * 1024;
    });
    await scrubMatches();
    await user.command('balloon', { value: 128 * 1024 * 1024 });
    await until('the balloon to go', async () => {
      const { actual } = (await user.command('query-balloon')) as { actual: number };
      return actual >= 127 * 1024 * 1024;
    });
    const before = epochOf(a);
    await untilStatus(a, 'more epochs', ({ epoch }) => epoch > before + 5);
    await scrubMatches();
    expect(a.progress).toMatchObject({ state: 'protected' });
  });

  it('goes on being protected through a reboot', async () => {
    const here = counts('a');
    await stage.ask('a', 'reboot').catch(() => undefined);
    await stage.consoleOf('a').waitFor('a second boot', (text) => text.startsWith('ready'), {
      withinMs: 2 * WAIT_MS,
      after: here,
    });
    expect(a.progress).toMatchObject({ state: 'protected' });
    expect(a.child.isGone()).toBe(false);
    await saysMore('a');
    ofTheBoot = await stage.ask('a', 'complaints');
    await scrubMatches();
  });

  it('is given another copy when the waiting one is killed', async () => {
    const [copy = 0] = copiesOf(stage);
    process.kill(copy, 'SIGKILL');
    await until('another copy', () => copiesOf(stage).some((pid) => pid !== copy));
    const after = epochOf(a);
    await untilStatus(
      a,
      'protection',
      ({ state, epoch }) => state === 'protected' && epoch > after,
    );
    expect(stage.logOf(b.child)).toContain('the waiting QEMU ended (SIGKILL)');
  });

  it('is protected anew, with the device, when one was plugged in', async () => {
    await user.command('device_add', { driver: 'virtio-rng-pci', id: 'late', bus: 'port0' });
    const events = a.events.length;
    await a.waitForState(['stopped'], { withinMs: WAIT_MS, after: events });
    const stopped = a.events.length;
    await a.waitForState(['protected'], { withinMs: WAIT_MS, after: stopped });
    expect(stage.logOf(a.child)).toContain('protecting it anew');
    await scrubMatches();
  });

  it('stays paused as its copy, the plugged device included, when it is killed while paused', async () => {
    const told = (): number => stage.logOf(b.child).split('was paused by its user').length;
    const before = told();
    await pauseByUser();
    await until('b to know', () => told() > before);
    await killed(machine);
    await untilStatus(b, 'the copy', ({ role }) => role === 'primary');
    const copy = await stage.userMonitor('b');
    expect(await copy.command('query-status')).toMatchObject({ status: 'paused' });
    const here = counts('b');
    await sleep(500);
    expect(counts('b')).toBe(here);
    await untilStatus(b, 'a start', ({ state }) => state === 'unprotected');
    await copy.command('cont');
    await goesOn('b');
    // The node whose machine is gone follows by itself.
    await untilStatus(b, 'protection', ({ state }) => state === 'protected');
    expect(a.progress).toMatchObject({ role: 'backup' });
  });

  it('ends the old machine and follows, when its node comes back after it alone was killed', async () => {
    const { pid } = stage.machineOf('b');
    await killed(b.child);
    await untilStatus(a, 'the copy', ({ role }) => role === 'primary');
    expect(isProcessAlive(pid)).toBe(true);
    b = stage.startNode('b', 'backup');
    await until('the end of the old machine', () => !isProcessAlive(pid));
    await untilStatus(a, 'protection', ({ state }) => state === 'protected');
    await untilStatus(b, 'following', ({ state }) => state === 'following');
    await scrubMatches();
    process.kill(stage.machineOf('a').pid, 'SIGKILL');
    await killed(a.child);
    await untilStatus(b, 'the copy', ({ role }) => role === 'primary');
    await goesOn('b');
  });
});
