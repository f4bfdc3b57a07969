/** What a process has used so far, as the kernel counts it (proc(5)). */
import { readFileSync } from 'node:fs';
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

function mibOf(status: string, key: string): number {
  const kib = new RegExp(`^${key}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1];
  return Math.round((Number(kib ?? 0) * 1024) / MIB);
}

/** Memory that the host could still give, MiB. */
export function memoryAvailableMib(): number {
  return mibOf(readFileSync('/proc/meminfo', 'latin1'), 'MemAvailable');
}
