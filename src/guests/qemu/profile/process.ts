/**
 * What the kernel tells of a QEMU's process: its command line, program and working directory. Works
 * whatever the process is called: one started through a dynamic loader bears the loader's name.
 */
import { existsSync, readFileSync, readlinkSync, statfsSync } from 'node:fs';
import { RomulusError } from '../../../base/errors.ts';
import { HUGETLBFS_MAGIC } from '../incoming/memory-room.ts';

/** What the kernel tells of a process. */
export interface ProcessFacts {
  readonly argv: readonly string[];
  readonly executable: string;
  readonly workingDirectory: string;
}

/**
 * Reads them.
 * @throws {RomulusError} ERR_GUEST_PROFILE when the process is gone; ERR_HOST_ATTACH_PERMISSION when
 *   it is not ours to look at.
 */
export function processFacts(pid: number, procRoot = '/proc'): ProcessFacts {
  const directory = `${procRoot}/${pid}`;
  try {
    const commandLine = readFileSync(`${directory}/cmdline`, 'utf8');
    const argv = commandLine.replace(/\0$/, '').split('\0');
    if (argv[0] === '' || argv.length === 0) throw new Error('it has no command line');
    return {
      argv,
      executable: readlinkSync(`${directory}/exe`).replace(/ \(deleted\)$/, ''),
      workingDirectory: readlinkSync(`${directory}/cwd`),
    };
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'EACCES' || code === 'EPERM')
      throw new RomulusError(
        'ERR_HOST_ATTACH_PERMISSION',
        `no right to look into QEMU (process ${pid}): ${reason}`,
        {
          remedy: "Run Romulus as root or with CAP_SYS_PTRACE, or as QEMU's user.",
          cause,
          details: { pid },
        },
      );
    throw profileError(pid, `process ${pid} cannot be read: ${reason}`, cause);
  }
}

/**
 * Checks that a vCPU thread that QEMU names belongs to the process; without it a wrong pid would be
 * profiled, tracked and killed.
 * @throws {RomulusError} ERR_GUEST_PROFILE
 */
export function checkThread(pid: number, threadId: number, procRoot = '/proc'): void {
  const status = statusOf(pid, procRoot);
  // In a pid namespace of its own QEMU counts threads otherwise than we do.
  const isNamespaced = (/^NSpid:\s+(.*)$/m.exec(status)?.[1] ?? '').trim().split(/\s+/).length > 1;
  if (isNamespaced || existsSync(`${procRoot}/${pid}/task/${threadId}`)) return;
  throw profileError(
    pid,
    `process ${pid} is not the QEMU behind this monitor: it has no vCPU thread ${threadId}`,
  );
}

function statusOf(pid: number, procRoot: string): string {
  try {
    return readFileSync(`${procRoot}/${pid}/status`, 'utf8');
  } catch (cause) {
    throw profileError(pid, `process ${pid} is gone`, cause);
  }
}

/** Page size of the hugetlbfs on which a path lies as that process sees it, else null. */
export function hugepageBytesOf(pid: number, path: string, procRoot = '/proc'): number | null {
  // Of its own descriptors, as a promoted copy names its RAM; seen from here they would be ours.
  const inherited = /^\/proc\/self\/(fd\/\d+)$/.exec(path)?.[1];
  const root = `${procRoot}/${pid}/root`;
  const places =
    inherited === undefined
      ? // A file in use may have lost its name; its directory has not.
        [`${root}${path}`, `${root}${path.replace(/[^/]*$/, '')}`]
      : [`${procRoot}/${pid}/${inherited}`];
  const seen = places.find((place) => existsSync(place));
  if (seen === undefined) return null;
  const { type, bsize } = statfsSync(seen);
  return type === HUGETLBFS_MAGIC ? bsize : null;
}

/** The machine cannot be described. */
export function profileError(pid: number, message: string, cause?: unknown): RomulusError {
  return new RomulusError('ERR_GUEST_PROFILE', message, {
    remedy: 'Run as root or as the user of QEMU, and give the pid of the QEMU behind the monitor.',
    details: { pid },
    ...(cause === undefined ? {} : { cause }),
  });
}
