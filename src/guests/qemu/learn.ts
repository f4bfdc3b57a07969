/**
 * Learns from a running QEMU, by the beginning of its own migration stream, what nobody else knows:
 * the configuration section and the list of RAM blocks with their used sizes. A `migrate` to a unix
 * socket of ours is started and cancelled a few milliseconds later; the machine runs on. QEMU also
 * says itself on that occasion when it could not be migrated at all.
 *
 * Care is taken that the migration never completes, because a completed one stops the machine: for
 * the list alone next to nothing is read, the bandwidth is low, and the downtime limit is zero, so
 * only a machine of a few hundred kilobytes could be through. If it is through nevertheless, it
 * waits before the switchover (`pause-before-switchover`: disks stay active), is cancelled there,
 * and a machine that ran goes on.
 *
 * Capabilities and parameters are set as needed and put back as found; where this process dies
 * meanwhile, the broken connection ends the migration, but the parameters stay. A machine that was
 * paused may read `postmigrate` instead of `paused` afterwards if its whole RAM had to be read for
 * `contentsOf`; `cont` works on both.
 *
 * Source: QEMU 7.2 to 11.1, migration/migration.c.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmod, chown, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { RomulusError, toRomulusError } from '../../base/errors.ts';
import { endedEarly, type Learnt, StreamCollector, stateError } from './stream/collector.ts';
import { StreamParser } from './stream/parser.ts';

/** How long the list of blocks may take to come, milliseconds. */
export const LEARN_TIMEOUT_MS = 5000;
/** How long a cancelled migration may take to end, milliseconds. */
export const CANCEL_TIMEOUT_MS = 5000;
/** After how long a cancel counts as overlooked, milliseconds; ordinarily it takes two. */
const CANCEL_OVERLOOKED_MS = 20;
/**
 * A second. More than a socket's buffer in each tenth of a second, QEMU's unit: its thread is then
 * found waiting for us to read, from which a cancel wakes it at once, and not asleep until the tenth
 * is over. Less than any machine with firmware has to send.
 */
const LIST_BANDWIDTH_BYTES = 4 * 1024 * 1024;
/** All that a unix socket can carry. */
const CONTENTS_BANDWIDTH_BYTES = 16 * 1024 * 1024 * 1024;
const POLL_MS = 1;
/** When a failure in QEMU is first looked for; then at twice that, and so on. */
const FAILURE_POLL_MS = 20;

/** What is used of a `QmpClient`. */
export interface LearnMonitor {
  command(name: string, args?: object, options?: { timeoutMs?: number }): Promise<unknown>;
}

export interface LearnOptions {
  /** Read on until each of these blocks was seen whole once; costs the transfer of all RAM. */
  readonly contentsOf?: readonly string[];
  /** User that QEMU runs as, when it is not ours: the socket is given to it. */
  readonly ownerUid?: number;
  /** How long the list, or with `contentsOf` everything, may take, milliseconds. */
  readonly timeoutMs?: number;
}

const statusSchema = z.object({ status: z.string(), running: z.boolean() });
const migrationSchema = z.object({
  status: z.string().optional(),
  'error-desc': z.string().optional(),
  'blocked-reasons': z.array(z.string()).optional(),
});
const capabilitiesSchema = z.array(z.object({ capability: z.string(), state: z.boolean() }));
const parametersSchema = z.object({
  'max-bandwidth': z.number(),
  'downtime-limit': z.number(),
  'tls-creds': z.string().optional(),
  mode: z.string().optional(),
});

/** States of a migration in which nothing goes on any more. */
const MIGRATION_AT_REST: ReadonlySet<string> = new Set([
  'none',
  'cancelled',
  'failed',
  'completed',
]);
/** What a machine that ran is found in when a migration got too far. */
const STOPPED_BY_MIGRATION: ReadonlySet<string> = new Set(['finish-migrate', 'postmigrate']);
/** Capabilities that change neither the stream nor what a migration does. */
const HARMLESS_CAPABILITIES: ReadonlySet<string> = new Set(['events', 'pause-before-switchover']);

/**
 * Reads the beginning of the machine's migration stream and cancels it.
 * @param directory where the socket stands for that long; QEMU must be able to reach it.
 * @throws {RomulusError} ERR_GUEST_UNMIGRATABLE with QEMU's own words, ERR_GUEST_STATE when the
 *   machine is being migrated already or has not started, ERR_PROTOCOL_MIGRATION_STREAM,
 *   ERR_TIMEOUT_GUEST_STREAM, ERR_LIMIT_GUEST_CONTENTS, and those of the monitor.
 */
export async function learnFromStream(
  monitor: LearnMonitor,
  directory: string,
  options: LearnOptions = {},
): Promise<Learnt> {
  const before = statusSchema.parse(await monitor.command('query-status'));
  await checkMigratable(monitor, before.status);
  const settings = await applySettings(monitor, options.contentsOf !== undefined);
  let learnt: Learnt | null = null;
  let failure: unknown = null;
  try {
    learnt = await readAndCancel(monitor, directory, options);
  } catch (error) {
    failure = error;
  }
  try {
    await settings.restore();
    // Only what the migration did is undone: a user's own `stop` meanwhile stays.
    const after = statusSchema.parse(await monitor.command('query-status'));
    if (before.running && STOPPED_BY_MIGRATION.has(after.status)) await monitor.command('cont');
  } catch (error) {
    // What went wrong first is what must be told.
    failure ??= error;
  }
  if (learnt === null || failure !== null) throw failure;
  return learnt;
}

async function checkMigratable(monitor: LearnMonitor, status: string): Promise<void> {
  if (status === 'inmigrate') throw stateError('waits for an incoming migration itself');
  const migration = migrationSchema.parse(await monitor.command('query-migrate'));
  const reasons = migration['blocked-reasons'] ?? [];
  if (reasons.length > 0) throw unmigratable(reasons.join('; '));
  if (!MIGRATION_AT_REST.has(migration.status ?? 'none')) {
    throw stateError(`is being migrated (${migration.status ?? ''})`);
  }
}

/** Sets what the reading needs; `restore` puts back what was found, and may be called once. */
async function applySettings(
  monitor: LearnMonitor,
  wantsContents: boolean,
): Promise<{ restore: () => Promise<void> }> {
  const capabilities = capabilitiesSchema.parse(
    await monitor.command('query-migrate-capabilities'),
  );
  const parameters = parametersSchema.parse(await monitor.command('query-migrate-parameters'));
  const found = capabilities.filter(({ capability, state }) =>
    capability === 'pause-before-switchover'
      ? !state
      : state && !HARMLESS_CAPABILITIES.has(capability),
  );
  const tlsCreds = parameters['tls-creds'] ?? '';
  const { mode } = parameters;
  const isOtherMode = mode !== undefined && mode !== 'normal';
  const setParameters = async (values: object): Promise<void> => {
    await monitor.command('migrate-set-parameters', values);
  };
  const setCapabilities = async (invert: boolean): Promise<void> => {
    if (found.length === 0) return;
    await monitor.command('migrate-set-capabilities', {
      capabilities: found.map(({ capability, state }) => ({ capability, state: state !== invert })),
    });
  };
  await setCapabilities(true);
  try {
    await setParameters({
      'max-bandwidth': wantsContents ? CONTENTS_BANDWIDTH_BYTES : LIST_BANDWIDTH_BYTES,
      'downtime-limit': 0,
      ...(tlsCreds !== '' && { 'tls-creds': '' }),
      ...(isOtherMode && { mode: 'normal' }),
    });
  } catch (error) {
    await setCapabilities(false);
    throw error;
  }
  return {
    restore: async () => {
      await setCapabilities(false);
      await setParameters({
        'max-bandwidth': parameters['max-bandwidth'],
        'downtime-limit': parameters['downtime-limit'],
        ...(tlsCreds !== '' && { 'tls-creds': tlsCreds }),
        ...(isOtherMode && { mode }),
      });
    },
  };
}

async function readAndCancel(
  monitor: LearnMonitor,
  directory: string,
  options: LearnOptions,
): Promise<Learnt> {
  const path = join(directory, `learn-${randomBytes(4).toString('hex')}.sock`);
  const timeoutMs = options.timeoutMs ?? LEARN_TIMEOUT_MS;
  const collector = new StreamCollector(options.contentsOf ?? []);
  const server = createServer();
  server.maxConnections = 1;
  const watch = new AbortController();
  let connected: Socket | null = null;
  let isStarted = false;
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
    await chmod(path, 0o600);
    if (options.ownerUid !== undefined) await chown(path, options.ownerUid, -1);
    const done = new Promise<void>((resolve, reject) => {
      server.once('connection', (socket) => {
        connected = socket;
        readInto(collector, socket, resolve, reject);
      });
    });
    // A failure that comes while `migrate` is being answered is looked at below.
    done.catch(() => undefined);
    isStarted = true;
    await startMigration(monitor, path);
    await Promise.race([done, timeLimit(monitor, timeoutMs, watch.signal)]);
    return collector.learnt();
  } finally {
    watch.abort();
    if (isStarted) await cancelMigration(monitor);
    (connected as Socket | null)?.destroy();
    server.close();
    await rm(path, { force: true });
  }
}

function readInto(
  collector: StreamCollector,
  socket: Socket,
  resolve: () => void,
  reject: (error: RomulusError) => void,
): void {
  const parser = new StreamParser();
  socket.on('data', (chunk: Buffer) => {
    try {
      for (const item of parser.push(chunk)) collector.take(item);
    } catch (error) {
      socket.pause();
      reject(toRomulusError(error));
      return;
    }
    if (!collector.isComplete) return;
    // Not a byte more: what stays unread also keeps QEMU from getting further.
    socket.pause();
    resolve();
  });
  socket.on('error', (cause) => {
    reject(endedEarly(cause.message));
  });
  socket.on('end', () => {
    reject(endedEarly('it closed the connection'));
  });
}

async function startMigration(monitor: LearnMonitor, path: string): Promise<void> {
  try {
    await monitor.command('migrate', { uri: `unix:${path}` });
  } catch (error) {
    const refusal = toRomulusError(error);
    if (refusal.code !== 'ERR_GUEST_QMP_REFUSED') throw error;
    const { qemuText } = refusal.details;
    throw unmigratable(typeof qemuText === 'string' ? qemuText : refusal.message, error);
  }
}

/** Rejects when the migration fails in QEMU, or the time is over; resolves when it is called off. */
async function timeLimit(
  monitor: LearnMonitor,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<void> {
  const deadlineMs = performance.now() + timeoutMs;
  for (let pollMs = FAILURE_POLL_MS; performance.now() < deadlineMs; pollMs *= 2) {
    const waitMs = Math.min(pollMs, deadlineMs - performance.now());
    await Promise.race([sleep(waitMs, undefined, { ref: false }), aborted(signal)]);
    if (signal.aborted) return;
    const migration = migrationSchema.parse(await monitor.command('query-migrate'));
    if (migration.status === 'failed') {
      throw unmigratable(migration['error-desc'] ?? 'the migration failed without a reason');
    }
  }
  throw new RomulusError(
    'ERR_TIMEOUT_GUEST_STREAM',
    `QEMU's migration stream did not tell what is needed within ${timeoutMs} ms`,
    {
      remedy: 'Check that QEMU can reach the socket directory, and that the host has CPU to spare.',
      details: { timeoutMs },
    },
  );
}

/**
 * Cancels, and waits until nothing of the migration goes on. A cancel that comes between QEMU's
 * decision to switch over and its waiting for our consent is overlooked by 7.2, which then waits
 * for ever with the machine stopped: that wait is ended too.
 */
async function cancelMigration(monitor: LearnMonitor): Promise<void> {
  await monitor.command('migrate_cancel');
  const askedMs = performance.now();
  let isFreed = false;
  for (;;) {
    const { status } = migrationSchema.parse(await monitor.command('query-migrate'));
    if (MIGRATION_AT_REST.has(status ?? 'none')) return;
    const waitedMs = performance.now() - askedMs;
    if (waitedMs > CANCEL_TIMEOUT_MS) {
      throw stateError(`does not end its cancelled migration (${status ?? ''})`);
    }
    if (!isFreed && waitedMs > CANCEL_OVERLOOKED_MS) {
      isFreed = await freeFromConsent(monitor);
    }
    await sleep(POLL_MS);
  }
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (!signal.aborted) await once(signal, 'abort');
}

/** False when the machine is not at the point where QEMU waits for consent. */
async function freeFromConsent(monitor: LearnMonitor): Promise<boolean> {
  const { status } = statusSchema.parse(await monitor.command('query-status'));
  if (status !== 'finish-migrate') return false;
  try {
    await monitor.command('migrate-continue', { state: 'cancelling' });
  } catch (error) {
    // It has just ended by itself: then the state is another.
    if (toRomulusError(error).code !== 'ERR_GUEST_QMP_REFUSED') throw error;
  }
  return true;
}

function unmigratable(why: string, cause?: unknown): RomulusError {
  return new RomulusError('ERR_GUEST_UNMIGRATABLE', `QEMU cannot migrate this machine: ${why}`, {
    remedy: 'Remove the device or setting that QEMU names; what it cannot migrate has no copy.',
    details: { qemuText: why },
    ...(cause === undefined ? {} : { cause }),
  });
}
