/**
 * The flags of `romulus drill`: how they become what a drill is told, and how that becomes flags again, so
 * that a failed drill says by which command it is played again.
 */
import type { Command } from 'commander';
import { RomulusError } from '../base/errors.ts';
import { sizeText } from '../base/units.ts';
import {
  ACCELERATORS,
  type DrillOptions,
  KILLS,
  type Kill,
  minIntervalText,
  QEMU_WORKLOADS,
  type QemuDrillOptions,
  type SimDrillOptions,
  WORKLOADS,
} from '../drill/options.ts';
import { durationMs, durationMsOrOff, oneOf, sizeBytes, wholeNumber } from './options.ts';

export const SEED_MAX = 0x7fff_ffff;
export const TIMES_MAX = 100_000;
const RATE_MAX = 1_000_000_000;

const ALL_WORKLOADS = [...WORKLOADS, ...QEMU_WORKLOADS] as const;

/** What commander makes of the flags, defaults filled in. */
export interface DrillFlags {
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

/** What was typed. */
export type GivenFlags = Partial<DrillFlags> & Pick<DrillFlags, 'guest' | 'kill' | 'tracker'>;

/** The flags as they count. */
export function withDefaults(flags: GivenFlags): DrillFlags {
  return {
    ...flags,
    memory: flags.memory ?? 256 * 1024 * 1024,
    interval: flags.interval ?? 25,
    times: flags.times ?? 1,
  };
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
export function optionsOf(flags: DrillFlags, seed: number): DrillOptions {
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

/** The words that give one option its value. */
type Words = string[];
/** Each option has its line: one that is added does not compile without. */
type WordsOf<Options> = { readonly [Key in keyof Options]: (value: Options[Key]) => Words };

const flag =
  (name: string) =>
  (value: string | number | null): Words =>
    value === null ? [] : [name, String(value)];
const toggle =
  (name: string) =>
  (value: boolean): Words =>
    value ? [name] : [];

const COMMON_WORDS = {
  memoryBytes: (value: number): Words => ['--memory', sizeText(value)],
  intervalMs: (value: number): Words => ['--interval', `${value}ms`],
  minIntervalMs: (value: number | null): Words =>
    value === null ? [] : ['--min-interval', minIntervalText(value)],
  kill: flag('--kill'),
  seed: flag('--seed'),
  rejoin: toggle('--rejoin'),
  tracker: flag('--tracker'),
  keep: toggle('--keep'),
};
const SIM_WORDS: WordsOf<SimDrillOptions> = {
  guest: flag('--guest'),
  workload: flag('--workload'),
  ...COMMON_WORDS,
  rate: flag('--rate'),
  redisBenchmark: toggle('--redis-benchmark'),
};
const QEMU_WORDS: WordsOf<QemuDrillOptions> = {
  guest: flag('--guest'),
  workload: flag('--workload'),
  ...COMMON_WORDS,
  accelerator: flag('--accelerator'),
  disk: toggle('--disk'),
  net: toggle('--net'),
  qemu: flag('--qemu'),
  backupQemu: flag('--backup-qemu'),
  machine: flag('--machine'),
  cpu: flag('--cpu'),
};

function wordsFor<Options extends object>(table: WordsOf<Options>, options: Options): string[] {
  const names = Object.keys(table) as (keyof Options)[];
  return names.flatMap((name) => table[name](options[name]));
}

/** As a shell takes the word for what it is. */
function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** The command that plays exactly this drill again. */
export function replayCommand(options: DrillOptions): string {
  const words =
    options.guest === 'sim' ? wordsFor(SIM_WORDS, options) : wordsFor(QEMU_WORDS, options);
  return ['romulus', 'drill', ...words.map(quoted)].join(' ');
}

/** Adds the flags to the command. */
export function addDrillFlags(command: Command): Command {
  return command
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
    .option('--json', 'JSON lines on stdout; the last one is the result');
}
