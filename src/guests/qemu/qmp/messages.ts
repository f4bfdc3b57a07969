/**
 * What QEMU says on a QMP socket, one JSON object a line (docs/interop/qmp-spec in QEMU's source):
 * a greeting, then answers that carry the id of their command, and events that carry none.
 *
 * Everything is checked here; a line that is none of the three is `nonsense`, never an exception.
 */
import { z } from 'zod';

/** The version of a running QEMU, as it gives it. */
export interface QemuVersion {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
  /** The packager's own version text; often empty. */
  readonly package: string;
}

/** Something that happened in QEMU without our asking. */
export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** QEMU's wall clock, milliseconds since 1970 with a fraction; NaN where the clock failed. */
  readonly timestampMs: number;
}

/** Classes of QMP errors; QEMU may add more, which count as `GenericError`. */
export type QmpErrorClass =
  | 'CommandNotFound'
  | 'DeviceNotActive'
  | 'DeviceNotFound'
  | 'KVMMissingCap'
  | 'GenericError';

/** One line of QEMU's, understood. */
export type QmpMessage =
  | { readonly kind: 'greeting'; readonly version: QemuVersion; readonly outOfBand: boolean }
  | { readonly kind: 'event'; readonly event: QmpEvent }
  | { readonly kind: 'return'; readonly id: string | null; readonly value: unknown }
  | {
      readonly kind: 'error';
      readonly id: string | null;
      readonly errorClass: QmpErrorClass;
      readonly text: string;
    }
  | { readonly kind: 'nonsense'; readonly why: string };

const count = z.number().int().nonnegative();
/** The `query-version` part of the greeting. */
export const versionSchema = z.object({
  qemu: z.object({ major: count, minor: count, micro: count }),
  package: z.string(),
});
const greetingSchema = z.object({
  QMP: z.object({ version: versionSchema, capabilities: z.array(z.unknown()) }),
});
const eventSchema = z.object({
  event: z.string().min(1).max(128),
  data: z.record(z.string(), z.unknown()).optional(),
  timestamp: z.object({ seconds: z.number(), microseconds: z.number() }),
});
const errorSchema = z.object({
  error: z.object({ class: z.string(), desc: z.string() }),
  id: z.string().optional(),
});
const returnSchema = z.object({ return: z.unknown(), id: z.string().optional() });

const ERROR_CLASSES: ReadonlySet<string> = new Set([
  'CommandNotFound',
  'DeviceNotActive',
  'DeviceNotFound',
  'KVMMissingCap',
]);

/** Understands one line. */
export function parseQmpLine(line: string): QmpMessage {
  let json: unknown;
  try {
    json = JSON.parse(line);
  } catch (error) {
    return nonsense(`a line that is not JSON (${error instanceof Error ? error.message : '?'})`);
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    return nonsense('JSON that is not an object');
  }
  if ('return' in json) {
    const { data } = returnSchema.safeParse(json);
    if (data === undefined) return nonsense('an answer whose id is not a string');
    return { kind: 'return', id: data.id ?? null, value: data.return };
  }
  if ('error' in json) return parseError(json);
  if ('event' in json) return parseEvent(json);
  if ('QMP' in json) return parseGreeting(json);
  return nonsense('an object that is neither answer nor event');
}

function parseError(json: object): QmpMessage {
  const { data } = errorSchema.safeParse(json);
  if (data === undefined) return nonsense('a malformed error');
  const errorClass = ERROR_CLASSES.has(data.error.class) ? data.error.class : 'GenericError';
  return {
    kind: 'error',
    id: data.id ?? null,
    errorClass: errorClass as QmpErrorClass,
    text: data.error.desc,
  };
}

function parseEvent(json: object): QmpMessage {
  const { data } = eventSchema.safeParse(json);
  if (data === undefined) return nonsense('a malformed event');
  const { seconds, microseconds } = data.timestamp;
  return {
    kind: 'event',
    event: {
      event: data.event,
      data: data.data ?? {},
      // QEMU says -1 for both when the host's clock could not be read.
      timestampMs: seconds < 0 ? Number.NaN : seconds * 1000 + microseconds / 1000,
    },
  };
}

function parseGreeting(json: object): QmpMessage {
  const { data } = greetingSchema.safeParse(json);
  if (data === undefined) return nonsense('a malformed greeting');
  const { qemu, package: packageName } = data.QMP.version;
  return {
    kind: 'greeting',
    version: { ...qemu, package: packageName },
    outOfBand: data.QMP.capabilities.includes('oob'),
  };
}

function nonsense(why: string): QmpMessage {
  return { kind: 'nonsense', why };
}
