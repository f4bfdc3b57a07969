/**
 * Facts about another process, from /proc (proc_pid_stat(5)). A process id alone may name another
 * process by the time it is used; together with the start time it does not.
 */
import { readFileSync } from 'node:fs';

const STATE_FIELD = 0;
const START_TIME_FIELD = 19;

/** When the process started, in the kernel's ticks; null when there is no such process. */
export function processStartTime(pid: number): string | null {
  return fieldsOf(pid)?.[START_TIME_FIELD] ?? null;
}

/** Whether the process can still run: it exists and is neither a zombie nor dead. */
export function isProcessAlive(pid: number): boolean {
  const state = fieldsOf(pid)?.[STATE_FIELD];
  return state !== undefined && state !== 'Z' && state !== 'X';
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
