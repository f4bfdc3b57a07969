/** The report: what was promised beside what was measured, the plots, then every row of every area. */
import { AREAS } from './areas.ts';
import type { NamedPlot } from './plots.ts';
import type { AreaRecord } from './record.ts';
import { type Claim, holds, type Row } from './result.ts';

/** More columns than this are shown turned: keys down, rows across. */
const COLUMNS_MAX = 12;
const RUNNABLE_LOAD_SHARE = 1;

function cell(value: number | string | undefined): string {
  if (value === undefined) return '';
  const text = typeof value === 'number' && value >= 10_000 ? value.toLocaleString('en-US') : value;
  return String(text).replaceAll('|', '\\|');
}

function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [header, header.map(() => '---'), ...rows];
  return lines.map((line) => `| ${line.join(' | ')} |`).join('\n');
}

function rowsTable(rows: readonly Row[]): string {
  const keys = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  if (keys.length <= COLUMNS_MAX || rows.length > COLUMNS_MAX)
    return table(
      keys,
      rows.map((row) => keys.map((key) => cell(row[key]))),
    );
  const [first = '', ...others] = keys;
  return table(
    [first, ...rows.map((row) => cell(row[first]))],
    others.map((key) => [key].concat(rows.map((row) => cell(row[key])))),
  );
}

function withUnit(value: number, unit: string): string {
  return unit === '' ? cell(value) : `${cell(value)} ${unit}`;
}

/** One claim as table cells: what, measured, promised, whether it holds. */
export function claimCells(claim: Claim): string[] {
  const { what, measured, relation, bound, unit } = claim;
  return [
    what,
    Number.isNaN(measured) ? 'not measured' : withUnit(measured, unit),
    `${relation} ${withUnit(bound, unit)}`,
    holds(claim) ? 'yes' : '**no**',
  ];
}

function circumstances(record: AreaRecord): string[] {
  const { name, mode, startedAt, seconds, loadStart, loadEnd, host } = record;
  const busy = loadStart > host.cores * RUNNABLE_LOAD_SHARE ? ' (busy before it began)' : '';
  return [
    name,
    mode,
    startedAt,
    String(Math.round(seconds)),
    `${loadStart}${busy}`,
    String(loadEnd),
  ];
}

function areaText(record: AreaRecord): string {
  const notes = record.notes.map((note) => `- ${note}`).join('\n');
  return `## ${record.title}\n\n\`${record.name}\`\n\n${rowsTable(record.rows)}\n\n${notes}`;
}

/** The whole report as Markdown; `plotPath` leads from the report to the plots. */
export function reportText(
  records: ReadonlyMap<string, AreaRecord>,
  plots: readonly NamedPlot[],
  plotPath: string,
): string {
  const ordered = AREAS.map(({ name }) => records.get(name)).filter(
    (record) => record !== undefined,
  );
  const missing = AREAS.filter(
    ({ name, onlyByName }) => onlyByName !== true && !records.has(name),
  ).map(({ name }) => name);
  const [newest] = [...ordered].sort((left, right) =>
    right.startedAt.localeCompare(left.startedAt),
  );
  if (newest === undefined) throw new RangeError('a report needs at least one record');
  const { kernel, cpu, cores, memoryGib, node } = newest.host;
  const claims = ordered.flatMap((record) => record.claims ?? []);
  const parts = [
    '# Bench report',
    'Written by `npm run bench`; [BENCHMARKS](../../docs/BENCHMARKS.md) says how to read it.',
    `Host: ${cpu}, ${cores} cores, ${memoryGib} GiB; Linux ${kernel}, Node.js ${node}. ` +
      'Everything ran on this one host over loopback. A load average above the number of cores ' +
      'before an area began means that others worked there too: its tails are theirs as much as ours.',
    table(
      ['area', 'mode', 'started', 'seconds', 'load at start', 'load at end'],
      ordered.map(circumstances),
    ),
    ...(missing.length > 0 ? [`Not measured: ${missing.join(', ')}.`] : []),
    '## What was promised',
    table(['figure', 'measured', 'promised', 'holds'], claims.map(claimCells)),
    '## Plots',
    ...plots.map(({ file, text }) => `![${text}](${plotPath}/${file})`),
    ...ordered.map(areaText),
  ];
  return `${parts.join('\n\n')}\n`;
}
