/** The guest's `writes` program, by a clock outside and by the guest's own. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { SerialLine } from '../../src/drill/qemu/serial-line.ts';
import { percentile } from './result.ts';

/** One 4 KiB write after the other, over a stretch. */
export interface WriteTimes {
  /** By a clock outside: pauses are in it. */
  readonly meanUs: number;
  /** By the guest's clock, which stands in a pause. */
  readonly guestP50Us: number;
  readonly guestP99Us: number;
}

const LINE = /^o (\d+) ([\d.]+) ([\d.]+)$/;
const NS_PER_US = 1e3;

/** Looks on for so long. */
export async function measureWrites(serial: SerialLine, seconds: number): Promise<WriteTimes> {
  const first = serial.lines.length;
  await sleep(seconds * 1000);
  const seen = serial.lines.slice(first).flatMap(({ atNs, text }) => {
    const [line, writes, p50, p99] = LINE.exec(text) ?? [];
    if (line === undefined) return [];
    return [
      {
        atUs: Number(atNs) / NS_PER_US,
        writes: Number(writes),
        p50: Number(p50),
        p99: Number(p99),
      },
    ];
  });
  const [begin] = seen;
  const end = seen.at(-1);
  if (begin === undefined || end === undefined || begin === end)
    throw new Error(`the guest said too little in ${seconds} s`);
  return {
    meanUs: (end.atUs - begin.atUs) / (end.writes - begin.writes),
    guestP50Us: percentile(
      seen.map(({ p50 }) => p50),
      0.5,
    ),
    guestP99Us: percentile(
      seen.map(({ p99 }) => p99),
      0.5,
    ),
  };
}
