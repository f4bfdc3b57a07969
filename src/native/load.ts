/**
 * Finds and loads the native part once. Everything native is reached through the typed wrappers
 * beside this file; nobody else loads the addon.
 */
import { createRequire } from 'node:module';
import { RomulusError } from '../base/errors.ts';

const require = createRequire(import.meta.url);
const ADDON_PATH = '../../native-sim/build/Release/romulus_native.node';
let loaded: object | undefined;

/**
 * The addon's exports, seen as the interface that the calling wrapper declares.
 * @throws {RomulusError} ERR_HOST_NATIVE_MISSING when it is not built for this Node.
 */
// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- each wrapper names the part it uses
export function loadNative<T extends object>(): T {
  try {
    loaded ??= require(ADDON_PATH) as object;
  } catch (cause) {
    throw new RomulusError('ERR_HOST_NATIVE_MISSING', 'the native part cannot be loaded', {
      remedy: 'Run `npm rebuild romulus` (or `npm ci` in a checkout); it needs g++, make, python3.',
      cause,
      details: { reason: cause instanceof Error ? cause.message : String(cause) },
    });
  }
  return loaded as T;
}

/** Where the simulated machine's executable stands. */
export const SIM_EXECUTABLE: string = new URL(
  '../../native-sim/build/Release/romulus-sim',
  import.meta.url,
).pathname;

/** Where the guardian's executable stands. */
export const GUARDIAN_EXECUTABLE: string = new URL(
  '../../native-sim/build/Release/romulus-guardian',
  import.meta.url,
).pathname;
