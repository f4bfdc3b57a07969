/** What the shell learns: 0 it worked, 1 it failed, 2 it was asked for wrongly. */
import type { RomulusError } from '../base/errors.ts';

export const EXIT_OK = 0;
export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;

/** The exit code that an error's family stands for. */
export function exitCodeOf(error: RomulusError): number {
  return /^ERR_(?:USAGE|CONFIG)_/.test(error.code) ? EXIT_USAGE : EXIT_FAILED;
}
