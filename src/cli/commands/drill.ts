/** `romulus drill`: rehearse a failure on this host, and prove what came of it. */
import type { Command } from 'commander';
import { randomInt } from 'node:crypto';
import { RomulusError, toRomulusError } from '../../base/errors.ts';
import type { Check } from '../../drill/checks.ts';
import {
  ACCELERATORS,
  type DrillOptions,
  KILLS,
  type Kill,
  minIntervalText,
  QEMU_WORKLOADS,
  WORKLOADS,
} from '../../drill/options.ts';
import type { DrillObserver } from '../../drill/observer.ts';
import { type DrillResult, type DrillSummary, summarise } from '../../drill/result.ts';
import type { NodeStatus } from '../../engine/status.ts';
import { EXIT_FAILED } from '../exit-codes.ts';
import { durationMs, durationMsOrOff, oneOf, sizeBytes, wholeNumber } from '../options.ts';
import { colorsFor, formatBytes, formatMs, LiveLine, table } from '../render.ts';

const SEED_MAX = 0x7fff_ffff;
const TIMES_MAX = 100_000;
const RATE_MAX = 1_000_000_000;

const ALL_WORKLOADS = [...WORKLOADS, ...QEMU_WORKLOADS] as const;

interface DrillFlags {
  readonly guest: DrillOptions['guest'];
  readonly workload?: (typeof ALL_WORKLOADS)[number];
  readonly memory: number;
  readonly rate?: number;
  readonly interval: number;
  readonly minInterval?: number;
  readonly kill: Kill;
  readonly times: number;
  readonly seed?: number;
  readonly rejoin?: boolean;
  readonly redisBenchmark?: boolean;
  readonly tracker: 'auto' | 'mprotect';
  readonly qemu?: string;
  readonly backupQemu?: string;
  readonly accelerator?: (typeof ACCELERATORS)[number];
  readonly machine?: string;
  readonly cpu?: string;
  readonly disk?: boolean;
  readonly net?: boolean;
  readonly keep?: boolean;
  readonly json?: boolean;
}

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

function printResult(result: DrillResult): void {
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
  if (!result.ok) process.stdout.write(`replay: ${replayCommand(result)}\n`);
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

function replayCommand(result: DrillResult): string {
  const { minIntervalMs } = result;
  const pace = minIntervalMs === null ? '' : ` --min-interval ${minIntervalText(minIntervalMs)}`;
  return (
    `romulus drill --guest ${result.guest} --workload ${result.workload} --kill ${result.kill} ` +
    `--seed ${result.seed} --memory ${result.memoryBytes / 1024}K --interval ${result.intervalMs}ms` +
    `${pace}${result.diskBad === null ? '' : ' --disk'}${result.tcpSurvived === null ? '' : ' --net'}`
  );
}

function workloadFor<Name extends string>(flags: DrillFlags, names: readonly Name[]): Name | null {
  const wanted = flags.workload;
  if (wanted === undefined) return null;
  const found = names.find((name) => name === wanted);
  if (found !== undefined) return found;
  throw new RomulusError(
    'ERR_USAGE_VALUE',
    `--workload ${wanted} is not for --guest ${flags.guest}`,
    {
      remedy: `Use one of ${names.join(', ')}.`,
    },
  );
}

function refuseForeignFlags(flags: DrillFlags): void {
  const foreign =
    flags.guest === 'sim'
      ? {
          '--qemu': flags.qemu,
          '--backup-qemu': flags.backupQemu,
          '--accelerator': flags.accelerator,
          '--machine': flags.machine,
          '--cpu': flags.cpu,
          '--disk': flags.disk,
          '--net': flags.net,
        }
      : { '--rate': flags.rate, '--redis-benchmark': flags.redisBenchmark };
  for (const [flag, value] of Object.entries(foreign))
    if (value !== undefined)
      throw new RomulusError('ERR_USAGE_VALUE', `${flag} is not for --guest ${flags.guest}`, {
        remedy: `Leave ${flag} out, or choose the other kind of machine.`,
      });
}

function refuseWithoutNet(flags: DrillFlags): void {
  if (flags.kill === 'uplink' && flags.net !== true)
    throw new RomulusError('ERR_USAGE_VALUE', '--kill uplink cuts a network that is not there', {
      remedy: 'Add --guest qemu --net, or choose another kind.',
    });
  if (flags.workload === 'bare' && (flags.disk === true || flags.net === true))
    throw new RomulusError('ERR_USAGE_VALUE', '--workload bare has neither disk nor network', {
      remedy: 'Leave --disk and --net out, or choose another workload.',
    });
}

/** What one drill of the series is told. */
function optionsOf(flags: DrillFlags, seed: number): DrillOptions {
  refuseForeignFlags(flags);
  refuseWithoutNet(flags);
  const common = {
    memoryBytes: flags.memory,
    intervalMs: flags.interval,
    minIntervalMs: flags.minInterval ?? null,
    kill: flags.kill,
    seed,
    rejoin: flags.rejoin === true,
    tracker: flags.tracker,
    keep: flags.keep === true,
  };
  if (flags.guest === 'qemu') {
    const qemu = flags.qemu ?? 'system';
    return {
      ...common,
      guest: 'qemu',
      workload: workloadFor(flags, QEMU_WORKLOADS) ?? 'pattern',
      qemu,
      backupQemu: flags.backupQemu ?? qemu,
      accelerator: flags.accelerator ?? 'tcg',
      machine: flags.machine ?? null,
      cpu: flags.cpu ?? null,
      disk: flags.disk === true,
      net: flags.net === true,
    };
  }
  return {
    ...common,
    guest: 'sim',
    workload: workloadFor(flags, WORKLOADS) ?? 'hotspot',
    rate: flags.rate ?? null,
    redisBenchmark: flags.redisBenchmark === true,
  };
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
      else printResult(result);
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
  program
    .command('drill')
    .description('stage a failure with real processes on this host, and check what came of it')
    .option(
      '--guest <kind>',
      'kind of machine: sim, or qemu with a small Linux in it',
      oneOf('--guest', ['sim', 'qemu'] as const),
      'sim',
    )
    .option(
      '--workload <name>',
      `what the machine runs; sim: ${WORKLOADS.join(', ')} (default: hotspot); ` +
        `qemu: ${QEMU_WORKLOADS.join(', ')} (default: pattern)`,
      oneOf('--workload', ALL_WORKLOADS),
    )
    .option('--memory <size>', 'memory of the machine (default: 256M)', sizeBytes('--memory'))
    .option(
      '--rate <steps>',
      'steps a second of the machine (default: its own)',
      wholeNumber('--rate', { min: 1, max: RATE_MAX }),
    )
    .option('--interval <duration>', 'length of an epoch (default: 25ms)', durationMs('--interval'))
    .option(
      '--min-interval <duration>',
      'how soon output that waits ends an epoch early; off: never (default: as the nodes do)',
      durationMsOrOff('--min-interval'),
    )
    .option('--kill <kind>', `what strikes: ${KILLS.join(', ')}`, oneOf('--kill', KILLS), 'sigkill')
    .option(
      '--times <count>',
      'how often, with seeds one apart (default: 1)',
      wholeNumber('--times', { min: 1, max: TIMES_MAX }),
    )
    .option(
      '--seed <number>',
      'seed of machine and moment (default: random)',
      wholeNumber('--seed', { min: 1, max: SEED_MAX }),
    )
    .option('--rejoin', 'start the killed side again and fail over the other way too')
    .option('--redis-benchmark', 'with --workload kv: load it with the real redis-benchmark')
    .option(
      '--tracker <kind>',
      'how written pages are found: auto, or mprotect as on old kernels',
      oneOf('--tracker', ['auto', 'mprotect'] as const),
      'auto',
    )
    .option(
      '--qemu <which>',
      'QEMU to run: a path, 10.0 or 11.1 (fetched), or system (default: system)',
    )
    .option('--backup-qemu <which>', "the backup's QEMU (default: the same)")
    .option(
      '--accelerator <kind>',
      "QEMU's accelerator: tcg or kvm (default: tcg); a nested KVM may only run --workload bare",
      oneOf('--accelerator', ACCELERATORS),
    )
    .option('--machine <type>', 'machine type (default: q35, or one that both QEMUs have)')
    .option(
      '--cpu <model>',
      'CPU model (default: max, kvm64 under KVM, or one that both QEMUs have)',
    )
    .option('--disk', 'with --guest qemu: a disk, written and checked by the guest, replicated')
    .option(
      '--net',
      'with --guest qemu, as root: two hosts as network namespaces, and clients that judge from outside',
    )
    .option('--keep', 'keep logs and audit files even when all went well')
    .option('--json', 'JSON lines on stdout; the last one is the result')
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
    .action(async (flags: Partial<DrillFlags> & Pick<DrillFlags, 'guest' | 'kill' | 'tracker'>) => {
      await runTimes({
        ...flags,
        memory: flags.memory ?? 256 * 1024 * 1024,
        interval: flags.interval ?? 25,
        times: flags.times ?? 1,
      });
    });
}
