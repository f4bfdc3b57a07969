/**
 * Goal: an engine that is frozen holds its machine up no longer than a bound, whatever QEMU waits on,
 * and finds its way back when it is thawed. Method: a real QEMU whose guest says frames or writes to
 * its disk as fast as it can, SIGSTOP, and the machine watched through its user's monitor.
 */
import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { NodeProcess } from '../../src/drill/node-process.ts';
import { VIRTIO_MODULES } from '../../src/drill/qemu/guest-image.ts';
import type { QmpClient } from '../../src/guests/qemu/qmp/qmp-client.ts';
import { BEAT_MS, STALL_MS_MAX } from '../../src/native/guardian-link.ts';
import { LuckStage, type Side, until, untilStatus, WAIT_MS } from '../support/qemu/luck-stage.ts';
import { requireQemu } from '../support/qemu/require-qemu.ts';
import { wireNetdev } from '../support/qemu/wire.ts';

const hasQemu = await requireQemu();
const MIB = 1024 * 1024;
/** How long an engine is frozen; long enough for the guardian to have done all it does. */
const FROZEN_MS = 8 * STALL_MS_MAX;
/**
 * Beyond the bound: a look of the guardian, and what a busy host adds. A guardian that itself stood
 * still gives the engine as long again, so it is several times the bound; who is never freed is held up
 * for as long as the engine is frozen.
 */
const LATE_MS = 4500;
/** For answers of a machine that is held up: how long it was is what is asked. */
const PATIENT = { timeoutMs: 2 * FROZEN_MS };
const LOOK_MS = 10;
const MODULES = `romulus.modules=${VIRTIO_MODULES.join()}`;

describe.runIf(hasQemu)('a frozen engine', { timeout: 4 * WAIT_MS }, () => {
  let stage: LuckStage;
  beforeEach(async () => {
    stage = await LuckStage.open();
  });
  afterEach(() => stage.close());

  const stateIs = (node: NodeProcess, state: string): Promise<void> =>
    untilStatus(node, state, (status) => status.state === state);

  /** Freezes the engine, and gives the longest time for which `step` did not see the machine go on. */
  async function longestStallMs(node: NodeProcess, step: () => Promise<boolean>): Promise<number> {
    node.child.process.kill('SIGSTOP');
    const fromMs = performance.now();
    let wentOnMs = fromMs;
    let longestMs = 0;
    while (performance.now() - fromMs < FROZEN_MS) {
      const goesOn = await step();
      const nowMs = performance.now();
      longestMs = Math.max(longestMs, nowMs - wentOnMs);
      if (goesOn) wentOnMs = nowMs;
      await sleep(LOOK_MS);
    }
    return longestMs;
  }

  /** How often it has put filters into the machine. */
  function attachments(node: NodeProcess): number {
    return stage.logOf(node.child).split('output is held').length - 1;
  }

  /** Sees whether the guest's writes to its disk have been answered since the last look. */
  function writesOf(user: QmpClient): () => Promise<boolean> {
    let before = -1;
    return async () => {
      const all = (await user.command('query-blockstats', {}, PATIENT)) as {
        device?: string;
        stats: { wr_operations: number };
      }[];
      const now = all.find(({ device }) => device === 'dr0')?.stats.wr_operations ?? -1;
      const goesOn = before >= 0 && now > before;
      before = now;
      return goesOn;
    };
  }

  async function startWriting(): Promise<Record<Side, Record<string, string>>> {
    const drives = { a: { dr0: stage.path('a.img') }, b: { dr0: stage.path('b.img') } };
    writeFileSync(drives.a.dr0, Buffer.alloc(16 * MIB));
    await stage.startMachine({
      run: ['disk'],
      kernelArgs: [MODULES, 'romulus.disk=200/8'],
      extraArgs: [
        '-drive',
        `if=none,id=dr0,file=${drives.a.dr0},format=raw`,
        '-device',
        'virtio-blk-pci,drive=dr0,id=vd0',
      ],
    });
    return drives;
  }

  /** The guest's own checker goes on, and found nothing wrong. */
  async function writesOn(side: Side): Promise<void> {
    expect(await stage.diskComplaints(side)).toEqual([]);
  }

  /** On an idle host it is a little more than the bound. */
  function expectBounded(stallMs: number): void {
    expect(stallMs).toBeLessThan(STALL_MS_MAX + BEAT_MS + LATE_MS);
  }

  /** Shorter: nothing waited for the engine, and the test shows nothing. */
  function expectFelt(stallMs: number): void {
    expect(stallMs).toBeGreaterThan(STALL_MS_MAX / 2);
  }

  it('that reads the frames of a flood lets go of QEMU, and holds its output anew', async () => {
    await stage.startMachine({
      run: ['frames', 'counter'],
      kernelArgs: [MODULES, 'romulus.frames=0/9000'],
      extraArgs: [
        ...wireNetdev('n0', stage.path('wire-a')),
        '-device',
        'virtio-net-pci,netdev=n0,id=nic0,host_mtu=9000',
      ],
    });
    const heard = await stage.wireAt('wire-a');
    const node = stage.startNode('a', 'protect');
    await stateIs(node, 'unprotected');
    await until('frames', () => heard.last > 100);
    const user = await stage.userMonitor();
    expect(attachments(node)).toBe(1);
    expectBounded(
      await longestStallMs(node, async () => {
        await user.command('query-status', {}, PATIENT);
        return true;
      }),
    );
    node.child.process.kill('SIGCONT');
    await until('another attachment', () => attachments(node) > 1);
    const before = heard.last;
    await until('frames again', () => heard.last > before + 100);
    expect(node.child.isGone()).toBe(false);
  });

  it('that follows a disk lets the writes go on, and its backup gets a new copy', async () => {
    const drives = await startWriting();
    const a = stage.startNode('a', 'protect', { drives: drives.a });
    const first = stage.startNode('b', 'backup', { drives: drives.b });
    await stateIs(a, 'protected');
    first.child.process.kill('SIGKILL');
    await first.child.gone;
    await stateIs(a, 'unprotected');
    await writesOn('a');
    const stallMs = await longestStallMs(a, writesOf(await stage.userMonitor()));
    expectFelt(stallMs);
    expectBounded(stallMs);
    a.child.process.kill('SIGCONT');
    await writesOn('a');
    stage.startNode('b', 'backup', { drives: drives.b });
    await stateIs(a, 'protected');
    await writesOn('a');
    expect(a.child.isGone()).toBe(false);
  });

  it('that is succeeded meanwhile lets the writes go on, and fences when it is thawed', async () => {
    const drives = await startWriting();
    // Hardly ever in a pause, which only the engine itself ends while it lives.
    const extra = ['--interval', '5s'];
    const a = stage.startNode('a', 'protect', { drives: drives.a, extra });
    const b = stage.startNode('b', 'backup', { drives: drives.b, extra });
    await stateIs(a, 'protected');
    await writesOn('a');
    const stallMs = await longestStallMs(a, writesOf(await stage.userMonitor()));
    expectFelt(stallMs);
    expectBounded(stallMs);
    await untilStatus(b, 'a takeover', ({ role }) => role === 'primary');
    a.child.process.kill('SIGCONT');
    // The loser ends its machine, and follows.
    await stateIs(b, 'protected');
    expect(a.progress?.role).toBe('backup');
    await writesOn('b');
  });
});
