/**
 * Parsers for what people type after a flag. Each names the flag, the value and what is accepted,
 * because "invalid argument" sends a reader to the source. Units are always written out: a bare
 * `25` could be milliseconds or seconds, and a wrong guess is a hundred times the interval.
 */
import bytes from 'bytes';
import ms, { type StringValue } from 'ms';
import { RomulusError } from '../base/errors.ts';
import { DISK_SYNC_EPOCHS_MAX } from '../disks/disk.ts';

const DURATION = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/;
const SIZE = /^(\d+(?:\.\d+)?)([KMGT])(?:i?B)?$/i;
const INTEGER = /^\d+$/;
const ENDPOINT = /^(?:\[([0-9a-fA-F:]+)\]|([^:[\]\s]+)):(\d{1,5})$/;
const PORT_MAX = 65_535;

/** A host and a port, as in `127.0.0.1:7000`. */
export interface Endpoint {
  readonly host: string;
  readonly port: number;
}

function refuse(flag: string, value: string, accepted: string): never {
  throw new RomulusError('ERR_USAGE_VALUE', `${flag}: cannot use "${value}"`, {
    remedy: `Give ${accepted}.`,
    details: { flag, value, accepted },
  });
}

/**
 * Parses a duration such as `25ms`, `1.5s` or `10m` into milliseconds.
 * @throws {RomulusError} ERR_USAGE_VALUE when it is not one, or not above zero.
 */
export function durationMs(flag: string, orElse = ''): (value: string) => number {
  const accepted = `a duration above zero with its unit, such as 25ms, 1.5s, 10m or 1h${orElse}`;
  return (value) => {
    if (!DURATION.test(value)) refuse(flag, value, accepted);
    const parsed = ms(value as StringValue);
    if (!Number.isFinite(parsed) || parsed <= 0) refuse(flag, value, accepted);
    return parsed;
  };
}

/**
 * Parses a duration, or `off`, which gives 0.
 * @throws {RomulusError} ERR_USAGE_VALUE when it is neither.
 */
export function durationMsOrOff(flag: string): (value: string) => number {
  const parse = durationMs(flag, ', or off');
  return (value) => (value === 'off' ? 0 : parse(value));
}

/**
 * Parses a size such as `256M` or `1.5GiB` (powers of 1024) into bytes.
 * @throws {RomulusError} ERR_USAGE_VALUE when it is not one, or not above zero.
 */
export function sizeBytes(flag: string): (value: string) => number {
  const accepted = 'a size above zero with its unit (powers of 1024), such as 64M, 256M or 4G';
  return (value) => {
    const match = SIZE.exec(value);
    if (match === null) refuse(flag, value, accepted);
    // `bytes` reads "256M" as 256 bytes: it must be shown the unit in the form it knows.
    const parsed = bytes.parse(`${match[1]}${match[2]}B`);
    if (parsed === null || !Number.isSafeInteger(parsed) || parsed <= 0)
      refuse(flag, value, accepted);
    return parsed;
  };
}

/**
 * Parses a whole number within bounds, both included.
 * @throws {RomulusError} ERR_USAGE_VALUE when it is not one.
 */
export function wholeNumber(
  flag: string,
  bounds: { readonly min: number; readonly max: number },
): (value: string) => number {
  return (value) => {
    const parsed = INTEGER.test(value) ? Number(value) : Number.NaN;
    if (!Number.isSafeInteger(parsed) || parsed < bounds.min || parsed > bounds.max)
      refuse(flag, value, `a whole number from ${bounds.min} to ${bounds.max}`);
    return parsed;
  };
}

/**
 * Parses `HOST:PORT` or `[IPv6]:PORT`.
 * @throws {RomulusError} ERR_USAGE_VALUE when it is not one.
 */
export function endpoint(flag: string): (value: string) => Endpoint {
  return (value) => {
    const match = ENDPOINT.exec(value);
    const port = Number(match?.[3]);
    if (match === null || port > PORT_MAX)
      refuse(flag, value, `HOST:PORT or [IPv6]:PORT, with a port from 0 to ${PORT_MAX}`);
    return { host: match[1] ?? match[2] ?? '', port };
  };
}

/** As `endpoint`, for a flag that may be given several times. */
export function endpoints(flag: string): (value: string, previous?: Endpoint[]) => Endpoint[] {
  const parse = endpoint(flag);
  return (value, previous = []) => [...previous, parse(value)];
}

/**
 * Parses one of a fixed list of words.
 * @throws {RomulusError} ERR_USAGE_VALUE when it is none of them.
 */
export function oneOf<Word extends string>(
  flag: string,
  words: readonly Word[],
): (value: string) => Word {
  return (value) => {
    const word = words.find((candidate) => candidate === value);
    if (word === undefined) refuse(flag, value, `one of ${words.join(', ')}`);
    return word;
  };
}

/**
 * Parses the name of an arbiter: `file:DIRECTORY` or `none`.
 * @throws {RomulusError} ERR_USAGE_VALUE when it is neither.
 */
export function arbiterName(flag: string): (value: string) => string {
  return (value) => {
    if (value !== 'none' && !/^file:.+/.test(value))
      refuse(flag, value, 'file:DIRECTORY (a directory both nodes reach) or none');
    return value;
  };
}

/** When replicas are synced, as a node's configuration takes it. */
export type DiskSyncChoice = 'commit' | 'off' | { readonly everyEpochs: number };

/**
 * Parses `commit`, `off`, or a number of epochs.
 * @throws {RomulusError} ERR_USAGE_VALUE when it is none of them.
 */
export function diskSync(flag: string): (value: string) => DiskSyncChoice {
  return (value) => {
    if (value === 'commit' || value === 'off') return value;
    const everyEpochs = INTEGER.test(value) ? Number(value) : Number.NaN;
    if (!(everyEpochs >= 1 && everyEpochs <= DISK_SYNC_EPOCHS_MAX))
      refuse(flag, value, `commit, off, or a number of epochs from 1 to ${DISK_SYNC_EPOCHS_MAX}`);
    return { everyEpochs };
  };
}
