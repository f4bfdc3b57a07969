/** What a process has used so far, as the kernel counts it (proc(5)). */
import { readdirSync, readFileSync } from 'node:fs';
import { MIB } from '../../src/base/units.ts';

/** The kernel gives times in ticks of USER_HZ, 100 a second on every Linux. */
const TICKS_PER_SECOND = 100;
/** Fields of `stat` after the command's closing parenthesis: state is field 3, utime 14, stime 15. */
const UTIME_INDEX = 11;
const STIME_INDEX = 12;

export interface ProcessUse {
  /** User and system time of all threads. */
  readonly cpuMs: number;
  /** Memory of its own, without what it shares with a machine. */
  readonly ownMib: number;
  /** All that is resident, mapped memory of the machine included. */
  readonly residentMib: number;
}

/** @throws {Error} ENOENT when there is no such process. */
export function processUse(pid: number): ProcessUse {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const ticks = Number(fields[UTIME_INDEX]) + Number(fields[STIME_INDEX]);
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  return {
    cpuMs: (ticks * 1000) / TICKS_PER_SECOND,
    ownMib: mibOf(status, 'RssAnon'),
    residentMib: mibOf(status, 'VmRSS'),
  };
}

/** What a thread got of a processor, nanoseconds. */
export interface ThreadUse {
  readonly ranNs: number;
  /** It could have run, and another did. */
  readonly waitedNs: number;
}

/** The thread of a process that ran most so far: in a QEMU whose guest is busy, its vCPU. */
export function busiestThread(pid: number): number {
  const threads = readdirSync(`/proc/${pid}/task`).map(Number);
  const ranNs = (thread: number): number => threadUse(pid, thread).ranNs;
  return threads.reduce((busiest, thread) => (ranNs(thread) > ranNs(busiest) ? thread : busiest));
}

/** Of one thread (`schedstat`, Documentation/scheduler/sched-stats.rst of Linux). */
export function threadUse(pid: number, thread: number): ThreadUse {
  const [ranNs = 0, waitedNs = 0] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'latin1')
    .split(' ')
    .map(Number);
  return { ranNs, waitedNs };
}

function mibOf(status: string, key: string): number {
  const kib = new RegExp(`^${key}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1];
  return Math.round((Number(kib ?? 0) * 1024) / MIB);
}

/** Memory that the host could still give, MiB. */
export function memoryAvailableMib(): number {
  return mibOf(readFileSync('/proc/meminfo', 'latin1'), 'MemAvailable');
}
