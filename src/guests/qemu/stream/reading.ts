/**
 * How the parts of the parser are written: as generators that yield the number of bytes they need
 * before they go on, so that a stream cut anywhere parses like one in a piece. Each yield is
 * bounded by the format's own limits before anything is allocated.
 */
import { RomulusError } from '../../../base/errors.ts';
import type { ByteQueue } from './byte-queue.ts';

/** A piece of the parser; what it yields is how many bytes must be there to go on. */
export type Reading<T> = Generator<number, T, void>;

/** Builds the one error of the parser. */
export function streamError(queue: ByteQueue, what: string, remedy?: string): RomulusError {
  return new RomulusError(
    'ERR_PROTOCOL_MIGRATION_STREAM',
    `the migration stream holds ${what} before byte ${queue.offset}`,
    {
      remedy:
        remedy ??
        'Check that QEMU is version 7.2 or newer and unpatched; if it is, report the stream.',
      details: { offset: queue.offset },
    },
  );
}

/** Text of printable ASCII behind a length of one byte: the names in a stream. */
export function* readName(queue: ByteQueue, what: string): Reading<string> {
  yield 1;
  const byteCount = queue.u8();
  return yield* readText(queue, byteCount, what);
}

/** Printable ASCII of a known length. */
export function* readText(queue: ByteQueue, byteCount: number, what: string): Reading<string> {
  if (byteCount === 0) throw streamError(queue, `an empty ${what}`);
  yield byteCount;
  const bytes = queue.take(byteCount);
  if (!bytes.every((byte) => byte >= 0x20 && byte < 0x7f)) {
    throw streamError(queue, `a ${what} that is no text`);
  }
  return String.fromCharCode(...bytes);
}
