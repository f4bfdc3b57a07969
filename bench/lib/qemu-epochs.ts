/**
 * Checkpoints of a real QEMU machine, taken as the capture thread takes them, for measuring: the same
 * native conversation, trackers and captures, without an engine around it. `bare` pauses have nothing
 * of ours in them: `stop`, `xen-save-devices-state` and `cont`, pipelined, as anybody would ask for them.
 *
 * Every pause is the time between QEMU's events STOP and RESUME, as QEMU stamps them.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Prng } from '../../src/base/prng.ts';
import { MIB, PAGE_BYTES } from '../../src/base/units.ts';
import { AheadPolicy } from '../../src/engine/ahead-policy.ts';
import { attachQemu } from '../../src/guests/qemu/attach.ts';
import type { QmpEvent } from '../../src/guests/qemu/qmp/messages.ts';
import type { QemuGuest } from '../../src/guests/qemu/qemu-guest.ts';
import { Capture } from '../../src/native/capture.ts';
import { Memory } from '../../src/native/memory.ts';
import { Baseline, type EncodeMode } from '../../src/native/page-store.ts';
import { Tracker } from '../../src/native/tracker.ts';
import { percentile, rounded } from './result.ts';

/** `ahead` is what the engine does; `straight` copies everything in the pause. */
export type EpochMode = 'bare' | 'straight' | 'ahead';

/** One pause, milliseconds and pages. */
export interface PauseSample {
  /** When it was taken, by `performance.now()`. */
  readonly atMs: number;
  readonly pauseMs: number;
  readonly stopMs: number;
  readonly scanMs: number;
  readonly copyMs: number;
  readonly stateMs: number;
  readonly resumeMs: number;
  readonly aheadPages: number;
  readonly pausePages: number;
  readonly sentBytes: number;
}

/** Large blocks are captured by two threads, as in the engine. */
const SHARED_WORK_BYTES_MIN = 16 * MIB;
/** The machine's bursts and our epochs must not run in step. */
const JITTER_SHARE = 0.4;

/** A machine with everything attached that a checkpoint needs. */
export class QemuEpochs {
  readonly guest: QemuGuest;
  readonly #tracker: Tracker;
  readonly #captures: readonly Capture[];
  readonly #baselines: readonly Baseline[];
  readonly #memories: readonly (Memory | null)[];
  readonly #policy = new AheadPolicy();
  readonly #random = new Prng(1);
  readonly #bareDirectory = mkdtempSync('/dev/shm/romulus-bench-');
  #epoch = 0;

  private constructor(guest: QemuGuest) {
    this.guest = guest;
    const { pid, blocks } = guest;
    this.#tracker = new Tracker({
      pid,
      ranges: blocks.map(({ address, bytes }) => ({ address, bytes })),
      kind: 'auto',
    });
    this.#memories = blocks.map(({ sharedPath, bytes }) =>
      sharedPath === null ? null : Memory.map({ path: sharedPath, bytes, writable: false }),
    );
    this.#captures = blocks.map(({ bytes }, block) => {
      const memory = this.#memories[block] ?? null;
      return new Capture({
        tracker: this.#tracker,
        block,
        threads: bytes >= SHARED_WORK_BYTES_MIN ? 2 : 1,
        ...(memory !== null && { memory }),
      });
    });
    this.#baselines = blocks.map(({ bytes }) => new Baseline({ pages: bytes / PAGE_BYTES }));
  }

  /** Attaches and takes the base image. */
  static async attach(qmpPath: string): Promise<QemuEpochs> {
    const epochs = new QemuEpochs(
      await attachQemu({ qmpPath, diskMode: 'none', holdsOutput: false }),
    );
    for (const [block, capture] of epochs.#captures.entries()) {
      capture.capture({ full: true });
      epochs.#encode(block, capture.staged(), 'base');
      capture.trim();
    }
    return epochs;
  }

  /** Pages of the machine that are populated, as the base image found them: what a scan walks. */
  get populatedPages(): number {
    let pages = 0;
    for (const capture of this.#captures) pages += capture.capture({ full: true }).pages;
    return pages;
  }

  /** Checkpoints in turn, one of each mode, about `periodMs` apart. */
  async series(
    modes: readonly EpochMode[],
    options: { rounds: number; periodMs: number },
  ): Promise<Map<EpochMode, PauseSample[]>> {
    const samples = new Map<EpochMode, PauseSample[]>(modes.map((mode) => [mode, []]));
    for (let round = 0; round < options.rounds; round += 1)
      for (const mode of modes) {
        const jitter = 1 + JITTER_SHARE * (this.#random.nextFloat() - 0.5);
        await sleep(options.periodMs * jitter);
        samples.get(mode)?.push(await this.#take(mode));
      }
    return samples;
  }

  /** Lets go of the machine. */
  async close(): Promise<void> {
    for (const capture of this.#captures) capture.close();
    this.#tracker.close();
    for (const memory of this.#memories) memory?.close();
    for (const baseline of this.#baselines) baseline.close();
    await this.guest.detach();
    rmSync(this.#bareDirectory, { recursive: true, force: true });
  }

  async #take(mode: EpochMode): Promise<PauseSample> {
    let scanMs = 0;
    let copyMs = 0;
    let pausePages = 0;
    const copyAhead = (): number =>
      this.#captures.reduce((pages, capture) => pages + capture.captureAhead().pages, 0);
    const rounds = mode === 'ahead' ? this.#policy.copyAhead(copyAhead) : [];
    const capture = (): void => {
      for (const pages of this.#captures) {
        const stats = pages.capture();
        pausePages += stats.pages;
        scanMs += stats.scanNs / 1e6;
        copyMs += stats.copyNs / 1e6;
      }
    };
    const atMs = performance.now();
    const report = mode === 'bare' ? await this.#bare() : await this.guest.pause(capture);
    if (mode === 'ahead') this.#policy.record({ rounds, pausePages, scanMs });
    let sentBytes = 0;
    this.#epoch += 1;
    // A bare pause leaves the dirty set: the next checkpoint must not find two.
    if (mode === 'bare') for (const capture of this.#captures) capture.capture();
    for (const [block, capture] of this.#captures.entries()) {
      sentBytes += this.#encode(block, capture.staged());
    }
    const { pauseMs, stopMs, stateMs, resumeMs } = report;
    return {
      atMs,
      pauseMs,
      stopMs,
      scanMs,
      copyMs,
      stateMs,
      resumeMs,
      aheadPages: rounds.reduce((pages, round) => pages + round, 0),
      pausePages,
      sentBytes,
    };
  }

  /**
   * What QEMU alone needs to stop a machine, save its state and let it run on. Answers carry no stamp of
   * QEMU's, so the parts are by when events and answers were read here; the whole is by its stamps.
   */
  async #bare(): Promise<Pick<PauseSample, 'pauseMs' | 'stopMs' | 'stateMs' | 'resumeMs'>> {
    const { monitor } = this.guest;
    const stampedMs = new Map<string, number>();
    const readMs = new Map<string, number>();
    const unlisten = monitor.onEvent((event) => {
      stampedMs.set(event.event, (event as QmpEvent).timestampMs);
      readMs.set(event.event, performance.now());
    });
    const answered = async (command: string, words?: object): Promise<number> => {
      await monitor.command(command, words);
      return performance.now();
    };
    const filename = join(this.#bareDirectory, 'state');
    const stop = answered('stop');
    const save = answered('xen-save-devices-state', { filename, live: false });
    const stoppedMs = await stop;
    // Carried out as soon as the state is saved.
    const [savedMs] = await Promise.all([save, answered('cont')]);
    unlisten();
    const between = (times: ReadonlyMap<string, number>): number =>
      (times.get('RESUME') ?? Number.NaN) - (times.get('STOP') ?? Number.NaN);
    return {
      pauseMs: between(stampedMs),
      stopMs: stoppedMs - (readMs.get('STOP') ?? Number.NaN),
      stateMs: savedMs - stoppedMs,
      resumeMs: (readMs.get('RESUME') ?? Number.NaN) - savedMs,
    };
  }

  #encode(
    block: number,
    staged: ReturnType<Capture['staged']>,
    mode: EncodeMode = 'delta',
  ): number {
    const { batches } = (this.#baselines[block] ?? neverBlock(block)).encode(staged, {
      blockId: block,
      epoch: this.#epoch,
      mode,
    });
    return batches.reduce((sum, batch) => sum + batch.byteLength, 0);
  }
}

function neverBlock(block: number): never {
  throw new RangeError(`no block ${block}`);
}

/** Medians of a series, and the tail of the pause. */
export function spreadOf(
  samples: readonly PauseSample[],
): Record<Exclude<keyof PauseSample, 'atMs'>, number> & { pauseP99Ms: number } {
  const median = (key: keyof PauseSample): number =>
    rounded(
      percentile(
        samples.map((sample) => sample[key]),
        0.5,
      ),
    );
  return {
    pauseMs: median('pauseMs'),
    pauseP99Ms: rounded(
      percentile(
        samples.map(({ pauseMs }) => pauseMs),
        0.99,
      ),
    ),
    stopMs: median('stopMs'),
    scanMs: median('scanMs'),
    copyMs: median('copyMs'),
    stateMs: median('stateMs'),
    resumeMs: median('resumeMs'),
    aheadPages: median('aheadPages'),
    pausePages: median('pausePages'),
    sentBytes: median('sentBytes'),
  };
}
