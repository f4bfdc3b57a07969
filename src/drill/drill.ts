/**
 * One drill from start to verdict, whatever the machine: opens its theatre, has the play of its kind
 * played, and clears up. Every wait is bounded; every process and file is gone afterwards, except
 * the evidence of a drill that failed.
 */
import { constants } from 'node:os';
import { toRomulusError } from '../base/errors.ts';
import type { DrillObserver } from './observer.ts';
import type { DrillOptions } from './options.ts';
import { playQemu } from './qemu/qemu-play.ts';
import { QemuTheatre } from './qemu/qemu-theatre.ts';
import type { DrillResult, DrillVerdict } from './result.ts';
import { playSim } from './sim-play.ts';
import { SimTheatre } from './sim-theatre.ts';
import type { OnProgress, Theatre } from './theatre.ts';

type Tell = (text: string) => void;

/** What shells add a signal's number to. */
const SIGNAL_EXIT_BASE = 128;
/** How often a drill begins anew that never came to its strike. */
const FALSE_STARTS_MAX = 2;

interface Performance {
  readonly theatre: Theatre;
  readonly play: () => Promise<DrillVerdict>;
}

async function setStage(
  options: DrillOptions,
  onProgress: OnProgress,
  tell: Tell,
): Promise<Performance> {
  if (options.guest === 'qemu') {
    const theatre = await QemuTheatre.open(options, onProgress, tell);
    return { theatre, play: () => playQemu(theatre, options, tell) };
  }
  const theatre = await SimTheatre.open(options, onProgress);
  return { theatre, play: () => playSim(theatre, options, tell) };
}

/**
 * Stages one failure and judges what came of it. Where the backup took over before anything struck,
 * for the host was too busy to run both, nothing was rehearsed: then it begins anew, a few times, and
 * the result counts how often.
 * @throws {RomulusError} when the drill could not be played to its end; its files are kept then.
 */
export async function runDrill(
  options: DrillOptions,
  observer: DrillObserver,
): Promise<DrillResult> {
  const story: string[] = [];
  const tell = (text: string): void => {
    story.push(text);
    observer.onStory(text);
  };
  for (let falseStarts = 0; ; falseStarts += 1) {
    const isLast = falseStarts === FALSE_STARTS_MAX;
    try {
      return { ...(await runOnce(options, observer, tell, isLast)), story, falseStarts };
    } catch (error) {
      if (isLast || !isFalseStart(error)) throw error;
      tell(`${toRomulusError(error).message}: the drill begins anew`);
    }
  }
}

function isFalseStart(error: unknown): boolean {
  return toRomulusError(error).code === 'ERR_HOST_BUSY';
}

async function runOnce(
  options: DrillOptions,
  observer: DrillObserver,
  tell: Tell,
  isLast: boolean,
): Promise<DrillVerdict & { readonly evidence: string | null }> {
  const { theatre, play } = await setStage(
    options,
    (node, status) => observer.onProgress(node === 0 ? 'a' : 'b', status),
    tell,
  );
  observer.onStart(theatre.stage.directory);
  const interruption = clearUpWhenInterrupted(theatre);
  let keepFiles = true;
  try {
    const verdict = await play();
    keepFiles = options.keep || !verdict.ok;
    return { ...verdict, evidence: keepFiles ? theatre.stage.directory : null };
  } catch (error) {
    // Its processes were ended under it: what then fails is no news, and leaves no evidence.
    await interruption.cleared();
    keepFiles = options.keep || isLast || !isFalseStart(error);
    const where = keepFiles ? `; its files are in ${theatre.stage.directory}` : '';
    tell(`the drill with seed ${options.seed} broke off${where}`);
    throw error;
  } finally {
    await theatre.close({ keepFiles });
    interruption.forget();
  }
}

/** Clears up and ends the process at the signals that ask for it, and as far as possible at any end. */
function clearUpWhenInterrupted(theatre: Theatre): {
  /** Ends with the process once it was interrupted; at once before. */
  readonly cleared: () => Promise<void>;
  readonly forget: () => void;
} {
  let clearing: Promise<void> | null = null;
  const onExit = (): void => theatre.closeNow();
  const onSignal = (signal: 'SIGINT' | 'SIGTERM'): void => {
    clearing ??= theatre
      .close({ keepFiles: false })
      .finally(() => process.exit(SIGNAL_EXIT_BASE + constants.signals[signal]));
  };
  process.once('exit', onExit);
  // Not once: who is told to end is often told twice, and clearing up takes its bounded time.
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  return {
    cleared: async () => await (clearing ?? Promise.resolve()),
    forget: () => {
      process.removeListener('exit', onExit);
      process.removeListener('SIGINT', onSignal);
      process.removeListener('SIGTERM', onSignal);
    },
  };
}
