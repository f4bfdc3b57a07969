/**
 * The rules of safety that the simulation can leave out, one at a time, to show that it would
 * notice. The machines under test are untouched: each switch bends the world around them.
 */
export interface Rules {
  /** The register changes only from the word that was expected. */
  readonly compareAndSet: boolean;
  /** Output leaves only while a promise holds. */
  readonly promise: boolean;
  /** Part of each promise is not counted on. */
  readonly driftMargin: boolean;
  /** A backup that asks to be promoted promises nothing. */
  readonly silenceWhileAsking: boolean;
  /** A new image is another instance; the word is left before one is made. */
  readonly instances: boolean;
  /** Output is held from the final checkpoint's boundary on, before pairing is asked for. */
  readonly holdBeforePair: boolean;
}

export type RuleName = keyof Rules;

export const ALL_RULES: Rules = {
  compareAndSet: true,
  promise: true,
  driftMargin: true,
  silenceWhileAsking: true,
  instances: true,
  holdBeforePair: true,
};

export const RULE_NAMES = Object.keys(ALL_RULES) as readonly RuleName[];

/** All rules but one. */
export function without(rule: RuleName): Rules {
  return { ...ALL_RULES, [rule]: false };
}
