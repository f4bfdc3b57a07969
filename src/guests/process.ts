/**
 * A machine's process: facts about it from /proc (proc_pid_stat(5)), and its end. A process id alone
 * may name another process by the time it is used; together with the start time it does not.
 */
import { readFileSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { RomulusError } from '../base/errors.ts';

/** How long a killed machine may take to be gone, milliseconds: its memory is torn down first. */
export const FENCE_TIMEOUT_MS = 10_000;
const FENCE_POLL_MS = 1;

const STATE_FIELD = 0;
const FLAGS_FIELD = 6;
/** PF_EXITING of the kernel's include/linux/sched.h. */
const EXITING = 0x4;
const START_TIME_FIELD = 19;

/** When the process started, in the kernel's ticks; null when there is no such process. */
export function processStartTime(pid: number): string | null {
  return fieldsOf(pid)?.[START_TIME_FIELD] ?? null;
}

/**
 * The user that a process runs as.
 * @throws {RomulusError} ERR_GUEST_LOST when there is no such process.
 */
export function ownerOf(pid: number): { readonly uid: number; readonly gid: number } {
  try {
    const { uid, gid } = statSync(`/proc/${pid}`);
    return { uid, gid };
  } catch (cause) {
    throw new RomulusError('ERR_GUEST_LOST', `the machine's process ${pid} is gone`, {
      remedy: 'Check whether the machine still runs; if it ended, start it or fail over.',
      cause,
    });
  }
}

/** Whether the process can still run: it exists and is neither a zombie nor dead. */
export function isProcessAlive(pid: number): boolean {
  const state = fieldsOf(pid)?.[STATE_FIELD];
  return state !== undefined && state !== 'Z' && state !== 'X';
}

/** Whether the process runs no more, or is on its way there: its memory may take a while. */
export function isProcessEnding(pid: number): boolean {
  const flags = Number(fieldsOf(pid)?.[FLAGS_FIELD] ?? EXITING);
  return (flags & EXITING) !== 0 || !isProcessAlive(pid);
}

/**
 * Waits until the process cannot run any more; false when it still could after that time. Its sockets
 * close one after the other while it dies, so who hears of one closing asks here what it means. One that
 * is ending is waited for longer, up to `FENCE_TIMEOUT_MS`.
 */
export async function hasEndedWithin(pid: number, withinMs: number): Promise<boolean> {
  const startMs = performance.now();
  while (isProcessAlive(pid)) {
    const waitMs = isProcessEnding(pid) ? FENCE_TIMEOUT_MS : withinMs;
    if (performance.now() - startMs > waitMs) return false;
    await sleep(FENCE_POLL_MS);
  }
  return true;
}

/**
 * Kills the process that had this number and start time, and waits until it is gone. SIGKILL and
 * nothing gentler: a frozen or wedged machine must end too.
 * @throws {RomulusError} ERR_GUEST_FENCE when it does not end in time.
 */
export async function endProcess(pid: number, startTime: string | null): Promise<void> {
  if (startTime === null || processStartTime(pid) !== startTime) return;
  kill(pid);
  const deadlineMs = performance.now() + FENCE_TIMEOUT_MS;
  while (isProcessAlive(pid) && processStartTime(pid) === startTime) {
    if (performance.now() > deadlineMs) {
      throw new RomulusError(
        'ERR_GUEST_FENCE',
        `the machine (process ${pid}) did not end within ${FENCE_TIMEOUT_MS} ms`,
        {
          remedy: 'End it by hand (kill -9) before starting the copy.',
          details: { pid },
        },
      );
    }
    await sleep(FENCE_POLL_MS);
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    // Gone already: what we wanted.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** The fields after the command's name, which may hold spaces and parentheses itself. */
function fieldsOf(pid: number): string[] | null {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ESRCH') return null;
    throw error;
  }
  return text.slice(text.lastIndexOf(')') + 2).split(' ');
}
