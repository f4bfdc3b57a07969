/** The plots of the report, each drawn from the records that it needs; left out without them. */
import { type Plot, type Series } from './plot.ts';
import type { AreaRecord } from './record.ts';
import { numberOf, type Row } from './result.ts';

/** A plot and the file that it goes to. */
export interface NamedPlot {
  readonly file: string;
  /** What it shows, for those who do not see it. */
  readonly text: string;
  readonly plot: Plot;
}

type Records = ReadonlyMap<string, AreaRecord>;

function rowsOf(records: Records, name: string): readonly Row[] {
  return records.get(name)?.rows ?? [];
}

function seriesOf(
  name: string,
  rows: readonly Row[],
  x: (row: Row) => number,
  y: (row: Row) => number,
): Series {
  const points = rows.map((row) => [x(row), y(row)] as const);
  return { name, points: points.sort(([left], [right]) => left - right) };
}

function groups(rows: readonly Row[], key: string): Map<string, Row[]> {
  const found = new Map<string, Row[]>();
  for (const row of rows) {
    const name = String(row[key]);
    const group = found.get(name);
    if (group === undefined) found.set(name, [row]);
    else group.push(row);
  }
  return found;
}

/** The rows with the largest interval of the machine that was measured at most dirty counts. */
function dirtyRows(records: Records): readonly Row[] {
  const bySeries = [...groups(rowsOf(records, 'dirty-set'), 'intervalMs').values()];
  return bySeries.sort((left, right) => right.length - left.length)[0] ?? [];
}

function pauseAgainstDirtyPages(records: Records): NamedPlot | null {
  const rows = dirtyRows(records);
  if (rows.length < 2) return null;
  const dirty = (row: Row): number => numberOf(row, 'dirtyPagesP50');
  const memoryMib = numberOf(rows[0], 'memoryMib');
  const floors = rowsOf(records, 'native-capture').filter(
    (row) => numberOf(row, 'memoryMib') === memoryMib,
  );
  const x = (row: Row): number => numberOf(row, 'dirtyPages');
  return {
    file: 'pause-against-dirty-pages.svg',
    text: 'Pause, and the capture in it, against the dirty pages of an epoch.',
    plot: {
      title: `Pause against dirty pages, ${memoryMib} MiB machine`,
      x: { label: 'dirty pages an epoch', scale: 'log' },
      y: { label: 'milliseconds', scale: 'log' },
      series: [
        seriesOf('pause, median', rows, dirty, (row) => numberOf(row, 'pauseP50Ms')),
        seriesOf('pause, p99', rows, dirty, (row) => numberOf(row, 'pauseP99Ms')),
        seriesOf(
          'scan + copy in it, median',
          rows,
          dirty,
          (row) => numberOf(row, 'scanP50Ms') + numberOf(row, 'copyP50Ms'),
        ),
        seriesOf('capture alone', floors, x, (row) => numberOf(row, 'totalP50Ms')),
        seriesOf('floor of a capture', floors, x, (row) => numberOf(row, 'floorP50Ms')),
      ],
    },
  };
}

function costAgainstMemory(records: Records): NamedPlot | null {
  const rows = rowsOf(records, 'dirty-set').filter((row) => numberOf(row, 'intervalMs') === 50);
  if (rows.length < 2) return null;
  const x = (row: Row): number => numberOf(row, 'memoryMib');
  return {
    file: 'cost-against-memory.svg',
    text: 'Pause and processor time of an epoch against the size of the machine.',
    plot: {
      title: 'Cost of an epoch of 1,000 dirty pages against memory',
      x: { label: 'memory of the machine, MiB', scale: 'log' },
      y: { label: 'milliseconds', scale: 'linear' },
      series: [
        seriesOf('pause, median', rows, x, (row) => numberOf(row, 'pauseP50Ms')),
        seriesOf('primary, processor time', rows, x, (row) =>
          numberOf(row, 'primaryCpuMsPerEpoch'),
        ),
        seriesOf('backup, processor time', rows, x, (row) => numberOf(row, 'backupCpuMsPerEpoch')),
      ],
    },
  };
}

/** Stretches that lost their protection show what the machine did alone: rows, but no points. */
function sweepRows(records: Records): readonly Row[] {
  return rowsOf(records, 'sweep').filter((row) => row['state'] === 'protected');
}

function sentAgainstRaw(records: Records): NamedPlot | null {
  const rows = sweepRows(records).filter((row) => numberOf(row, 'rawMbPerSecond') > 0);
  if (rows.length === 0) return null;
  const raw = (row: Row): number => numberOf(row, 'rawMbPerSecond');
  const measured = [...groups(rows, 'workload')].map(([workload, group]) =>
    seriesOf(workload, group, raw, (row) => numberOf(row, 'sentMbPerSecond')),
  );
  return {
    file: 'sent-against-raw.svg',
    text: 'Megabytes a second on the link against megabytes a second of dirty pages.',
    plot: {
      title: 'Sent against raw',
      x: { label: 'dirty pages, MB/s', scale: 'log' },
      y: { label: 'sent, MB/s', scale: 'log' },
      series: [...measured, seriesOf('no delta', rows, raw, raw)],
    },
  };
}

function overheadAgainstInterval(records: Records): NamedPlot | null {
  const all = sweepRows(records);
  const unlimited = all.filter((row) => row['rate'] === 'unlimited');
  const rows = unlimited.length > 0 ? unlimited : all;
  if (rows.length === 0) return null;
  const interval = (row: Row): number => numberOf(row, 'intervalMs');
  return {
    file: 'overhead-against-interval.svg',
    text: 'How much slower a machine at full speed runs when it is protected, against the interval.',
    plot: {
      title: 'Overhead against interval, machine, both nodes and the world on one host',
      x: { label: 'interval of epochs, ms', scale: 'linear' },
      y: { label: 'steps lost, percent', scale: 'linear' },
      series: [...groups(rows, 'workload')].map(([workload, group]) =>
        seriesOf(workload, group, interval, (row) =>
          Math.max(0, 100 * (1 - numberOf(row, 'speedToAlone'))),
        ),
      ),
    },
  };
}

function delayAgainstInterval(records: Records): NamedPlot | null {
  const all = sweepRows(records);
  const rates = all.map((row) => numberOf(row, 'rate')).filter((rate) => Number.isFinite(rate));
  const rate = Math.min(...rates);
  const rows = all.filter((row) => numberOf(row, 'rate') === rate);
  if (rows.length === 0) return null;
  const interval = (row: Row): number => numberOf(row, 'intervalMs');
  const byWorkload = [...groups(rows, 'workload')];
  const lines = (name: string, key: string): Series[] =>
    byWorkload.map(([workload, group]) =>
      seriesOf(`${workload}, ${name}`, group, interval, (row) => numberOf(row, key)),
    );
  return {
    file: 'output-delay-against-interval.svg',
    text: 'How long output waits in the gate, against the interval.',
    plot: {
      title: `Output delay against interval, ${rate.toLocaleString('en-US')} steps a second`,
      x: { label: 'interval of epochs, ms', scale: 'linear' },
      y: { label: 'output delay, ms', scale: 'linear' },
      series: [...lines('median', 'outputDelayP50Ms'), ...lines('p99', 'outputDelayP99Ms')],
    },
  };
}

/** All plots that these records are enough for. */
export function plotsOf(records: Records): NamedPlot[] {
  return [
    pauseAgainstDirtyPages(records),
    costAgainstMemory(records),
    sentAgainstRaw(records),
    overheadAgainstInterval(records),
    delayAgainstInterval(records),
  ].filter((plot) => plot !== null);
}
