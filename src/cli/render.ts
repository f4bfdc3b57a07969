/**
 * How things look on a terminal: colours, tables, one line that updates in place. Everything here
 * falls back to plain lines when the output is no terminal, and to no colour under NO_COLOR.
 */
import Table from 'cli-table3';
import pico from 'picocolors';

/** Where to write; a narrow view of `process.stdout`, so that tests can stand in. */
export interface Sink {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

/** Colours that are plain when the sink is no terminal or NO_COLOR is set. */
export function colorsFor(sink: Sink): ReturnType<typeof pico.createColors> {
  return pico.createColors(sink.isTTY === true && pico.isColorSupported);
}

/** Lays rows out as a table with a head; borders only where a person looks. */
export function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  sink: Sink,
): string {
  const plain = sink.isTTY !== true;
  const layout = new Table({
    head: [...head],
    style: { head: [], border: [], compact: true },
    ...(plain ? { chars: PLAIN_BORDERS } : {}),
  });
  layout.push(...rows.map((row) => [...row]));
  return layout.toString();
}

const PLAIN_BORDERS = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '  ',
};

/** A line that is rewritten in place on a terminal and printed at most once a second elsewhere. */
export class LiveLine {
  readonly #sink: Sink;
  readonly #plainPeriodMs: number;
  #lastPlainMs = Number.NEGATIVE_INFINITY;
  #shown = false;

  constructor(sink: Sink, options: { plainPeriodMs?: number } = {}) {
    this.#sink = sink;
    this.#plainPeriodMs = options.plainPeriodMs ?? 1000;
  }

  /** Shows the text; `nowMs` is any monotonic clock. */
  update(text: string, nowMs: number): void {
    if (this.#sink.isTTY === true) {
      const columns = this.#sink.columns ?? 80;
      this.#sink.write(`\r\u001b[2K${text.slice(0, columns - 1)}`);
      this.#shown = true;
      return;
    }
    if (nowMs - this.#lastPlainMs < this.#plainPeriodMs) return;
    this.#lastPlainMs = nowMs;
    this.#sink.write(`${text}\n`);
  }

  /** Takes the line away, so that the next output starts clean. */
  clear(): void {
    if (this.#shown) this.#sink.write('\r\u001b[2K');
    this.#shown = false;
  }
}

const SIZE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const;

/** `1536` -> `1.5 KiB`. */
export function formatBytes(count: number): string {
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < SIZE_UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 1 : 0)} ${SIZE_UNITS[unit] ?? ''}`;
}

/** `0.4321` -> `0.43 ms`; null and undefined show as a dash. */
export function formatMs(valueMs: number | null | undefined): string {
  if (valueMs === null || valueMs === undefined || !Number.isFinite(valueMs)) return '-';
  if (valueMs >= 10_000) return `${(valueMs / 1000).toFixed(1)} s`;
  return `${valueMs.toFixed(valueMs < 10 ? 2 : valueMs < 100 ? 1 : 0)} ms`;
}

/** A time to wait, as one says it: `40 s`, `12 min`, `3 h 5 min`. */
export function formatSpan(valueMs: number): string {
  const seconds = Math.max(1, Math.round(valueMs / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
