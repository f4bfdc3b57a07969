/**
 * What every play does before it strikes: run protected for a random while, and make sure that what
 * is struck is protected at that moment.
 */
import { RomulusError } from '../base/errors.ts';
import type { Prng } from '../base/prng.ts';
import { NAMES, PROTECT_WAIT_MS, type ScrubOutcome, type Theatre } from './theatre.ts';

/** How long the machine runs protected before the strike. */
export const RUN_MS_MIN = 1000;
const RUN_MS_MAX = 3000;
/** How long the survivor runs on before it is examined. */
export const AFTERMATH_MS = 1000;
const FALSE_START_POLL_MS = 50;
/** How often a comparison is tried that the loss of protection broke off. */
const COMPARISONS_MAX = 3;
/** How long both sides see each other again after a partition, before the end. */
export const MENDED_MS = 300;

/**
 * Lets the protected machine run for a random while, to a random point of an epoch.
 * @throws {RomulusError} ERR_HOST_BUSY when the backup took over before anything struck.
 */
export async function runUp(
  theatre: Theatre,
  random: Prng,
  intervalMs: number,
  tell: (text: string) => void,
): Promise<void> {
  await pause(RUN_MS_MIN + random.nextBelow(RUN_MS_MAX - RUN_MS_MIN));
  await pause(random.nextFloat() * intervalMs);
  refuseFalseStart(theatre);
  await awaitProtection(theatre, tell);
}

/** Whose protection is waited for, and since when. */
export interface ProtectionWait {
  readonly index: 0 | 1;
  /** Events of the node before this one do not count. */
  readonly after: number;
  /** How many takeovers there had to be so far. */
  readonly takeovers: number;
}

/**
 * Waits until a node protects the machine: for the first time, unless told otherwise by node 0.
 * @throws {RomulusError} ERR_TIMEOUT_DRILL; ERR_HOST_BUSY when the other one took over meanwhile.
 */
export async function awaitProtected(
  theatre: Theatre,
  { index, after, takeovers }: ProtectionWait = { index: 0, after: 0, takeovers: 0 },
): Promise<void> {
  const protection = theatre
    .node(index)
    .waitForState(['protected'], { withinMs: PROTECT_WAIT_MS, after })
    .then(() => true);
  const turn = (): Promise<boolean> => pause(FALSE_START_POLL_MS).then(() => false);
  while (!(await Promise.race([protection, turn()]))) refuseFalseStart(theatre, takeovers);
}

/**
 * On a busy host protection may have been lost meanwhile, and is being regained: a strike right then
 * would rightly lose what was declared unprotected.
 */
async function awaitProtection(
  theatre: Theatre,
  tell: (text: string) => void,
  { index, takeovers }: Omit<ProtectionWait, 'after'> = { index: 0, takeovers: 0 },
): Promise<void> {
  const primary = theatre.node(index);
  const state = primary.lastState;
  if (state === null || state.state === 'protected' || state.state === 'backlogged') return;
  tell(`${NAMES[index]} is ${state.state} (${state.why}): waiting until it is protected again`);
  await awaitProtected(theatre, { index, after: primary.events.length, takeovers });
}

/**
 * Has both images compared by the primary. A comparison is broken off with the protection, which a busy
 * host may lose for a moment: then it is made anew.
 * @throws {RomulusError} ERR_TIMEOUT_DRILL; ERR_HOST_BUSY when the other one took over meanwhile.
 */
export async function compareImages(
  theatre: Theatre,
  tell: (text: string) => void,
  primary: Omit<ProtectionWait, 'after'> = { index: 0, takeovers: 0 },
): Promise<ScrubOutcome> {
  const node = theatre.node(primary.index);
  for (let left = COMPARISONS_MAX; ; left -= 1) {
    const seen = node.events.length;
    const outcome = await theatre.scrub(primary.index);
    tell(outcome.text);
    const wasDisturbed = node.events.slice(seen).some(({ event }) => event.event === 'state');
    if (outcome.ok || left === 1 || !wasDisturbed) return outcome;
    refuseFalseStart(theatre, primary.takeovers);
    await awaitProtection(theatre, tell, primary);
  }
}

/**
 * Nobody took over but who had to.
 * @throws {RomulusError} ERR_HOST_BUSY when the backup took over before anything struck.
 */
export function refuseFalseStart(theatre: Theatre, expected = 0): void {
  const first = theatre.takeovers()[expected];
  if (first === undefined) return;
  throw new RomulusError('ERR_HOST_BUSY', 'the backup took over before anything struck', {
    remedy: 'This host is too busy for heartbeats of 10 ms: leave it some processor time.',
    details: { promotedEpoch: first.promotedEpoch },
  });
}

/** Sleeps. */
export function pause(durationMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, durationMs));
}

/** Has the side that fell come back; one whose engine lives becomes the backup by itself. */
export async function rejoin(theatre: Theatre, tell: (text: string) => void): Promise<void> {
  if (!theatre.node(0).child.isGone()) {
    tell('the engine of the fallen side lives, and follows by itself');
    return;
  }
  tell('the fallen side is started again by the same command');
  await theatre.startNode(0);
}
