/**
 * Disks of a running QEMU, read through QEMU itself: what it writes to a file in another form than the guest
 * sees (qcow2), or what no file of this host holds, only QEMU can tell meanwhile.
 *
 * QEMU is handed a socket that listens at a path of ours (`getfd`), so neither its user's rights nor
 * its view of the file system matter, and nobody else can connect. It has room for one NBD server, and
 * one that somebody else started is left alone: the disks cannot be read this way then.
 *
 * Names: descriptor `romulus-x`, exports `romulus-xN`. They live only as long as something is read. What
 * an engine left that was killed meanwhile is known by its exports, or by what listens at our path, and ended by who
 * attaches next.
 */
import { rmSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { RomulusError, toRomulusError } from '../base/errors.ts';
import { closeDuplicate, listenAtPath } from '../native/descriptors.ts';
import { readError } from './readable-disk.ts';
import { ANSWER_TIMEOUT_MS, NbdReader } from './nbd/reader.ts';
import { oldWithIothreads, SOUND_FROM_MAJOR } from './old-iothreads.ts';
import type { FoundDisk } from './found-disks.ts';
import { type DiskMonitor, isRefusal, unlessGone } from './qemu-mirror.ts';

const EXPORT_PREFIX = 'romulus-x';
/** How long QEMU may take to end what its server was asked for, milliseconds; the guest runs meanwhile. */
const END_TIMEOUT_MS = 2000;
const POLL_MS = 5;
const ALL_IS_SENT = 'Nothing must be done, all of the disks is sent.';

/** A monitor that descriptors can be handed to. */
export interface DescriptorMonitor extends DiskMonitor {
  commandWithDescriptor(name: string, args: object, descriptor: number): Promise<unknown>;
}

const exportsSchema = z.array(z.object({ id: z.string(), 'shutting-down': z.boolean() }));

/** QEMU's server of some of its disks. */
export class QemuExport {
  readonly #monitor: DiskMonitor;
  readonly #socketPath: string;

  private constructor(monitor: DiskMonitor, socketPath: string) {
    this.#monitor = monitor;
    this.#socketPath = socketPath;
  }

  /**
   * Has QEMU serve disks.
   * @throws {RomulusError} ERR_DISK_READ when it will not, and the monitor's own; nothing is left then but what a QEMU
   *   that is late starts afterwards, for `removeExports`.
   */
  static async open(monitor: DescriptorMonitor, socketPath: string): Promise<QemuExport> {
    await expectHarmless(monitor);
    // What was started too late for one before is known by this path alone, which is given to another one now.
    await removeExports(monitor, socketPath);
    await startServer(monitor, socketPath);
    return new QemuExport(monitor, socketPath);
  }

  /**
   * One of the disks, for reading.
   * @throws {RomulusError} ERR_DISK_READ.
   */
  async reader(
    disk: number,
    { node, diskBytes }: FoundDisk,
    readTimeoutMs: number = ANSWER_TIMEOUT_MS,
  ): Promise<NbdReader> {
    const name = exportName(disk);
    const served = { type: 'nbd', id: name, 'node-name': node, name, writable: false };
    try {
      await this.#monitor.command('block-export-add', served);
    } catch (error) {
      throw refusal(error);
    }
    return NbdReader.open({ path: this.#socketPath, exportName: name, diskBytes, readTimeoutMs });
  }

  /**
   * Ends QEMU's server. Readers must be closed before.
   * @throws {RomulusError} ERR_DISK_READ when it works on what it was asked for still, and is left for
   *   `removeExports`; the monitor's own.
   */
  async close(): Promise<void> {
    await endServer(this.#monitor);
    rmSync(this.#socketPath, { force: true });
  }
}

/**
 * Ends a server that a predecessor of ours left in the machine. None: nothing is done.
 * @param socketPath - Where it would listen; without it, it is known by its exports only.
 * @throws {RomulusError} ERR_DISK_READ when it works on what it was asked for still; the monitor's own.
 */
export async function removeExports(monitor: DiskMonitor, socketPath?: string): Promise<void> {
  const isOurs =
    (await ownExports(monitor)).length > 0 ||
    // What QEMU was handed listens there as long as its server lives, and nobody else has it.
    (socketPath !== undefined && (await NbdReader.isServed(socketPath)));
  if (!isOurs) return;
  await endServer(monitor);
  if (socketPath !== undefined) rmSync(socketPath, { force: true });
}

/**
 * `nbd-server-stop` waits in QEMU's main loop for what the server was asked for, as `stop` does, and the guest with
 * it: storage may take minutes for that. An export that is to go says when nothing of that is under way.
 */
async function endServer(monitor: DiskMonitor): Promise<void> {
  const deadlineMs = performance.now() + END_TIMEOUT_MS;
  for (;;) {
    const ours = await ownExports(monitor);
    if (ours.length === 0) break;
    for (const { id, 'shutting-down': isGoing } of ours)
      if (!isGoing) await unlessGone(monitor.command('block-export-del', { id, mode: 'hard' }));
    if (performance.now() > deadlineMs) throw busyError(ours.map(({ id }) => id));
    await delay(POLL_MS);
  }
  await monitor.command('nbd-server-stop');
}

async function ownExports(monitor: DiskMonitor): Promise<z.infer<typeof exportsSchema>> {
  const found = exportsSchema.safeParse(await monitor.command('query-block-exports'));
  return found.data?.filter(({ id }) => id.startsWith(EXPORT_PREFIX)) ?? [];
}

function busyError(exported: readonly string[]): RomulusError {
  return new RomulusError(
    'ERR_DISK_READ',
    `QEMU works on what '${exported[0]}' was asked for still, and has not ended its server of the disk`,
    {
      remedy:
        'Nothing must be done, it is tried again; look at the storage of the disk if it goes on.',
      details: { exported },
    },
  );
}

/** No machine may die because we do. */
async function expectHarmless(monitor: DiskMonitor): Promise<void> {
  const version = await oldWithIothreads(monitor);
  if (version === null) return;
  throw new RomulusError(
    'ERR_DISK_READ',
    `a QEMU ${version} with iothreads is not asked to serve its disks: it may end when its client is killed`,
    {
      remedy: `${ALL_IS_SENT} For less, use QEMU ${SOUND_FROM_MAJOR}.0 or later, or no iothreads.`,
    },
  );
}

async function startServer(monitor: DescriptorMonitor, socketPath: string): Promise<void> {
  // Left there by one that was killed.
  rmSync(socketPath, { force: true });
  const descriptor = listen(socketPath);
  try {
    await monitor.commandWithDescriptor('getfd', { fdname: EXPORT_PREFIX }, descriptor);
    await monitor.command('nbd-server-start', {
      addr: { type: 'fd', data: { str: EXPORT_PREFIX } },
    });
  } catch (error) {
    // QEMU keeps what it was handed until it is used. Gone already: that is all that is wanted.
    await monitor.command('closefd', { fdname: EXPORT_PREFIX }).catch(() => undefined);
    // No server is stopped here: it may be a stranger's. If QEMU was only late, ours is found at its path.
    if (!isLate(error)) rmSync(socketPath, { force: true });
    throw refusal(error);
  } finally {
    closeDuplicate(descriptor);
  }
}

function exportName(disk: number): string {
  return `${EXPORT_PREFIX}${disk}`;
}

function listen(socketPath: string): number {
  try {
    return listenAtPath(socketPath);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw readError('through QEMU', reason, cause);
  }
}

function isLate(error: unknown): boolean {
  return error instanceof RomulusError && error.code === 'ERR_TIMEOUT_GUEST_CONTROL';
}

/** What QEMU will not do, or not in time, is an ERR_DISK_READ. */
function refusal(error: unknown): unknown {
  if (!isRefusal(error) && !isLate(error)) return error;
  return new RomulusError(
    'ERR_DISK_READ',
    `QEMU does not serve its disks: ${toRomulusError(error).message}`,
    {
      remedy: `${ALL_IS_SENT} For less, end the NBD server that somebody started in this QEMU (\`nbd-server-stop\`) when it is not needed.`,
      cause: error,
    },
  );
}
