/** `romulus sim`: run a simulated machine in the foreground. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import { RomulusError } from '../../base/errors.ts';
import { WORKLOADS, type Workload } from '../../drill/options.ts';
import { machineTracker } from '../../engine/machine-tracker.ts';
import { SIM_EXECUTABLE } from '../../native/load.ts';
import { EXIT_FAILED } from '../exit-codes.ts';
import { oneOf, sizeBytes, wholeNumber } from '../options.ts';

const RATE_MAX = 1_000_000_000;
const FORWARDED_SIGNALS = ['SIGINT', 'SIGTERM'] as const;

interface SimFlags {
  readonly socket: string;
  readonly memory?: number;
  readonly workload: Workload;
  readonly rate?: number;
  readonly seed?: number;
  readonly tracker: 'auto' | 'mprotect' | 'none';
  readonly json?: boolean;
}

/** What happens to the machine, as it is told on stdout. */
type SimEvent =
  | { readonly event: 'listening'; readonly pid: number; readonly socket: string }
  | { readonly event: 'ended'; readonly code: number | null; readonly signal: string | null };

function tell(event: SimEvent, json: boolean): void {
  if (json) process.stdout.write(`${JSON.stringify({ schemaVersion: 1, ...event })}\n`);
  else if (event.event === 'listening')
    process.stdout.write(`listening: control socket ${event.socket}, process ${event.pid}\n`);
}

function simArguments(flags: SimFlags): string[] {
  const given: [string, string | number | undefined][] = [
    ['--socket', flags.socket],
    ['--memory', flags.memory],
    ['--workload', flags.workload],
    ['--rate', flags.rate],
    ['--seed', flags.seed],
  ];
  const args = given.flatMap(([name, value]) => (value === undefined ? [] : [name, String(value)]));
  const tracks = flags.tracker !== 'none' && machineTracker(flags.tracker) !== undefined;
  return tracks ? [...args, '--tracker', 'mprotect'] : args;
}

/** Runs the machine until it ends or we are told to end; gives the exit code. */
async function runMachine(flags: SimFlags): Promise<number> {
  if (!existsSync(SIM_EXECUTABLE))
    throw new RomulusError('ERR_HOST_NATIVE_MISSING', 'the simulated machine is not built', {
      remedy: 'Run `npm ci` in the checkout; it needs g++, make and python3.',
    });
  const json = flags.json === true;
  const machine = spawn(SIM_EXECUTABLE, simArguments(flags), {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  // Its one line: it can be connected to.
  machine.stdout.once('data', () =>
    tell({ event: 'listening', pid: machine.pid ?? 0, socket: flags.socket }, json),
  );
  const forward = (signal: NodeJS.Signals): void => {
    machine.kill(signal);
  };
  for (const signal of FORWARDED_SIGNALS) process.on(signal, forward);
  try {
    return await new Promise<number>((resolve, reject) => {
      machine.once('error', reject);
      machine.once('close', (code, signal) => {
        tell({ event: 'ended', code, signal }, json);
        resolve(code ?? EXIT_FAILED);
      });
    });
  } finally {
    for (const signal of FORWARDED_SIGNALS) process.removeListener(signal, forward);
  }
}

/** Adds the command to the program. */
export function addSim(program: Command): void {
  program
    .command('sim')
    .description('run a simulated machine, to be protected')
    .requiredOption('--socket <path>', 'control socket; the others stand beside it')
    .option('--memory <size>', 'RAM, 16M to 16G (default: 256M)', sizeBytes('--memory'))
    .option(
      '--workload <name>',
      `what it runs: ${WORKLOADS.join(', ')}`,
      oneOf('--workload', WORKLOADS),
      'hotspot',
    )
    .option(
      '--rate <steps>',
      'steps a second, 0 for no limit (default: 20000)',
      wholeNumber('--rate', { min: 0, max: RATE_MAX }),
    )
    .option(
      '--seed <number>',
      'what it computes depends on it (default: 1)',
      wholeNumber('--seed', { min: 0, max: Number.MAX_SAFE_INTEGER }),
    )
    .option(
      '--tracker <kind>',
      'mprotect: the machine finds its written pages itself, for old kernels; auto: where it must',
      oneOf('--tracker', ['auto', 'mprotect', 'none'] as const),
      'auto',
    )
    .option('--json', 'events as JSON lines on stdout')
    .addHelpText(
      'after',
      '\nExample:\n  $ romulus sim --socket /tmp/m.sock --memory 256M --workload kv\n',
    )
    .action(async (flags: SimFlags) => {
      process.exitCode = await runMachine(flags);
    });
}
