/** The guest's `writes` program, by a clock outside and by the guest's own. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { SerialLine } from '../../src/drill/qemu/serial-line.ts';
import type { CoreSpeed } from './core-speed.ts';
import type { Go } from './matched.ts';
import { percentile } from './result.ts';

/** One 4 KiB write after the other, over a stretch. */
export interface WriteTimes {
  /** By a clock outside: pauses are in it. */
  readonly meanUs: number;
  /** By the guest's clock, which stands in a pause. */
  readonly guestP50Us: number;
  readonly guestP99Us: number;
  /** From one line to the next: the mean of a write, microseconds, and how slow the cores were. */
  readonly spells: readonly Go[];
}

const LINE = /^o (\d+) ([\d.]+) ([\d.]+)$/;
const NS_PER_US = 1e3;
const US_PER_MS = 1e3;
/** It says four a second. */
const LINES_MIN = 5;
const WAIT_MS = 60_000;
/** What is said of the cores' last moments is still on its way. */
const WITNESS_WAIT_MS = 500;

interface Said {
  readonly atUs: number;
  readonly writes: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

function saidSince(serial: SerialLine, first: number): Said[] {
  return serial.lines.slice(first).flatMap(({ atNs, text }) => {
    const [line, writes, p50, p99] = LINE.exec(text) ?? [];
    if (line === undefined) return [];
    const atUs = Number(atNs) / NS_PER_US;
    return [{ atUs, writes: Number(writes), p50Us: Number(p50), p99Us: Number(p99) }];
  });
}

/** Looks on for so long, or until a guest that hardly gets a turn has said enough. */
export async function measureWrites(
  serial: SerialLine,
  options: { readonly seconds: number; readonly speed: CoreSpeed },
): Promise<WriteTimes> {
  const { seconds, speed } = options;
  const first = serial.lines.length;
  const startMs = performance.now();
  let said: Said[] = [];
  while (said.length < LINES_MIN) {
    if (performance.now() - startMs > WAIT_MS)
      throw new Error(`the guest wrote next to nothing in ${WAIT_MS / 1000} s`);
    await sleep(seconds * 1000);
    said = saidSince(serial, first);
  }
  const [begin, end] = [said[0], said.at(-1)];
  if (begin === undefined || end === undefined) throw new RangeError('there are lines');
  await sleep(WITNESS_WAIT_MS);
  return {
    meanUs: (end.atUs - begin.atUs) / (end.writes - begin.writes),
    guestP50Us: percentile(
      said.map(({ p50Us }) => p50Us),
      0.5,
    ),
    guestP99Us: percentile(
      said.map(({ p99Us }) => p99Us),
      0.5,
    ),
    spells: spellsOf(said, speed),
  };
}

function spellsOf(said: readonly Said[], speed: CoreSpeed): Go[] {
  const offsetMs = Number(process.hrtime.bigint()) / 1e6 - performance.now();
  return said.slice(1).flatMap((line, index): Go[] => {
    const before = said[index];
    if (before === undefined || line.writes === before.writes) return [];
    const at = ({ atUs }: Said): number => atUs / US_PER_MS - offsetMs;
    const slowness = speed.slowness(at(before), at(line));
    const took = (line.atUs - before.atUs) / (line.writes - before.writes);
    return slowness === null ? [] : [{ took, slowness }];
  });
}
