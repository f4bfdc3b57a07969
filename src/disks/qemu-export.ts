/**
 * Disks of a running QEMU, read through QEMU itself: what it writes to a file in another form than the guest
 * sees (qcow2), or what no file of this host holds, only QEMU can tell meanwhile.
 *
 * QEMU is handed a socket that listens at a path of ours (`getfd`), so neither its user's rights nor
 * its view of the file system matter, and nobody else can connect. It has room for one NBD server, and
 * one that somebody else started is left alone: the disks cannot be read this way then.
 *
 * Names: descriptor `romulus-x`, exports `romulus-xN`. They live only as long as something is read. What
 * an engine left that was killed meanwhile is known by its exports, and ended by who attaches next; without
 * one yet, it is taken for a stranger's and stays.
 */
import { rmSync } from 'node:fs';
import { z } from 'zod';
import { RomulusError } from '../base/errors.ts';
import { closeDuplicate, listenAtPath } from '../native/descriptors.ts';
import { readError } from './readable-disk.ts';
import { NbdReader } from './nbd/reader.ts';
import { oldWithIothreads, SOUND_FROM_MAJOR } from './old-iothreads.ts';
import type { FoundDisk } from './found-disks.ts';
import type { DiskMonitor } from './qemu-mirror.ts';

const EXPORT_PREFIX = 'romulus-x';
const ALL_IS_SENT = 'Nothing must be done, all of the disks is sent.';

/** A monitor that descriptors can be handed to. */
export interface DescriptorMonitor extends DiskMonitor {
  commandWithDescriptor(name: string, args: object, descriptor: number): Promise<unknown>;
}

const exportsSchema = z.array(z.object({ id: z.string() }));

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
   * @throws {RomulusError} ERR_DISK_READ when it will not, and the monitor's own; nothing is left then.
   */
  static async open(monitor: DescriptorMonitor, socketPath: string): Promise<QemuExport> {
    await expectHarmless(monitor);
    await startServer(monitor, socketPath);
    return new QemuExport(monitor, socketPath);
  }

  /**
   * One of the disks, for reading.
   * @throws {RomulusError} ERR_DISK_READ.
   */
  async reader(disk: number, { node, diskBytes }: FoundDisk): Promise<NbdReader> {
    const name = exportName(disk);
    const served = { type: 'nbd', id: name, 'node-name': node, name, writable: false };
    try {
      await this.#monitor.command('block-export-add', served);
    } catch (error) {
      throw refusal(error);
    }
    return NbdReader.open({ path: this.#socketPath, exportName: name, diskBytes });
  }

  /**
   * Ends QEMU's server.
   * @throws {RomulusError} the monitor's own.
   */
  async close(): Promise<void> {
    rmSync(this.#socketPath, { force: true });
    await this.#monitor.command('nbd-server-stop');
  }
}

/**
 * Ends a server that a predecessor of ours left in the machine. None: nothing is done.
 * @throws {RomulusError} the monitor's own.
 */
export async function removeExports(monitor: DiskMonitor): Promise<void> {
  const found = exportsSchema.safeParse(await monitor.command('query-block-exports'));
  const isOurs = found.data?.some(({ id }) => id.startsWith(EXPORT_PREFIX)) === true;
  if (isOurs) await monitor.command('nbd-server-stop');
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
    rmSync(socketPath, { force: true });
    // QEMU keeps what it was handed until it is used. Gone already: that is all that is wanted. No server is
    // stopped here, also where QEMU was only late: it may be a stranger's.
    await monitor.command('closefd', { fdname: EXPORT_PREFIX }).catch(() => undefined);
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

function isRefusal(error: unknown): error is RomulusError {
  return error instanceof RomulusError && error.code.startsWith('ERR_GUEST_QMP_');
}

function refusal(error: unknown): unknown {
  if (!isRefusal(error)) return error;
  return new RomulusError('ERR_DISK_READ', `QEMU does not serve its disks: ${error.message}`, {
    remedy: `${ALL_IS_SENT} For less, end the NBD server that somebody started in this QEMU (\`nbd-server-stop\`) when it is not needed.`,
    cause: error,
  });
}
