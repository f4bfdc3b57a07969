/**
 * Typed forms of the QMP commands in use: what QEMU answers is checked before anybody believes it.
 */
import { z } from 'zod';
import type { RomulusError } from '../../../base/errors.ts';
import { nonsenseError } from './errors.ts';
import type { QmpClient, QmpCommandOptions } from './qmp-client.ts';

const count = z.number().int().nonnegative();

/** Answers of the commands in use. Fields that nobody reads are left out. */
export const replies = {
  'query-status': z.object({ status: z.string(), running: z.boolean() }),
  'query-name': z.object({ name: z.string().optional() }),
  'query-uuid': z.object({ UUID: z.string() }),
  'query-kvm': z.object({ enabled: z.boolean(), present: z.boolean() }),
  'query-machines': z.array(
    z.object({
      name: z.string(),
      alias: z.string().optional(),
      deprecated: z.boolean().optional(),
    }),
  ),
  'query-memdev': z.array(z.object({ id: z.string().optional(), size: count })),
  'query-memory-devices': z.array(
    z.object({
      type: z.string(),
      data: z.object({ id: z.string().optional(), memdev: z.string().optional() }),
    }),
  ),
  'query-memory-size-summary': z.object({ 'base-memory': count }),
  'query-cpus-fast': z
    .array(z.object({ 'qom-path': z.string(), 'thread-id': z.number().int() }))
    .min(1),
  'query-block': z.array(
    z.object({
      device: z.string(),
      qdev: z.string().optional(),
      removable: z.boolean(),
      inserted: z
        .object({
          'node-name': z.string().optional(),
          file: z.string(),
          drv: z.string(),
          ro: z.boolean(),
          image: z.object({ 'virtual-size': count }),
        })
        .optional(),
    }),
  ),
  'query-named-block-nodes': z.array(z.object({ 'node-name': z.string().optional() })),
  'query-block-jobs': z.array(z.object({ device: z.string() })),
  'query-chardev': z.array(z.object({ label: z.string(), filename: z.string() })),
  'query-tpm': z.array(z.object({ id: z.string() })),
  'query-balloon': z.object({ actual: count }),
  'query-migrate': z.object({
    status: z.string().optional(),
    'blocked-reasons': z.array(z.string()).optional(),
    'error-desc': z.string().optional(),
  }),
  'qom-list': z.array(z.object({ name: z.string(), type: z.string() })),
  'device-list-properties': z.array(
    z.object({ name: z.string(), type: z.string(), 'default-value': z.unknown().optional() }),
  ),
} as const;

type Replies = typeof replies;

/**
 * Runs a command whose answer is known here and checks the answer.
 * @throws {RomulusError} ERR_PROTOCOL_GUEST_CONTROL when it is not what QEMU's schema says, else as
 *   `QmpClient.command`.
 */
export async function ask<Name extends keyof Replies>(
  client: QmpClient,
  name: Name,
  args?: object,
  options?: QmpCommandOptions,
): Promise<z.infer<Replies[Name]>> {
  const answer = await client.command(name, args, options);
  const { data, error } = replies[name].safeParse(answer);
  if (error !== undefined) throw malformed(client, name, error);
  return data as z.infer<Replies[Name]>;
}

/**
 * A property of an object in QEMU's object tree; undefined where the object has no such property or
 * cannot give it.
 */
export async function property(client: QmpClient, path: string, name: string): Promise<unknown> {
  return ifKnown(client.command('qom-get', { path, property: name }));
}

/** As `property`, if it is a text. */
export async function textProperty(
  client: QmpClient,
  path: string,
  name: string,
): Promise<string | undefined> {
  const value = await property(client, path, name);
  return typeof value === 'string' ? value : undefined;
}

/**
 * What a command returns, undefined when QEMU itself refuses it: for what not every version or
 * machine has. Trouble with the connection still throws.
 */
export async function ifKnown<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (isRefusal(error)) return undefined;
    throw error;
  }
}

function isRefusal(error: unknown): boolean {
  if (typeof error !== 'object' || error === null || !('code' in error)) return false;
  return typeof error.code === 'string' && error.code.startsWith('ERR_GUEST_QMP_');
}

function malformed(client: QmpClient, name: string, error: z.ZodError): RomulusError {
  const issue = error.issues[0];
  const where = issue === undefined ? '' : ` (${issue.path.join('.')}: ${issue.message})`;
  return nonsenseError(client.path, `an answer to '${name}' that makes no sense${where}`);
}
