/**
 * The register: the one word an arbiter keeps for each guest, and the only ways it may change.
 *
 * The word says which instance runs and which instance, if any, could take over. It is changed by
 * compare-and-set of the whole word only, and every change adds one to the generation, so that a
 * member acting on an old word can never win. An *instance* is a node's name plus a fresh random
 * id for each image the node holds: a backup that starts again holds another image and is another
 * instance, which the word does not name.
 *
 * | from        | to            | transition  | by                                               |
 * |-------------|---------------|-------------|--------------------------------------------------|
 * | (absent)    | (1, P, -)     | startAlone  | P                                                |
 * | (g, P, -)   | (g+1, P, B)   | pair        | P, once B acknowledged a whole image             |
 * | (g, P, B)   | (g+1, B, -)   | promote     | B, once its promises ran out and P seems dead    |
 * | (g, P, any) | (g+1, P, -)   | solo        | P, which lost B, or whose engine started again   |
 * | (g, any, any) | (g+1, B, -) | force       | B, when an operator says so                      |
 *
 * `solo` from (g, P, -) exists for one reason: a request to pair whose sender died may still be on
 * its way, and a new generation makes it fail.
 *
 * This module holds no state and asks nobody; `register-client.ts` does the asking.
 */
import { assert } from '../base/assert.ts';
import { asGeneration, type Generation } from '../base/units.ts';

/** A node's name plus a fresh random id for the image it holds, for instance `b#5f21c0de`. */
export type Instance = string;

/** Longest name of an instance in UTF-16 units; it travels with a one-byte count. */
export const INSTANCE_CHARACTERS_MAX = 120;

/**
 * Who decides when the two sides lose sight of each other.
 *
 * - `arbiter`: the register, a place outside both.
 * - `promote`: nobody; the backup takes over once it was told that it is paired, and therefore
 *   the primary holds its output for ever when it loses that backup.
 * - `hold`: nobody; the primary goes on alone, and therefore no backup promotes itself.
 *
 * Without an arbiter the engine keeps each node's own word in its state directory, where a
 * compare-and-set has no competitor and wins.
 */
export type OnSilence = 'arbiter' | 'promote' | 'hold';

/** The arbiter's word for one guest. */
export interface RegisterWord {
  /** Grows by one with every change of the word. */
  readonly generation: Generation;
  /** The instance that may run with its output open. */
  readonly runner: Instance;
  /** The instance that may promote itself, or null while the runner is alone. */
  readonly partner: Instance | null;
}

/** True when both are absent, or both say the same in every field. */
export function sameWord(left: RegisterWord | null, right: RegisterWord | null): boolean {
  if (left === null || right === null) return left === right;
  return (
    left.generation === right.generation &&
    left.runner === right.runner &&
    left.partner === right.partner
  );
}

/** The first word of a guest: the instance runs alone. */
export function startAlone(runner: Instance): RegisterWord {
  return word(1, runner, null);
}

/** The runner takes the partner, which holds a whole image. */
export function pair(current: RegisterWord, partner: Instance): RegisterWord {
  assert(current.partner === null, 'the runner pairs only when it is alone');
  assert(current.runner !== partner, 'an instance cannot be its own partner');
  return word(current.generation + 1, current.runner, partner);
}

/** The partner becomes the runner. */
export function promote(current: RegisterWord): RegisterWord {
  assert(current.partner !== null, 'only a named partner may be promoted');
  return word(current.generation + 1, current.partner, null);
}

/** The runner goes on alone, and whatever was asked of the current word fails. */
export function solo(current: RegisterWord): RegisterWord {
  return word(current.generation + 1, current.runner, null);
}

/** An operator makes the instance the runner whatever the word says; output may be lost. */
export function force(current: RegisterWord | null, runner: Instance): RegisterWord {
  return word((current?.generation ?? 0) + 1, runner, null);
}

/** True when one of the transitions above leads from one word to the other. */
export function isTransition(from: RegisterWord | null, to: RegisterWord): boolean {
  if (!isRegisterWord(to)) return false;
  if (from === null) return to.generation === 1 && to.partner === null;
  if (to.generation !== from.generation + 1) return false;
  // Only a runner that was alone may take a partner; all else leaves the runner alone.
  return to.partner === null || (to.runner === from.runner && from.partner === null);
}

/** Checks a word that came from outside: a file, a key, a message. */
export function isRegisterWord(value: unknown): value is RegisterWord {
  if (typeof value !== 'object' || value === null) return false;
  const { generation, runner, partner } = value as Record<string, unknown>;
  return (
    Number.isSafeInteger(generation) &&
    (generation as number) >= 1 &&
    isInstance(runner) &&
    (partner === null || isInstance(partner)) &&
    runner !== partner
  );
}

/** Checks the form of an instance's name. */
export function isInstance(value: unknown): value is Instance {
  return typeof value === 'string' && value !== '' && value.length <= INSTANCE_CHARACTERS_MAX;
}

/** The word as people read it: `(3, a#1, b#2)`. */
export function describeWord(value: RegisterWord | null): string {
  if (value === null) return '(absent)';
  return `(${value.generation}, ${value.runner}, ${value.partner ?? '-'})`;
}

function word(generation: number, runner: Instance, partner: Instance | null): RegisterWord {
  assert(isInstance(runner), `not an instance: ${runner}`);
  assert(partner === null || isInstance(partner), `not an instance: ${partner}`);
  return { generation: asGeneration(generation), runner, partner };
}
