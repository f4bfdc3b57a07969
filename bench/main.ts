/**
 * `npm run bench [-- --quick] [--only NAME]... [--save] [--stress SECONDS]
 * [--drills COUNT] [--seconds SECONDS]`: measures every area, one
 * after the other, and writes `bench/out/<area>.json`, `bench/out/all.json` and a report with plots.
 * With --save also `bench/results` and `bench/plots`, which are committed.
 *
 * Exit code 0 when every area gave a result, 1 when one did not, 2 for wrong usage. A figure that
 * misses its bound is told, but is no failure: the host may be busy.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CLI_PATH } from '../src/drill/node-process.ts';
import { type Area, AREAS, type RunSettings, SOAK_SECONDS_MAX } from './lib/areas.ts';
import { hostFacts, loadNow } from './lib/host.ts';
import { drawPlot } from './lib/plot.ts';
import { plotsOf } from './lib/plots.ts';
import { type AreaRecord, readRecords, writeRecord } from './lib/record.ts';
import { claimCells, reportText } from './lib/report.ts';
import type { BenchResult, Mode } from './lib/result.ts';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const OUT = join(HERE, 'out');
const RESULTS = join(HERE, 'results');
const PLOTS = join(HERE, 'plots');
/** Between asking an area to end and making it. */
const END_GRACE_MS = 3000;
/** Full runs see whether a minute under full load makes anybody look dead. */
const STRESS_SECONDS_FULL = 60;
const STRESS_SECONDS_MAX = 1000;
const DRILLS: { readonly [mode in Mode]: number } = { quick: 2, full: 20 };
const QEMU_DRILLS: { readonly [mode in Mode]: number } = { quick: 1, full: 10 };
const DRILLS_MAX = 40;
const SOAK_SECONDS: { readonly [mode in Mode]: number } = { quick: 30, full: 1800 };

function namesOf(onlyByName: boolean): string {
  return AREAS.filter((area) => (area.onlyByName ?? false) === onlyByName)
    .map(({ name }) => name)
    .join(', ');
}

const USAGE = `Usage: npm run bench -- [--quick] [--only NAME]... [--stress SECONDS] [--drills COUNT]
                        [--seconds SECONDS] [--save]

  --quick            a few samples of each, in about ten minutes: shows that all works
  --only NAME        this area alone; may be given again
  --stress SECONDS   how long every core is kept busy to see whether anybody is called dead falsely
                     (full runs: ${STRESS_SECONDS_FULL}, quick ones: 0); needs stress-ng
  --drills COUNT     drills of each kind (full runs: ${DRILLS.full}, of QEMU ${QEMU_DRILLS.full}; quick ones: ${DRILLS.quick} and ${QEMU_DRILLS.quick})
  --seconds SECONDS  how long qemu-soak goes on (full: ${SOAK_SECONDS.full}, quick: ${SOAK_SECONDS.quick})
  --report           measure nothing: write the report of bench/results anew
  --save             also write bench/results and bench/plots

Areas: ${namesOf(false)}
Only by name: ${namesOf(true)}
`;

function usageError(text: string): never {
  process.stderr.write(`${text}\n\n${USAGE}`);
  process.exit(2);
}

function wholeNumber(flag: string, text: string, max: number): number {
  const value = Number(text);
  if (text === '' || !Number.isInteger(value) || value < 0 || value > max)
    return usageError(`${flag}: a whole number, 0 to ${max}`);
  return value;
}

function readArgs(): { settings: RunSettings; areas: readonly Area[]; save: boolean } {
  const options = {
    quick: { type: 'boolean', default: false },
    only: { type: 'string', multiple: true, default: [] as string[] },
    save: { type: 'boolean', default: false },
    report: { type: 'boolean', default: false },
    stress: { type: 'string' },
    drills: { type: 'string' },
    seconds: { type: 'string' },
    help: { type: 'boolean', default: false },
  } as const;
  let values: ReturnType<typeof parseArgs<{ options: typeof options }>>['values'];
  try {
    ({ values } = parseArgs({ options }));
  } catch (error) {
    return usageError(error instanceof Error ? error.message : String(error));
  }
  if (values.help) {
    process.stdout.write(USAGE);
    process.exit(0);
  }
  if (values.report) {
    writeReport(RESULTS, PLOTS, '../plots');
    process.exit(0);
  }
  const only = values.only ?? [];
  const unknown = only.find((name) => !AREAS.some((area) => area.name === name));
  if (unknown !== undefined) usageError(`--only: there is no area "${unknown}"`);
  const mode = values.quick ? 'quick' : 'full';
  const stressSeconds = wholeNumber(
    '--stress',
    values.stress ?? (mode === 'full' ? String(STRESS_SECONDS_FULL) : '0'),
    STRESS_SECONDS_MAX,
  );
  const drillsOf = (counts: typeof DRILLS): number =>
    wholeNumber('--drills', values.drills ?? String(counts[mode]), DRILLS_MAX);
  const soakSeconds = wholeNumber(
    '--seconds',
    values.seconds ?? String(SOAK_SECONDS[mode]),
    SOAK_SECONDS_MAX,
  );
  return {
    settings: {
      mode,
      stressSeconds,
      drills: drillsOf(DRILLS),
      qemuDrills: drillsOf(QEMU_DRILLS),
      soakSeconds,
    },
    areas: AREAS.filter(({ name, onlyByName }) =>
      only.length === 0 ? onlyByName !== true : only.includes(name),
    ),
    save: values.save,
  };
}

let running: ChildProcess | null = null;
let interrupted = false;

/** Runs one area in a child; null when it failed, which is told on stderr. */
async function runArea(area: Area, settings: RunSettings): Promise<BenchResult | null> {
  const child = fork(join(HERE, 'run-area.ts'), [area.name, JSON.stringify(settings)]);
  running = child;
  let result: BenchResult | null = null;
  child.once('message', (message) => {
    result = message as BenchResult;
  });
  const limitMs = area.withinSeconds[settings.mode] * 1000;
  const timer = setTimeout(() => {
    process.stderr.write(`${area.name}: not done within ${limitMs / 1000} s, ended\n`);
    child.kill('SIGTERM');
    setTimeout(() => child.kill('SIGKILL'), END_GRACE_MS).unref();
  }, limitMs);
  await new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', () => resolve());
  });
  clearTimeout(timer);
  running = null;
  return result;
}

async function measure(area: Area, settings: RunSettings): Promise<AreaRecord | null> {
  const startedAt = new Date().toISOString();
  const startMs = performance.now();
  const loadStart = loadNow();
  process.stdout.write(`${area.name}: ${area.title} (load ${loadStart}) ...\n`);
  const result = await runArea(area, settings);
  const seconds = (performance.now() - startMs) / 1000;
  if (result === null) {
    process.stdout.write(`${area.name}: FAILED after ${seconds.toFixed(0)} s\n`);
    return null;
  }
  process.stdout.write(`${area.name}: ${result.rows.length} rows in ${seconds.toFixed(0)} s\n`);
  for (const claim of result.claims ?? []) {
    const [what, measured, bound, ok] = claimCells(claim);
    process.stdout.write(`  ${ok === 'yes' ? 'ok  ' : 'MISS'} ${what}: ${measured} (${bound})\n`);
  }
  return {
    schemaVersion: 1,
    title: area.title,
    mode: settings.mode,
    startedAt,
    seconds: Number(seconds.toFixed(1)),
    host: hostFacts(),
    loadStart,
    loadEnd: loadNow(),
    ...result,
  };
}

/** Draws and writes what the records in a directory are enough for. */
function writeReport(records: string, plots: string, plotPath: string): void {
  const found = readRecords(records);
  if (found.size === 0) return;
  const drawn = plotsOf(found);
  mkdirSync(plots, { recursive: true });
  for (const { file, plot } of drawn) writeFileSync(join(plots, file), drawPlot(plot));
  writeFileSync(join(records, 'REPORT.md'), reportText(found, drawn, plotPath));
}

async function main(): Promise<void> {
  const { settings, areas, save } = readArgs();
  if (!existsSync(CLI_PATH)) usageError('the command line is not built: npm run build');
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => {
      interrupted = true;
      running?.kill('SIGTERM');
      process.exitCode = 1;
    });
  // What an earlier run left would be reported as if it were of this one.
  rmSync(OUT, { recursive: true, force: true });
  mkdirSync(OUT, { recursive: true });
  const records: AreaRecord[] = [];
  for (const area of areas) {
    if (interrupted) break;
    const record = await measure(area, settings);
    if (record === null) {
      process.exitCode = 1;
      continue;
    }
    records.push(record);
    writeRecord(OUT, record);
    if (save) writeRecord(RESULTS, record);
  }
  writeReport(OUT, join(OUT, 'plots'), 'plots');
  if (save) writeReport(RESULTS, PLOTS, '../plots');
  writeFileSync(
    join(OUT, 'all.json'),
    `${JSON.stringify({ schemaVersion: 1, settings, areas: records }, null, 1)}\n`,
  );
  process.stdout.write(`written: bench/out/all.json, bench/out/REPORT.md, bench/out/plots\n`);
}

await main();
