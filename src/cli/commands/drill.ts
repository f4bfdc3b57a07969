/** `romulus drill`: rehearse a failure on this host, and prove what came of it. */
import type { Command } from 'commander';
import { randomInt } from 'node:crypto';
import { toRomulusError } from '../../base/errors.ts';
import type { Check } from '../../drill/checks.ts';
import type { DrillOptions } from '../../drill/options.ts';
import type { DrillObserver } from '../../drill/observer.ts';
import { type DrillResult, type DrillSummary, summarise } from '../../drill/result.ts';
import type { NodeStatus } from '../../engine/status.ts';
import { EXIT_FAILED } from '../exit-codes.ts';
import {
  addDrillFlags,
  type DrillFlags,
  type GivenFlags,
  optionsOf,
  replayCommand,
  SEED_MAX,
  TIMES_MAX,
  withDefaults,
} from '../drill-flags.ts';
import { colorsFor, formatBytes, formatMs, LiveLine, table } from '../render.ts';

function progressText(node: string, status: NodeStatus): string {
  return (
    `${node} ${status.state}  epoch ${status.epoch}  pages ${Math.round(status.dirtyPages.last)}  ` +
    `raw ${formatBytes(status.bytesRaw)}  sent ${formatBytes(status.bytesSent)}  ` +
    `pause ${formatMs(status.pauseMs.last)}  queue ${formatBytes(status.queueBytes)}  ` +
    `output delay ${formatMs(status.outputDelayMs.p50)}`
  );
}

/** Shows a drill to a person: what happened as lines, how it goes as one line that updates. */
function humanObserver(): DrillObserver & { readonly clear: () => void } {
  const line = new LiveLine(process.stdout);
  const colors = colorsFor(process.stdout);
  return {
    onStart: () => undefined,
    onStory: (text) => {
      line.clear();
      process.stdout.write(`${colors.dim('·')} ${text}\n`);
    },
    // Only who runs the machine has figures to show.
    onProgress: (node, status) => {
      if (status.role === 'primary') line.update(progressText(node, status), performance.now());
    },
    clear: () => line.clear(),
  };
}

/** With --json, progress lines are objects too, so that a reader sees the drill live. */
function jsonObserver(): DrillObserver & { readonly clear: () => void } {
  const write = (value: object): void => {
    process.stdout.write(`${JSON.stringify(value)}\n`);
  };
  let lastMs = Number.NEGATIVE_INFINITY;
  return {
    onStart: (directory) => write({ schemaVersion: 1, event: 'started', directory }),
    onStory: (text) => write({ schemaVersion: 1, event: 'story', text }),
    onProgress: (node, status) => {
      const nowMs = performance.now();
      if (status.role !== 'primary') return;
      if (nowMs - lastMs < 1000) return;
      lastMs = nowMs;
      write({ ...status, event: 'progress', node });
    },
    clear: () => undefined,
  };
}

function checkRows(checks: readonly Check[]): string[][] {
  const colors = colorsFor(process.stdout);
  return checks.map(({ ok, name, text }) => [
    ok ? colors.green('PASS') : colors.red('FAIL'),
    name,
    text,
  ]);
}

function printResult(result: DrillResult, options: DrillOptions): void {
  const colors = colorsFor(process.stdout);
  const figures: [string, string][] = [
    ['epochs acknowledged', String(result.epochs)],
    [
      'pause p50 / p99 / max',
      `${formatMs(result.pauseMs.p50)} / ${formatMs(result.pauseMs.p99)} / ${formatMs(result.pauseMs.max)}`,
    ],
    [
      'of which stop, scan, copy, state, resume (p50)',
      [result.stopMs, result.scanMs, result.copyMs, result.stateMs, result.resumeMs]
        .map(({ p50 }) => formatMs(p50))
        .join(' / '),
    ],
    [
      'output delay p50 / p99',
      `${formatMs(result.outputDelayMs.p50)} / ${formatMs(result.outputDelayMs.p99)}`,
    ],
    [
      'dirty pages p50 / max',
      `${Math.round(result.dirtyPages.p50)} / ${Math.round(result.dirtyPages.max)}`,
    ],
    ['bytes raw / sent', `${formatBytes(result.bytesRaw)} / ${formatBytes(result.bytesSent)}`],
    ['detected after', formatMs(result.detectMs)],
    ['of which waiting for promises', formatMs(result.waitedMs)],
    ['promoted in', formatMs(result.promoteMs)],
    ['heard again after', formatMs(result.rtoMs)],
    [
      'outputs heard / lost / reordered',
      `${result.outputsReleased} / ${result.outputsLost} / ${result.outputsReordered}`,
    ],
    ...serviceRows(result),
  ];
  process.stdout.write(`\n${table(['figure', 'value'], figures, process.stdout)}\n\n`);
  process.stdout.write(
    `${table(['', 'check', 'finding'], checkRows(result.checks), process.stdout)}\n\n`,
  );
  const verdict = result.ok ? colors.green('PASS') : colors.red('FAIL');
  process.stdout.write(`${verdict}  ${result.workload}, ${result.kill}, seed ${result.seed}\n`);
  if (result.evidence !== null) process.stdout.write(`evidence: ${result.evidence}\n`);
  if (!result.ok) process.stdout.write(`replay: ${replayCommand(options)}\n`);
}

/** Rows for a machine with a card or a disk. */
function serviceRows(result: DrillResult): [string, string][] {
  const rows: [string, string][] = [];
  if (result.tcpSurvived !== null)
    rows.push(
      ['connection survived', result.tcpSurvived ? 'yes' : 'NO'],
      ['clients without an answer', formatMs(result.clientGapMs)],
      [
        'writes acknowledged / of these lost',
        `${result.incrementsAcknowledged} / ${result.ackedWritesLost}`,
      ],
      ['frames held at most', String(result.heldFramesMax)],
    );
  if (result.diskBad !== null) rows.push(['bad blocks on the disk', String(result.diskBad)]);
  return rows;
}

function printSummary(summary: DrillSummary): void {
  const cells = (spread: DrillSummary['rtoMs']): string[] =>
    spread === null ? ['-', '-', '-'] : [spread.p50, spread.p99, spread.max].map(formatMs);
  const rows = [
    ['detected after', ...cells(summary.detectMs)],
    ['promoted in', ...cells(summary.promoteMs)],
    ['heard again after', ...cells(summary.rtoMs)],
    ...(summary.clientGapMs === null
      ? []
      : [['clients without an answer', ...cells(summary.clientGapMs)]]),
  ];
  process.stdout.write(`\n${table(['', 'p50', 'p99', 'max'], rows, process.stdout)}\n`);
  process.stdout.write(
    `\n${summary.ok ? 'PASS' : 'FAIL'}  ${summary.passed} of ${summary.runs} drills, ` +
      `${summary.outputsReleased} outputs heard, ${summary.outputsLost} lost, ${summary.outputsReordered} reordered\n`,
  );
  if (summary.falseStarts > 0)
    process.stdout.write(
      `begun anew: ${summary.falseStarts} times, because the backup of a living primary took over on this busy host\n`,
    );
  if (summary.failedSeeds.length > 0)
    process.stdout.write(`failed seeds: ${summary.failedSeeds.join(', ')}\n`);
}

async function runTimes(flags: DrillFlags): Promise<void> {
  const { runDrill } = await import('../../drill/drill.ts');
  const json = flags.json === true;
  const firstSeed = flags.seed ?? randomInt(1, SEED_MAX - TIMES_MAX);
  const results: DrillResult[] = [];
  const brokenSeeds: number[] = [];
  for (let turn = 0; turn < flags.times; turn += 1) {
    const options = optionsOf(flags, firstSeed + turn);
    const observer = json ? jsonObserver() : humanObserver();
    try {
      const result = await runDrill(options, observer);
      observer.clear();
      results.push(result);
      if (json) process.stdout.write(`${JSON.stringify(result)}\n`);
      else printResult(result, options);
    } catch (error) {
      observer.clear();
      if (flags.times === 1) throw error;
      const { code, message, remedy } = toRomulusError(error);
      process.stderr.write(`seed ${options.seed}: ${code}: ${message}\n  ${remedy}\n`);
      brokenSeeds.push(options.seed);
    }
  }
  const summary = summarise(
    results,
    {
      guest: flags.guest,
      workload: optionsOf(flags, firstSeed).workload,
      kill: flags.kill,
      runs: flags.times,
    },
    brokenSeeds,
  );
  if (flags.times > 1) {
    if (json) process.stdout.write(`${JSON.stringify(summary)}\n`);
    else printSummary(summary);
  }
  if (!summary.ok) process.exitCode = EXIT_FAILED;
}

/** Adds the command to the program. */
export function addDrill(program: Command): void {
  const command = program
    .command('drill')
    .description('stage a failure with real processes on this host, and check what came of it');
  addDrillFlags(command)
    .addHelpText(
      'after',
      `
Examples:
  $ romulus drill
  $ romulus drill --kill sigstop --workload kv --seed 7
  $ romulus drill --guest qemu --kill sigkill --times 10
  $ romulus drill --guest qemu --disk --net
  $ romulus drill --kill link --times 20 --json | tail -n 1
`,
    )
    .action(async (flags: GivenFlags) => {
      await runTimes(withDefaults(flags));
    });
}
