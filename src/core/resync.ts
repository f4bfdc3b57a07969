/**
 * How a backup that introduces itself gets its image: the cheapest way that is provably right.
 *
 * 1. `resume`: the register still names the very instance as partner, and every epoch it misses
 *    can be sent again.
 * 2. `changed`: its whole image stands at an epoch of this machine's, and the engine can prove
 *    what changed since. The result is a new image, hence a new instance.
 * 3. `full`: everything.
 *
 * An image made for another machine is never overwritten: that backup dialled the wrong primary.
 */
import { asEpoch, type Epoch, NO_EPOCH } from '../base/units.ts';
import type { PrimaryEvent } from './primary-types.ts';
import type { Instance } from './register.ts';

export type BackupHello = Extract<PrimaryEvent, { kind: 'backupHello' }>;

/** What this primary knows of the images it made. */
export interface ImageFacts {
  /** The instance whose image was last completed from this machine. */
  readonly lastImage: Instance | null;
  readonly acknowledgedEpoch: Epoch;
  readonly takenEpoch: Epoch;
}

/** First epoch to send again so that the partner misses none, or null when that is impossible. */
export function resumeFrom(hello: BackupHello, partner: Instance, facts: ImageFacts): Epoch | null {
  const { holds } = hello;
  if (holds === null || holds.instance !== partner || !hello.descriptorMatches) return null;
  // It acknowledged more than it says it holds, or holds what was never made: not our image.
  if (holds.epoch < facts.acknowledgedEpoch || holds.epoch > facts.takenEpoch) return null;
  const nextEpoch = holds.epoch + 1;
  const isAllKept =
    holds.epoch === facts.takenEpoch ||
    (hello.oldestRetainedEpoch !== null && hello.oldestRetainedEpoch <= nextEpoch);
  return isAllKept ? asEpoch(nextEpoch) : null;
}

/** How a new image is made for it, and for `changed` the epoch the old image stands at. */
export function planImage(
  hello: BackupHello,
  facts: ImageFacts,
): { readonly plan: 'full' | 'changed'; readonly fromEpoch: Epoch } {
  const { holds, provenSinceEpoch } = hello;
  if (
    holds !== null &&
    holds.instance === facts.lastImage &&
    provenSinceEpoch !== null &&
    holds.epoch >= provenSinceEpoch &&
    holds.epoch <= facts.takenEpoch
  ) {
    return { plan: 'changed', fromEpoch: holds.epoch };
  }
  return { plan: 'full', fromEpoch: NO_EPOCH };
}
