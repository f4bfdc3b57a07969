/**
 * Lets the codec use the native part's CRC-32C, which is an order of magnitude faster than the
 * package's on the payloads of the bulk link: there the checks cost more than the copies.
 */
import { RomulusError } from '../base/errors.ts';
import { useCrc32c } from '../codec/checksum.ts';
import { crc32c } from './page-delta.ts';

/**
 * From now on, all checksums of frames on this thread are computed natively.
 * @returns false when the native part is not built: the package's implementation stays in use.
 */
export function useNativeCrc32c(): boolean {
  try {
    return useCrc32c((data, initial) => crc32c(data, initial));
  } catch (error) {
    if (error instanceof RomulusError && error.code === 'ERR_HOST_NATIVE_MISSING') return false;
    throw error;
  }
}
