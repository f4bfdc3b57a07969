/**
 * What a checkpoint costs a real QEMU machine, split into its parts, beside its floor: stop, device
 * state and cont with nothing of ours. Floors and checkpoints alternate within one run on the
 * same machine, in which a program touches a number of pages in one burst every 100 ms.
 * A witness on each core tells in which of them the cores kept at least half their speed.
 *
 * For the largest set the floor is QEMU's plus a copy of as many pages, non-temporal, by two threads,
 * out of memory that is mapped (the fastest copy there is; the machine's own RAM is not mapped here).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { GIB, MIB } from '../src/base/units.ts';
import { loadNative } from '../src/native/load.ts';
import { Memory, type MemoryHandle } from '../src/native/memory.ts';
import { Tracker, type TrackerHandle } from '../src/native/tracker.ts';
import { PokeMachine } from '../test/fixtures/poke-machine.ts';
import { type GuestOptions, startGuest } from '../test/support/qemu/start-guest.ts';
import { CoreSpeed } from './lib/core-speed.ts';
import { type EpochMode, type PauseSample, QemuEpochs, spreadOf } from './lib/qemu-epochs.ts';
import {
  type BenchResult,
  type Claim,
  numberOf,
  percentile,
  type Row,
  rounded,
} from './lib/result.ts';

const PERIOD_MS = 100;
const WARM_ROUNDS = 5;
const SMALL_RATIO_MAX = 1.25;
const LARGE_RATIO_MAX = 1.6;
const P99_RATIO_MAX = 3;
const SCAN_MS_PER_GIB_MAX = 0.5;
const COPY_ROUNDS = 40;
/** What a pattern leaves to the machine's kernel and programs. */
const UNFILLED_SHARE = 0.3;
const UNFILLED_MIB_MIN = 128;
const UNFILLED_MIB_MAX = 512;
const FILL_WAIT_MS = 180_000;
/** Of what a core takes at its quickest; above it another tenant has most of it. */
const CALM_SLOWNESS_MAX = 2;
/** The cores are looked at for so long before and after a pause. */
const AROUND_MS = 50;
const WITNESS_WAIT_MS = 500;
const MODES: readonly EpochMode[] = ['bare', 'ahead', 'straight'];

interface FloorNative {
  benchCaptureFloor(
    tracker: TrackerHandle,
    memory: MemoryHandle,
    pagesMax: number,
  ): { pages: number; scanNs: number; copyNs: number };
}

export interface QemuPauseOptions {
  readonly dirtySets?: readonly number[];
  readonly memoriesMib?: readonly number[];
  readonly rounds?: number;
  readonly qemu?: string;
}

/** The fastest possible copy of so many scattered pages, milliseconds. */
async function fastestCopyMs(pages: number): Promise<number> {
  const bytes = 512 * MIB;
  const machine = await PokeMachine.start({ kind: 'shared', bytes });
  const memory = Memory.map({ path: machine.sharedPath ?? '', bytes, writable: false });
  const tracker = new Tracker({
    pid: machine.pid,
    ranges: [{ address: machine.address, bytes }],
    kind: 'uffd-wp',
  });
  const samples: number[] = [];
  try {
    await machine.command(`fill 0 ${bytes / 4096}`);
    loadNative<FloorNative>().benchCaptureFloor(tracker.handle, memory.handle, bytes / 4096 + 64);
    for (let round = 0; round < COPY_ROUNDS; round += 1) {
      await machine.command(`random ${pages} ${round * 7919 + 1}`);
      const { copyNs } = loadNative<FloorNative>().benchCaptureFloor(
        tracker.handle,
        memory.handle,
        2 * pages + 64,
      );
      samples.push(copyNs / 1e6);
    }
  } finally {
    tracker.close();
    memory.close();
    await machine.stop();
  }
  return percentile(samples, 0.5);
}

/** The pauses during which the cores kept at least half their speed. */
function calm(samples: readonly PauseSample[], speed: CoreSpeed): PauseSample[] {
  const limit = CALM_SLOWNESS_MAX * speed.quickest;
  return samples.filter(({ atMs }) => {
    const slowness = speed.slowness(atMs - AROUND_MS, atMs + AROUND_MS);
    return slowness !== null && slowness <= limit;
  });
}

async function measure(
  options: GuestOptions & { memoryMib: number },
  dirtySets: readonly number[],
  rounds: number,
): Promise<Row[]> {
  const rows: Record<string, number>[] = [];
  const machine = await startGuest({ run: ['dirty'], ...options });
  const speed = CoreSpeed.start();
  try {
    // It reports for the first time when all its memory is filled.
    if (options.run?.includes('pattern') === true)
      await machine.serial.waitFor('filled memory', (text) => text.startsWith('p ok'), {
        withinMs: FILL_WAIT_MS,
      });
    const epochs = await QemuEpochs.attach(machine.qmpPath);
    try {
      for (const dirty of dirtySets) {
        await machine.command(`set dirty ${dirty}/${PERIOD_MS}ms`);
        await epochs.series(MODES, { rounds: WARM_ROUNDS, periodMs: PERIOD_MS });
        const taken = await epochs.series(MODES, { rounds, periodMs: PERIOD_MS });
        // What the witnesses say of the last pauses is still on its way.
        await sleep(PERIOD_MS + WITNESS_WAIT_MS);
        const calmOnes = (mode: EpochMode): PauseSample[] => calm(taken.get(mode) ?? [], speed);
        const floor = spreadOf(taken.get('bare') ?? []);
        const ours = spreadOf(taken.get('ahead') ?? []);
        const straight = spreadOf(taken.get('straight') ?? []);
        rows.push({
          memoryMib: options.memoryMib,
          dirtyPages: dirty,
          floorMs: floor.pauseMs,
          floorP99Ms: floor.pauseP99Ms,
          floorCalmP99Ms: spreadOf(calmOnes('bare')).pauseP99Ms,
          floorStopMs: floor.stopMs,
          floorStateMs: floor.stateMs,
          floorContMs: floor.resumeMs,
          pauseMs: ours.pauseMs,
          pauseP99Ms: ours.pauseP99Ms,
          pauseCalmP99Ms: spreadOf(calmOnes('ahead')).pauseP99Ms,
          pauses: taken.get('ahead')?.length ?? 0,
          calmPauses: calmOnes('ahead').length,
          stopMs: ours.stopMs,
          scanMs: ours.scanMs,
          copyMs: ours.copyMs,
          stateWaitMs: ours.stateMs,
          contMs: ours.resumeMs,
          aheadPages: ours.aheadPages,
          pausePages: ours.pausePages,
          straightMs: straight.pauseMs,
          straightCopyMs: straight.copyMs,
          sentBytes: ours.sentBytes,
          ratio: rounded(ours.pauseMs / floor.pauseMs),
        });
      }
      const gib = (epochs.populatedPages * 4096) / GIB;
      for (const row of rows) {
        row['populatedGib'] = rounded(gib);
        row['scanMsPerGib'] = rounded(numberOf(row, 'scanMs') / gib);
      }
    } finally {
      await epochs.close();
    }
  } finally {
    speed.close();
    await machine.stop();
  }
  return rows;
}

function claimsOf(rows: readonly Row[], copyMs: number): Claim[] {
  const at = (dirty: number): Row | undefined =>
    rows.find((row) => row['memoryMib'] === 512 && row['dirtyPages'] === dirty);
  const claims: Claim[] = [];
  const small = at(1000);
  if (small !== undefined)
    claims.push({
      what: 'pause of a QEMU machine at 1,000 dirty pages, to its floor',
      measured: numberOf(small, 'ratio'),
      relation: 'at most',
      bound: SMALL_RATIO_MAX,
      unit: '',
    });
  const large = at(16_000);
  if (large !== undefined)
    claims.push({
      what: 'pause at 16,000 dirty pages, to its floor and the fastest copy of them',
      measured: rounded(numberOf(large, 'pauseMs') / (numberOf(large, 'floorMs') + copyMs)),
      relation: 'at most',
      bound: LARGE_RATIO_MAX,
      unit: '',
    });
  for (const row of [small, large])
    if (row !== undefined)
      claims.push({
        what: `p99 of the pause at ${row['dirtyPages']} dirty pages, to its median, while the cores kept half their speed (${row['calmPauses']} of ${row['pauses']} pauses)`,
        measured: rounded(numberOf(row, 'pauseCalmP99Ms') / numberOf(row, 'pauseMs')),
        relation: 'at most',
        bound: P99_RATIO_MAX,
        unit: '',
      });
  const widest = [...rows].sort(
    (left, right) => numberOf(right, 'populatedGib') - numberOf(left, 'populatedGib'),
  )[0];
  if (widest !== undefined)
    claims.push({
      what: `scan in the pause per populated GiB (${widest['populatedGib']} GiB populated)`,
      measured: numberOf(widest, 'scanMsPerGib'),
      relation: 'at most',
      bound: SCAN_MS_PER_GIB_MAX,
      unit: 'ms',
    });
  return claims;
}

/** Dirty sets on a machine of 512 MiB, then 1,000 pages on machines of other sizes. */
export async function run(options: QemuPauseOptions = {}): Promise<BenchResult> {
  const {
    dirtySets = [250, 1000, 4000, 16_000],
    memoriesMib = [256, 1024, 4096],
    rounds = 200,
  } = options;
  const qemu = options.qemu === undefined ? {} : { qemu: options.qemu };
  const copyMs = await fastestCopyMs(16_000);
  const rows = await measure({ memoryMib: 512, ...qemu }, dirtySets, rounds);
  for (const memoryMib of memoriesMib) {
    // A machine that has run for long has used most of its memory.
    const shareMib = Math.min(UNFILLED_MIB_MAX, memoryMib * UNFILLED_SHARE);
    const filledMib = Math.floor(memoryMib - Math.max(UNFILLED_MIB_MIN, shareMib));
    const kernelArgs = [`romulus.pattern=${filledMib}/10`];
    const filled = { memoryMib, run: ['dirty', 'pattern'], kernelArgs, ...qemu };
    rows.push(...(await measure(filled, [1000], Math.ceil(rounds / 3))));
  }
  return {
    name: 'qemu-pause',
    rows,
    claims: claimsOf(rows, copyMs),
    notes: [
      'floorMs: stop, xen-save-devices-state and cont, pipelined, nothing of ours',
      'all pauses: from the event STOP to the event RESUME, as QEMU stamps them; stop: the rest of stopping, until disks and cards are at rest; cont: from when the state is saved until the machine runs, which QEMU does by itself as soon as it is, so that we often hear of the one after the other: then stateWait has both and cont is 0; medians of parts need not add up to the median of the whole',
      'floorCalmP99Ms, pauseCalmP99Ms: of the pauses, calmPauses in number, around which a fixed piece of work in registers, on each core every 4 ms (see qemu-run), took at most twice as long as at its quickest: on a shared host the cores are much slower than that for tenths of a second, whatever runs on them',
      'parts of the floor: by when its events and answers were read by another process, some tens of microseconds late: from the event STOP to the answer to stop, to that to the save, to the event RESUME',
      `the fastest copy of 16,000 pages (two threads, non-temporal, mapped memory): ${rounded(copyMs)} ms`,
      'pages copied ahead of the pause, while the machine runs: aheadPages; in it: pausePages',
      'straightMs: the pause when everything is copied in it',
      'pages of a machine with `pattern` come on top of the dirty set',
    ],
  };
}
