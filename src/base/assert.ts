/**
 * Assertions stay on in production: an engine whose own books do not balance must stop with its
 * output held rather than go on.
 */

/** A defect in Romulus itself, never a reaction to input. */
export class AssertionError extends Error {
  override readonly name = 'AssertionError';
}

/** @throws {AssertionError} when the condition does not hold. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** Makes a `switch` exhaustive: the compiler refuses a case that was left out. */
export function unreachable(value: never, what: string): never {
  throw new AssertionError(`unexpected ${what}: ${JSON.stringify(value)}`);
}
