/**
 * What the register's word means for a backup that takes its primary for dead.
 */
import { NO_GENERATION } from '../base/units.ts';
import { force, type Instance, promote, type RegisterWord } from './register.ts';

/** What the backup knows beside the word. */
export interface SuspectedPair {
  /** Whose image it holds. */
  readonly instance: Instance;
  /** The primary that gave it the image. */
  readonly runner: Instance | null;
  /** The word under which it was told that it is paired, if it was. */
  readonly pairedWord: RegisterWord | null;
  /** Highest generation heard of before this word was read. */
  readonly generation: number;
  readonly isForced: boolean;
  /** False when the word is this node's own (no arbiter), which knows less than the primary. */
  readonly isShared: boolean;
}

export type Conclusion =
  | { readonly kind: 'promote'; readonly from: RegisterWord | null; readonly to: RegisterWord }
  /** Read before a change that we have since been told of. */
  | { readonly kind: 'outdated' }
  /** Not paired yet: the primary may have asked to pair before it died. */
  | { readonly kind: 'notYet' }
  /** The image may never run. */
  | { readonly kind: 'lost' };

export function conclude(word: RegisterWord | null, pair: SuspectedPair): Conclusion {
  const { instance, runner, pairedWord, generation, isForced, isShared } = pair;
  if (isShared && (word?.generation ?? NO_GENERATION) < generation) return { kind: 'outdated' };
  if (word?.partner === instance) return { kind: 'promote', from: word, to: promote(word) };
  if (isForced) {
    const from = isShared ? word : (pairedWord ?? word);
    return { kind: 'promote', from, to: force(from, instance) };
  }
  const mayPairYet =
    word !== null &&
    word.partner === null &&
    word.runner === runner &&
    word.generation === generation &&
    pairedWord === null;
  return { kind: mayPairYet ? 'notYet' : 'lost' };
}
