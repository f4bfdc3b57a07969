/**
 * What was heard on the consoles of a drill, as tenures: the stretch that one copy of the machine
 * spoke, from when it took over. Pure.
 *
 * A copy goes on in the middle of a line if the checkpoint fell there: its first line is then the end
 * of one whose beginning its predecessor printed.
 */
import type { SerialText } from './serial-line.ts';

/** A number of the counter and when it was read. */
export interface CountedLine {
  readonly number: number;
  readonly atNs: bigint;
}

/** What one copy of the machine said while it was the running one. */
export interface Tenure {
  /** Index of its node. */
  readonly side: number;
  readonly lines: readonly SerialText[];
  readonly counted: readonly CountedLine[];
}

const COUNTER_LINE = /^c ([1-9]\d*)$/;

/** The number that a line of the counter carries, or null. */
export function numberOf(text: string): number | null {
  const match = COUNTER_LINE.exec(text);
  return match?.[1] === undefined ? null : Number(match[1]);
}

/** The lines read in a stretch of time, and the counter's among them. */
export function tenureOf(
  side: number,
  all: readonly SerialText[],
  stretch: { readonly fromNs: bigint | null; readonly untilNs: bigint | null },
): Tenure {
  const { fromNs, untilNs } = stretch;
  const lines = all.filter(
    ({ atNs }) => (fromNs === null || atNs >= fromNs) && (untilNs === null || atNs < untilNs),
  );
  const counted: CountedLine[] = [];
  for (const { atNs, text } of lines) {
    const number = numberOf(text);
    if (number !== null) counted.push({ number, atNs });
  }
  const [first] = lines;
  const [firstCounted] = counted;
  // The end of a line begun elsewhere counts as that line: the copy did print the rest of it.
  if (first !== undefined && firstCounted !== undefined && numberOf(first.text) === null) {
    const before = firstCounted.number - 1;
    if (first.text !== '' && `c ${before}`.endsWith(first.text))
      counted.unshift({ number: before, atNs: first.atNs });
  }
  return { side, lines, counted };
}

/** How often the counter did not go on by one. */
export function countBreaks(tenure: Tenure): number {
  let breaks = 0;
  for (const [index, { number }] of tenure.counted.entries()) {
    const previous = tenure.counted[index - 1];
    if (previous !== undefined && number !== previous.number + 1) breaks += 1;
  }
  return breaks;
}

/** The last number read before an instant, 0 when there was none. */
export function lastNumberBefore(tenure: Tenure, instantNs: bigint): number {
  return tenure.counted.findLast(({ atNs }) => atNs < instantNs)?.number ?? 0;
}

/** The longest time between two numbers of the counter read before an instant, milliseconds. */
export function longestStallMs(tenure: Tenure, untilNs: bigint | null): number {
  let longestNs = 0n;
  for (const [index, { atNs }] of tenure.counted.entries()) {
    const previous = tenure.counted[index - 1];
    if (previous === undefined || (untilNs !== null && atNs >= untilNs)) continue;
    if (atNs - previous.atNs > longestNs) longestNs = atNs - previous.atNs;
  }
  return Number(longestNs) / 1e6;
}
