/**
 * QEMUs whose disks may run in threads of their own (iothreads) and that do not take it well:
 *
 * - A client of their NBD server that goes ends them: 7.2 with "Assertion `qemu_in_main_thread() &&
 *   nbd_server' failed".
 * - A guest's write that was begun while a mirror was being started is neither mirrored nor remembered: until its
 *   job runs in that thread, the mirror lets writes pass, and before 8.2 it did not mark them dirty
 *   (`bdrv_mirror_top_do_write` in block/mirror.c). A mirror that copies everything does so after that.
 */
import { z } from 'zod';
import type { DiskMonitor } from './qemu-mirror.ts';

/** From this version on neither was seen: 7.2, 10.0 and 11.1 were looked at. */
export const SOUND_FROM_MAJOR = 10;

const versionSchema = z.object({ qemu: z.object({ major: z.number(), minor: z.number() }) });
const iothreadsSchema = z.array(z.object({ id: z.string() }));

/**
 * A QEMU's version; null when it does not tell.
 * @throws {RomulusError} the monitor's own.
 */
export async function versionOf(
  monitor: DiskMonitor,
): Promise<z.infer<typeof versionSchema>['qemu'] | null> {
  return versionSchema.safeParse(await monitor.command('query-version')).data?.qemu ?? null;
}

/**
 * The version of such a QEMU that has iothreads; null for any other.
 * @throws {RomulusError} the monitor's own.
 */
export async function oldWithIothreads(monitor: DiskMonitor): Promise<string | null> {
  const version = await versionOf(monitor);
  if (version !== null && version.major >= SOUND_FROM_MAJOR) return null;
  const iothreads = iothreadsSchema.safeParse(await monitor.command('query-iothreads'));
  if (iothreads.data?.length === 0) return null;
  return version === null ? 'of unknown version' : `${version.major}.${version.minor}`;
}
