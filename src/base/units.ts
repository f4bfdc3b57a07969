/**
 * Branded numbers, so that an epoch is never passed where a page index is meant, and the sizes
 * that everything agrees on.
 */

declare const brand: unique symbol;
type Branded<Name extends string> = number & { readonly [brand]: Name };

/** Number of a checkpoint, from 1, gap-free. 0 means "none yet". */
export type Epoch = Branded<'Epoch'>;
/** Grows with every change of the register. 0 means "none yet". */
export type Generation = Branded<'Generation'>;

export const PAGE_BYTES = 4096;
export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;

/** A size exactly: `512M`, as flags take it; in bytes, `100B`, where no unit divides it. */
export function sizeText(bytes: number): string {
  for (const [unit, name] of [
    [GIB, 'G'],
    [MIB, 'M'],
    [KIB, 'K'],
  ] as const)
    if (bytes > 0 && bytes % unit === 0) return `${bytes / unit}${name}`;
  return `${bytes}B`;
}

/** @throws {RangeError} when the number cannot be an epoch. */
export function asEpoch(value: number): Epoch {
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`not an epoch: ${value}`);
  return value as Epoch;
}

/** @throws {RangeError} when the number cannot be a generation. */
export function asGeneration(value: number): Generation {
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`not a generation: ${value}`);
  return value as Generation;
}

export const NO_EPOCH: Epoch = asEpoch(0);
export const NO_GENERATION: Generation = asGeneration(0);
