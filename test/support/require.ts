/**
 * What this host must have for a test: where it lacks it the test is skipped with one loud line, or fails when
 * ROMULUS_REQUIRE_ALL=1, which `.ci/run` sets. What no one can give to every host is never required.
 */
export const REQUIRES_ALL = process.env['ROMULUS_REQUIRE_ALL'] === '1';

/**
 * Says that tests are skipped, and why.
 * @throws {unknown} the error, when nothing may be skipped.
 */
export function skipLoudly(what: string, error: unknown): false {
  if (REQUIRES_ALL) throw error;
  return skipAnywhere(what, error instanceof Error ? error.message : String(error));
}

/** The same for what a host may lack without anybody's fault, such as KVM. */
export function skipAnywhere(what: string, why: string): false {
  process.stderr.write(`SKIPPED: ${what}: ${why}\n`);
  return false;
}

/** True when there is what a test needs. */
export function requires(what: string, isThere: boolean, why: string): boolean {
  return isThere || skipLoudly(what, new Error(why));
}

/** True when we are root. */
export function requireRoot(what: string): boolean {
  return requires(what, process.getuid?.() === 0, 'only root may');
}
