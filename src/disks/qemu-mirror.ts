/**
 * Mirror jobs of a running QEMU: one for each disk, from the disk to our NBD server.
 *
 * `copy-mode: write-blocking` makes the guest's completion come after our reply, so that after
 * `stop` no write is on its way; `on-target-error: report` makes the job end, and the guest's write
 * succeed, when our server fails. No `reconnect-delay`: with one the guest would wait for it. All
 * commands that end a job are the generic `job-*`, which every version since 3.0 has.
 *
 * Names: job `romulus-mN`, target node `romulus-tN`, filter node `romulus-fN`. Whatever bears such a
 * name when we attach was left by one that died, and is removed.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { RomulusError } from '../base/errors.ts';

/** How long QEMU may take for one step, milliseconds. */
export const STEP_TIMEOUT_MS = 5000;
const POLL_MS = 2;
const JOB_PREFIX = 'romulus-m';
const TARGET_PREFIX = 'romulus-t';
const FILTER_PREFIX = 'romulus-f';

/** What is needed of a monitor of QEMU; `QmpClient` is one. */
export interface DiskMonitor {
  command(name: string, args?: object, options?: { timeoutMs?: number }): Promise<unknown>;
  onEvent(
    listener: (event: { event: string; data: Readonly<Record<string, unknown>> }) => void,
  ): () => void;
  onEnd(listener: (error: RomulusError) => void): void;
}

const jobsSchema = z.array(
  z.object({
    device: z.string(),
  }),
);
const statusSchema = z.object({ running: z.boolean() });
const nodesSchema = z.array(z.object({ 'node-name': z.string().optional() }));

/** Name of a disk's target node. */
export function targetName(disk: number): string {
  return `${TARGET_PREFIX}${disk}`;
}

/** Name of the node that a disk's mirror puts above it. */
export function filterName(disk: number): string {
  return `${FILTER_PREFIX}${disk}`;
}

/** Name of a disk at our server. */
export function mirrorExportName(disk: number): string {
  return `disk${disk}`;
}

/** Name of a disk's mirror job. */
export function jobName(disk: number): string {
  return `${JOB_PREFIX}${disk}`;
}

/** Connects QEMU to our server and starts the mirror; it is under way, or has failed, after. */
export async function startMirror(
  monitor: DiskMonitor,
  options: {
    readonly disk: number;
    readonly device: string;
    readonly socketPath: string;
    readonly exportName: string;
    /** Whether it begins with all that the disk holds, or with what is written from now on. */
    readonly copiesAll: boolean;
    readonly bytesPerSecondMax?: number | undefined;
  },
): Promise<void> {
  const { disk, device, socketPath, exportName, copiesAll, bytesPerSecondMax } = options;
  await monitor.command('blockdev-add', {
    driver: 'nbd',
    'node-name': targetName(disk),
    server: { type: 'unix', path: socketPath },
    export: exportName,
    discard: 'unmap',
  });
  await monitor.command('blockdev-mirror', {
    'job-id': jobName(disk),
    device,
    target: targetName(disk),
    sync: copiesAll ? 'full' : 'none',
    'copy-mode': 'write-blocking',
    'on-target-error': 'report',
    'filter-node-name': filterName(disk),
    ...(bytesPerSecondMax === undefined ? {} : { speed: bytesPerSecondMax }),
  });
}

/** Holds a first copy back, or lets it go on; the guest's own writes pass either way. */
export async function pauseCopy(
  monitor: DiskMonitor,
  disk: number,
  isPaused: boolean,
): Promise<void> {
  await monitor.command(isPaused ? 'job-pause' : 'job-resume', { id: jobName(disk) });
}

/**
 * Ends every mirror of ours and removes every node of ours. Nothing to do is fine.
 *
 * The machine stands for the few milliseconds that this takes: a QEMU (7.2 and 10.0) whose active
 * mirror is cancelled while the guest writes corrupts its heap, and crashes about one time in ten. With
 * a mirror that ends by itself, because its server is gone, or while the machine stands, it does not.
 *
 * @throws {RomulusError} ERR_DISK_MIRROR when something stays; the monitor's own errors.
 */
export async function removeMirrors(monitor: DiskMonitor): Promise<void> {
  if ((await ownJobs(monitor)).length === 0) return removeTargets(monitor);
  const { running } = await query(monitor, 'query-status', statusSchema);
  try {
    if (running) await monitor.command('stop');
    await cancelMirrors(monitor);
    await removeTargets(monitor);
  } finally {
    // Also when `stop` was not answered in time: it will be carried out, and this after it.
    if (running) await monitor.command('cont');
  }
}

async function cancelMirrors(monitor: DiskMonitor): Promise<void> {
  const deadlineMs = performance.now() + STEP_TIMEOUT_MS;
  const cancelled = new Set<string>();
  for (;;) {
    const ours = await ownJobs(monitor);
    if (ours.length === 0) return;
    if (performance.now() > deadlineMs)
      throw mirrorError(
        `QEMU's mirror '${ours[0]}' does not end`,
        'Cancel it by hand (`job-cancel`), then attach again.',
        { jobs: ours },
      );
    for (const id of ours) {
      if (cancelled.has(id)) continue;
      cancelled.add(id);
      // It may end by itself between our look and our order.
      await unlessGone(monitor.command('job-cancel', { id }));
    }
    await delay(POLL_MS);
  }
}

async function ownJobs(monitor: DiskMonitor): Promise<string[]> {
  const jobs = await query(monitor, 'query-block-jobs', jobsSchema);
  return jobs.map(({ device }) => device).filter((name) => name.startsWith(JOB_PREFIX));
}

async function removeTargets(monitor: DiskMonitor): Promise<void> {
  const nodes = await query(monitor, 'query-named-block-nodes', nodesSchema);
  for (const { 'node-name': name } of nodes)
    if (name?.startsWith(TARGET_PREFIX) === true)
      await monitor.command('blockdev-del', { 'node-name': name });
}

/** Awaits an order that something of ours be ended, which may end by itself before. */
export async function unlessGone(answer: Promise<unknown>): Promise<void> {
  try {
    await answer;
  } catch (error) {
    if (!isRefusal(error)) throw error;
  }
}

/** Whether QEMU understood an order and will not do it. */
export function isRefusal(error: unknown): boolean {
  return error instanceof RomulusError && error.code.startsWith('ERR_GUEST_QMP_');
}

/**
 * Asks QEMU what it has.
 * @throws {RomulusError} ERR_DISK_MIRROR when it answers nonsense; the monitor's own.
 */
export async function query<T>(
  monitor: DiskMonitor,
  name: string,
  schema: z.ZodType<T>,
  args?: object,
): Promise<T> {
  const { data, error } = schema.safeParse(await monitor.command(name, args));
  if (error === undefined) return data;
  throw mirrorError(
    `QEMU's answer to '${name}' makes no sense (${error.issues[0]?.message ?? 'unknown'})`,
    'Use a QEMU that `romulus doctor` names as tested.',
    { command: name },
  );
}

/** An ERR_DISK_MIRROR. */
export function mirrorError(
  message: string,
  remedy: string,
  details: Readonly<Record<string, unknown>>,
): RomulusError {
  return new RomulusError('ERR_DISK_MIRROR', message, { remedy, details });
}
