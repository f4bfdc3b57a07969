/**
 * Which complaints of a guest's kernel are about a host that did not run it, and not about its copy.
 * Pure.
 *
 * Three kinds are known. The kernel says by all its clocks alike that it was not run for a while. Or it says
 * that a clock took too long to read for it to compare two of them: 0.1 ms is too long, and under TCG a
 * reading of the HPET waits until QEMU's main loop lets go of its lock. Or it finds two clocks a little
 * apart: when QEMU starts a machine again, and it does so at every checkpoint, it reads the host's ticks
 * and the host's time one after the other (`cpu_enable_ticks`, softmmu/cpu-timers.c), and what the host
 * stood still in between stays between the guest's TSC and its HPET. A kernel that uses the TSC notices
 * half a millisecond in half a second. In both of the latter cases it uses the HPET from then on. Clocks
 * that are further apart, or took longer to read, than `CLOCKS_APART_MS` are excused by nothing.
 */

const NS_PER_MS = 1e6;
/** Clocks that were read one after the other; what they differ by beyond it is a jump of one. */
const CLOCKS_APART_MS = 20;

/** A processor that was not run: the groups are for how long, in nanoseconds, by one clock or two. */
const STARVED = [
  /clocksource: Long readout interval, skipping watchdog check: cs_nsec: (\d+) wd_nsec: (\d+)/,
  /hrtimer: interrupt took (\d+) ns/,
];

/** A clock that could be read in time after all. */
const READ_AGAIN =
  /clocksource: timekeeping watchdog on CPU\d+: \S+ retried \d+ times before success/;
/** One that could not, and that the kernel uses no more; the group is for how long it took, in nanoseconds. */
const SLOW_READING =
  /clocksource: timekeeping watchdog on CPU\d+: \S+ read-back delay of (\d+)ns, attempt \d+, marking unstable/;
/** The lines by which the kernel tells of clocks that are apart; the groups as above. */
const APART = /clocksource: .*Marking clocksource '\w+' as unstable because the skew is too large/;
const APART_BY_ONE = /clocksource: +'\w+' wd_nsec: (\d+) /;
const APART_BY_OTHER = /clocksource: +'\w+' cs_nsec: (\d+) /;
/** What it says of itself in consequence. */
const CONSEQUENCES = [
  /clocksource: +(No current clocksource|'\w+' is current clocksource)/,
  /TSC found unstable after boot/,
  /sched_clock: Marking unstable/,
  /clocksource: Not enough CPUs to check clocksource/,
];

function isStarved(complaint: string): boolean {
  return STARVED.some((pattern) => {
    const [match, ...times] = pattern.exec(complaint) ?? [];
    const [one = 0, other = one] = times.map(Number);
    return match !== undefined && areTogether(one, other);
  });
}

function areTogether(oneNs: number, otherNs: number): boolean {
  return Math.abs(oneNs - otherNs) <= CLOCKS_APART_MS * NS_PER_MS;
}

/** The three lines of a pair of clocks that are a little apart, beginning at the index; else none. */
function apartAt(complaints: readonly string[], index: number): readonly string[] {
  const lines = complaints.slice(index, index + 3);
  const [head = '', one = '', other = ''] = lines;
  const oneNs = Number(APART_BY_ONE.exec(one)?.[1] ?? Number.NaN);
  const otherNs = Number(APART_BY_OTHER.exec(other)?.[1] ?? Number.NaN);
  return APART.test(head) && areTogether(oneNs, otherNs) ? lines : [];
}

function isSlowReading(complaint: string): boolean {
  return areTogether(0, Number(SLOW_READING.exec(complaint)?.[1] ?? Number.NaN));
}

/** Those of the complaints, given in their order, that only say that the host was busy. */
export function excusedOf(complaints: readonly string[]): Set<string> {
  const excused = new Set(complaints.filter((line) => isStarved(line) || READ_AGAIN.test(line)));
  const unstable = complaints.flatMap((line, index) =>
    isSlowReading(line) ? [line] : apartAt(complaints, index),
  );
  if (unstable.length === 0) return excused;
  const consequences = complaints.filter((line) =>
    CONSEQUENCES.some((pattern) => pattern.test(line)),
  );
  return new Set([...excused, ...unstable, ...consequences]);
}
