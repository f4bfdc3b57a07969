/**
 * The messages whose payload is JSON text (UTF-8, at most JSON_BYTES_MAX): handshake and farewell,
 * where readability and room to grow matter more than bytes. A receiver ignores keys that it does
 * not know; it refuses wrong types and values out of range.
 */
import { z } from 'zod';
import { assert } from '../base/assert.ts';
import { asEpoch, asGeneration } from '../base/units.ts';
import { guestDescriptorSchema } from './guest-descriptor.ts';
import type { FrameKind } from './kinds.ts';
import {
  CAPABILITIES_MAX,
  INSTANCE_BYTES_MAX,
  INTEGER_MAX,
  JSON_BYTES_MAX,
  NODE_NAME_BYTES_MAX,
  TEXT_LENGTH_MAX,
} from './limits.ts';
import { GOODBYE_REASONS, type Message } from './message-types.ts';
import { isName, malformedPayload } from './payload-bytes.ts';

const name = (maxBytes: number): z.ZodString =>
  z.string().refine((text) => isName(text, maxBytes), 'must be visible ASCII, and not too long');

const integer = z.number().int().nonnegative().max(INTEGER_MAX);
const epoch = integer.transform(asEpoch);
const instance = name(INSTANCE_BYTES_MAX);
const node = name(NODE_NAME_BYTES_MAX);
const milliseconds = z.number().positive().max(86_400_000);
const text = z.string().max(TEXT_LENGTH_MAX);

const SCHEMAS = {
  hello: z.object({
    kind: z.literal('hello'),
    protocolVersion: integer,
    node,
    instance: instance.nullable(),
    guest: guestDescriptorSchema.nullable(),
    capabilities: z.array(name(64)).max(CAPABILITIES_MAX),
    lastApplied: z.object({ instance, epoch }).nullable(),
  }),
  welcome: z.object({
    kind: z.literal('welcome'),
    node,
    instance,
    guest: guestDescriptorSchema,
    plan: z.enum(['full', 'changed', 'resume']),
    fromEpoch: epoch,
    heartbeatPort: z.number().int().min(1).max(65_535),
    heartbeatIntervalMs: milliseconds,
    promiseMs: milliseconds,
  }),
  ready: z.object({ kind: z.literal('ready'), instance }),
  paired: z.object({
    kind: z.literal('paired'),
    generation: integer.transform(asGeneration),
    instance,
  }),
  goodbye: z.object({ kind: z.literal('goodbye'), reason: z.enum(GOODBYE_REASONS), text }),
  error: z.object({
    kind: z.literal('error'),
    code: z.string().regex(/^ERR_[A-Z0-9_]{1,120}$/),
    message: text,
    remedy: text,
  }),
} as const;

type JsonKind = keyof typeof SCHEMAS;
/** A message whose payload is JSON. */
export type JsonMessage = Extract<Message, { kind: JsonKind }>;

/** Whether frames of this kind carry JSON. */
export function isJsonKind(kind: FrameKind): kind is JsonKind {
  return kind in SCHEMAS;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** The payload of a JSON message: the message without its kind, which is in the header. */
export function encodeJson(message: JsonMessage): Uint8Array {
  const { kind, ...body } = message;
  const bytes = encoder.encode(JSON.stringify(body));
  assert(bytes.byteLength <= JSON_BYTES_MAX, `${kind} of ${bytes.byteLength} bytes is too long`);
  return bytes;
}

/** @throws {RomulusError} ERR_PROTOCOL_MESSAGE naming the field that is wrong. */
export function decodeJson(kind: JsonKind, payload: Uint8Array): JsonMessage {
  let body: unknown;
  try {
    body = JSON.parse(decoder.decode(payload));
  } catch (cause) {
    throw malformedPayload(kind, 'it is not JSON in UTF-8', { reason: String(cause) });
  }
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw malformedPayload(kind, 'it is not a JSON object');
  }
  const result = SCHEMAS[kind].safeParse({ ...body, kind });
  if (!result.success) {
    const issue = result.error.issues[0];
    throw malformedPayload(kind, `${issue?.path.join('.')}: ${issue?.message}`);
  }
  return result.data;
}
