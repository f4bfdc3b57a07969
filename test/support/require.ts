/**
 * What this host must have for a test: where it lacks it the test is skipped with one loud line, or fails when
 * ROMULUS_REQUIRE_ALL=1, which `.ci/run` sets. What no one can give to every host is never required.
 */
import { hostFacts } from '../../src/native/host.ts';

const requiresAll = process.env['ROMULUS_REQUIRE_ALL'] === '1';

/**
 * Says that tests are skipped, and why.
 * @throws {unknown} the error, when nothing may be skipped.
 */
export function skipLoudly(what: string, error: unknown): false {
  if (requiresAll) throw error;
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

/** True when the kernel finds the written pages of a process by userfaultfd and PAGEMAP_SCAN (Linux 6.7 and newer). */
export function requireUserfault(): boolean {
  const { userfaultfd, pagemapScan } = hostFacts();
  return requires(
    'tests on userfaultfd',
    userfaultfd && pagemapScan,
    userfaultfd ? 'the kernel has no PAGEMAP_SCAN' : 'it is not there, or not for this user',
  );
}

/** True when we are root. */
export function requireRoot(what: string): boolean {
  return requires(what, process.getuid?.() === 0, 'only root may');
}
