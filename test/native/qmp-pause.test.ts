/**
 * The conversation of a pause, with a fake QEMU in a process of its own that does what a real one does
 * rarely: it is late, refuses, hangs up, goes on by itself, or does not go on.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { afterEach, describe, expect, it } from 'vitest';
import { DEVICE_STATE_BYTES_MAX } from '../../src/codec/limits.ts';
import { descriptorOf } from '../../src/native/descriptors.ts';
import { GUARDIAN_PAGE_BYTES } from '../../src/native/guardian-link.ts';
import { Memory } from '../../src/native/memory.ts';
import {
  type PauseTaken,
  QmpPause,
  releaseAbandonedPipes,
  StatePipe,
} from '../../src/native/qmp-pause.ts';
import { skipAnywhere } from '../support/require.ts';

const FAKE = new URL('../fixtures/fake-qemu.mjs', import.meta.url).pathname;
const MIB = 1024 * 1024;
/** More than the fake's lateness. */
const PATIENT_MS = 5000;
const HELD_SINCE_OFFSET = 16;

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

interface Fake {
  readonly pause: QmpPause;
  readonly pipe: StatePipe;
  readonly page: Memory;
  /** On which it says that a save which was late is done, and told. */
  readonly stdout: Readable;
}

async function start(
  mode: string,
  options: {
    timeoutMs?: number;
    rescueMs?: number;
    stateBytes?: number;
    saverPid?: number | undefined;
  } = {},
): Promise<Fake> {
  const directory = mkdtempSync(join(tmpdir(), 'romulus-pause-'));
  cleanups.push(() => rmSync(directory, { recursive: true, force: true }));
  const path = join(directory, 'qmp.sock');
  const child = spawn(process.execPath, [FAKE, path, mode, String(options.stateBytes ?? 40_000)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const gone = once(child, 'exit');
  cleanups.push(async () => {
    child.kill('SIGKILL');
    await gone;
  });
  await once(child.stdout, 'data');
  const socket = connect(path);
  cleanups.push(() => socket.destroy());
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  const { uid, gid } = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
  const pipe = new StatePipe(directory, { uid, gid });
  const page = Memory.create({ name: 'test-page', bytes: GUARDIAN_PAGE_BYTES });
  const pause = new QmpPause({
    descriptor: descriptorOf(socket),
    pipe,
    page,
    pid: options.saverPid ?? child.pid ?? 0,
    timeoutMs: options.timeoutMs ?? PATIENT_MS,
    rescueMs: options.rescueMs ?? PATIENT_MS,
  });
  cleanups.push(() => {
    pause.close();
    pipe.close();
    page.close();
    expect(existsSync(pipe.path)).toBe(false);
  });
  return { pause, pipe, page, stdout: child.stdout };
}

/** One pause, and in which order what happened. */
function take({ pause }: Fake, stallMs = 0): { taken: PauseTaken; steps: string[] } {
  const steps: string[] = [];
  const taken = pause.take(
    () => {
      steps.push('stopped');
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, stallMs);
    },
    () => {
      steps.push('meanwhile');
    },
  );
  return { taken, steps };
}

function expectWhole(state: Uint8Array, bytes: number): void {
  expect(state.byteLength).toBe(bytes);
  const view = new DataView(state.buffer, state.byteOffset, state.byteLength);
  for (let at = 0; at + 8 <= bytes; at += 8)
    if (view.getBigUint64(at, true) !== BigInt(at)) throw new Error(`byte ${at} is out of place`);
}

const IS_ANY_CPU_OURS = cpus().length > 1 && availableParallelism() === cpus().length;
const ASIDE_TURNS_MAX = 500;

/** On which this thread may run. */
const allowedCpus = (): string =>
  /^Cpus_allowed:\s*(\S+)/mu.exec(readFileSync('/proc/thread-self/status', 'utf8'))?.[1] ?? '';

const heldSince = ({ page }: Fake): bigint =>
  Buffer.from(page.read(HELD_SINCE_OFFSET, 8)).readBigUInt64LE();

describe('a pause', () => {
  it.each([1000, 40_000, 125_000, 900_000, 3 * MIB])(
    'holds a QEMU with a state of %d bytes until the capture is done, time after time',
    async (stateBytes) => {
      const fake = await start('usual', { stateBytes });
      const cpus = allowedCpus();
      for (let round = 0; round < 4; round += 1) {
        const { taken, steps } = take(fake, 30);
        expect(taken.outcome).toBe('done');
        expect(steps).toEqual(['stopped', 'meanwhile']);
        expectWhole(taken.deviceState, stateBytes);
        expect(taken.resumedMs - taken.stoppedMs).toBeGreaterThan(30);
        expect(taken.stoppedMs).toBeLessThanOrEqual(taken.heldMs);
        expect(taken.capturedMs).toBeLessThanOrEqual(taken.savedMs);
        expect(taken.savedMs).toBeLessThanOrEqual(taken.resumedMs);
        expect(heldSince(fake)).toBe(0n);
        expect(allowedCpus()).toBe(cpus);
        const lines = taken.foreign.toString().trim().split('\n');
        expect(lines.map((line) => (JSON.parse(line) as { event: string }).event)).toEqual([
          'STOP',
          'NIC_RX_FILTER_CHANGED',
          'RESUME',
        ]);
      }
    },
  );

  if (!IS_ANY_CPU_OURS)
    skipAnywhere('captures off a CPU', 'not every processor is ours, or there is one');
  it.runIf(IS_ANY_CPU_OURS)('is captured off the CPU of the thread that saves', async () => {
    // Of savers that keep one CPU each, one is on ours whichever that is.
    const savers = cpus().map((_, cpu) =>
      spawn('taskset', ['--cpu-list', String(cpu), process.execPath, '-e', 'for (;;);'], {
        stdio: 'ignore',
      }),
    );
    cleanups.push(async () => {
      const gone = savers.map((child) => once(child, 'exit'));
      for (const child of savers) child.kill('SIGKILL');
      await Promise.all(gone);
    });
    const fakes = await Promise.all(savers.map(({ pid }) => start('usual', { saverPid: pid })));
    const usual = allowedCpus();
    const isAside = (fake: Fake): boolean => {
      try {
        fake.pause.take(
          () => {
            if (allowedCpus() !== usual) throw new Error('aside');
          },
          () => undefined,
        );
      } catch (error) {
        expect((error as Error).message).toBe('aside');
        return true;
      } finally {
        // Whether it ended well or not.
        expect(allowedCpus()).toBe(usual);
      }
      return false;
    };
    let turns = 1;
    while (turns < ASIDE_TURNS_MAX && !fakes.some((fake) => isAside(fake))) turns += 1;
    expect(turns).toBeLessThan(ASIDE_TURNS_MAX);
  });

  it('cuts a state off that is larger than any can be', async () => {
    const fake = await start('usual', { stateBytes: DEVICE_STATE_BYTES_MAX + 2 * MIB });
    const { taken } = take(fake);
    expect(taken.deviceState.byteLength).toBe(DEVICE_STATE_BYTES_MAX + 1);
  });

  it('leaves a machine alone that does not run', async () => {
    const { taken, steps } = take(await start('standing'));
    expect(taken.outcome).toBe('notRunning');
    expect(steps).toEqual([]);
  });

  it.each(['refusing', 'refusingStopped'])('tells that QEMU is %s', async (mode) => {
    const { taken, steps } = take(await start(mode));
    expect(taken.outcome).toBe('saveRefused');
    expect(taken.refusal).toMatch(/no such file|IO error/);
    expect(steps).toEqual([]);
  });

  it('resumes a machine that QEMU stopped for it and left so', async () => {
    const { taken } = take(await start('staying'));
    expect(taken.outcome).toBe('done');
    expect(taken.foreign.toString()).toContain('CONT_WAS_SENT');
  });

  it.each(['paused', 'pausedJustAfter'])(
    'does not resume a machine that its user paused: %s',
    async (mode) => {
      const { taken } = take(await start(mode));
      expect(taken.outcome).toBe('done');
      expect(taken.foreign.toString()).not.toContain('CONT_WAS_SENT');
    },
  );

  it.each(['eager', 'tooQuick'])('is none when QEMU is %s', async (mode) => {
    const { taken } = take(await start(mode), 100);
    expect(taken.outcome).toBe('ranOn');
  });

  it('is over when QEMU hangs up', async () => {
    const fake = await start('hangingUp');
    expect(take(fake, 100).taken.outcome).toBe('lost');
    expect(heldSince(fake)).toBe(0n);
  });

  it('waits for a QEMU that is late, and says so', async () => {
    const fake = await start('late', { timeoutMs: 100 });
    const { taken, steps } = take(fake);
    expect(taken.outcome).toBe('timeout');
    expect(steps).toEqual([]);
    expect(heldSince(fake)).toBe(0n);
  });

  it('does not take what a late QEMU says for the next answer, nor its state for the next', async () => {
    const fake = await start('late', { timeoutMs: 100, rescueMs: 100 });
    expect(take(fake).taken.outcome).toBe('timeout');
    // It is still held, as far as a guardian knows: who reads for us when we do not.
    expect(heldSince(fake)).not.toBe(0n);
    await once(fake.stdout, 'data');
    const { taken } = take(fake);
    // Late again; what came of the first was not its answer.
    expect(taken.outcome).toBe('timeout');
    expect(taken.deviceState.byteLength).toBe(0);
  });

  it('lets the machine go when the capture throws, and is in step after it', async () => {
    const fake = await start('usual');
    expect(() =>
      fake.pause.take(
        () => {
          throw new Error('no capture today');
        },
        () => undefined,
      ),
    ).toThrow('no capture today');
    expect(fake.pause.takeForeign().toString()).toContain('RESUME');
    expect(take(fake).taken.outcome).toBe('done');
  });

  it('tells what was done with a machine that runs when encoding throws', async () => {
    const fake = await start('usual');
    take(fake);
    expect(() =>
      fake.pause.take(
        () => undefined,
        () => {
          throw new Error('no encoding today');
        },
      ),
    ).toThrow('no encoding today');
    expect(fake.pause.takeForeign().toString()).toContain('RESUME');
    expect(take(fake).taken.outcome).toBe('done');
  });
});

describe('pipes that nobody has any more', () => {
  it('are let go and removed; those of living processes are not', async () => {
    const parent = mkdtempSync(join(tmpdir(), 'romulus-pipes-'));
    cleanups.push(() => rmSync(parent, { recursive: true, force: true }));
    const user = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
    const alive = mkdtempSync(join(parent, 'x-'));
    const pipe = new StatePipe(alive, user);
    cleanups.push(() => pipe.close());
    const dead = mkdtempSync(join(parent, 'x-'));
    chmodSync(dead, 0o711);
    execFileSync('mkfifo', [join(dead, 's')]);
    const listener = createServer().listen(join(dead, 'learn-1.sock'));
    cleanups.push(() => listener.close());
    await once(listener, 'listening');
    const empty = mkdtempSync(join(parent, 'x-'));
    expect(releaseAbandonedPipes(parent, 'x-')).toBe(1);
    expect(existsSync(dead)).toBe(false);
    expect(existsSync(pipe.path)).toBe(true);
    // Somebody may be about to use it.
    expect(existsSync(empty)).toBe(true);
    expect(releaseAbandonedPipes(parent, 'x-')).toBe(0);
  });
});
