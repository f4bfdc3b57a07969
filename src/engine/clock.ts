/**
 * The one clock of a node: CLOCK_MONOTONIC in milliseconds. All threads and, on one host, all
 * processes read the same one, so times in logs and audit files can be compared.
 */

/** Milliseconds of CLOCK_MONOTONIC, with a fraction. */
export function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** Nanoseconds of CLOCK_MONOTONIC. */
export function nowNs(): bigint {
  return process.hrtime.bigint();
}
