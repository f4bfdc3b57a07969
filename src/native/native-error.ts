/**
 * Turns the errors that native code throws (an Error with `code` and `remedy`) into RomulusError.
 * Every typed wrapper calls the addon through `callNative`, so nothing else ever escapes.
 */
import { type ErrorCode, RomulusError, toRomulusError } from '../base/errors.ts';

interface NativeError extends Error {
  readonly code: ErrorCode;
  readonly remedy: string;
  readonly errno?: number;
}

function isNativeError(error: unknown): error is NativeError {
  return (
    error instanceof Error &&
    'code' in error &&
    typeof error.code === 'string' &&
    error.code.startsWith('ERR_') &&
    'remedy' in error &&
    typeof error.remedy === 'string'
  );
}

/**
 * Calls into the addon.
 * @throws {RomulusError} with the code, message and remedy that native code gave.
 */
export function callNative<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    return rethrowNative(error);
  }
}

/**
 * For what native code does later: the handler of its promise.
 * @throws {RomulusError} with the code, message and remedy that native code gave.
 */
export function rethrowNative(error: unknown): never {
  if (error instanceof RomulusError || !isNativeError(error)) throw toRomulusError(error);
  throw new RomulusError(error.code, error.message, {
    remedy: error.remedy,
    ...(error.errno === undefined ? {} : { details: { errno: error.errno } }),
    cause: error,
  });
}
