/**
 * One error class for the whole project. The code says which kind of trouble it is (families in
 * docs/ERRORS.md), the message says what and where, the remedy says what to do about it.
 */

/** Code families, and with them what a caller may do next. */
export type ErrorFamily =
  | 'USAGE'
  | 'CONFIG'
  | 'PROTOCOL'
  | 'VERSION'
  | 'INTEGRITY'
  | 'TRANSPORT'
  | 'TIMEOUT'
  | 'GUEST'
  | 'DISK'
  | 'NET'
  | 'HOST'
  | 'FENCED'
  | 'ARBITER'
  | 'LIMIT'
  | 'INTERNAL';

export type ErrorCode = `ERR_${ErrorFamily}_${string}`;

export interface RomulusErrorOptions {
  /** What the user can do about it, as one imperative sentence. */
  readonly remedy: string;
  readonly cause?: unknown;
  /** Facts for machines: stable keys, units in the names. */
  readonly details?: Readonly<Record<string, unknown>>;
}

/** A failure that Romulus understands: a stable code, a sentence for people, a remedy. */
export class RomulusError extends Error {
  override readonly name = 'RomulusError';
  readonly code: ErrorCode;
  readonly remedy: string;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: RomulusErrorOptions) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.remedy = options.remedy;
    this.details = options.details ?? {};
  }

  /** The form in which errors cross threads, processes and `--json`. */
  toJSON(): { code: ErrorCode; message: string; remedy: string; details: object } {
    return {
      code: this.code,
      message: this.message,
      remedy: this.remedy,
      details: this.details,
    };
  }
}

/** Gives any thrown value the shape of a RomulusError; what we did not foresee is INTERNAL. */
export function toRomulusError(error: unknown): RomulusError {
  if (error instanceof RomulusError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new RomulusError('ERR_INTERNAL_UNEXPECTED', message, {
    remedy: 'This is a defect in Romulus: please report it with the log.',
    cause: error,
  });
}

/** Rebuilds an error that `toJSON` flattened, for instance on the far side of a thread. */
export function fromErrorJson(json: {
  code: ErrorCode;
  message: string;
  remedy: string;
  details?: object;
}): RomulusError {
  return new RomulusError(json.code, json.message, {
    remedy: json.remedy,
    details: { ...json.details },
  });
}
