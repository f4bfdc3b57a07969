/**
 * The command line: one program, its commands, and one way for every error to end: a code, a
 * sentence, a remedy, an exit code.
 */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { toRomulusError } from '../base/errors.ts';
import { addBackup } from './commands/backup.ts';
import { addBench } from './commands/bench.ts';
import { addControlCommands } from './commands/control.ts';
import { addDoctor } from './commands/doctor.ts';
import { addDrill } from './commands/drill.ts';
import { addGateway } from './commands/gateway.ts';
import { addProtect } from './commands/protect.ts';
import { addSim } from './commands/sim.ts';
import { EXIT_OK, EXIT_USAGE, exitCodeOf } from './exit-codes.ts';

function packageVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return String((JSON.parse(text) as { version: unknown }).version);
}

/** The whole command line, ready to parse; nothing has run yet. */
export function buildProgram(): Command {
  const program = new Command('romulus')
    .description('continuous replication and failover for virtual machines')
    .version(packageVersion())
    .showHelpAfterError('(--help lists what there is)')
    // Inherited by every command: errors come to `report` instead of ending the process.
    .exitOverride();
  addDrill(program);
  addProtect(program);
  addBackup(program);
  addSim(program);
  addGateway(program);
  addControlCommands(program);
  addDoctor(program);
  addBench(program);
  return program;
}

function report(error: unknown, json: boolean): number {
  if (error instanceof CommanderError) return error.exitCode === EXIT_OK ? EXIT_OK : EXIT_USAGE;
  const known = toRomulusError(error);
  if (json) process.stderr.write(`${JSON.stringify(known.toJSON())}\n`);
  else process.stderr.write(`${known.code}: ${known.message}\n  ${known.remedy}\n`);
  if (known.code === 'ERR_INTERNAL_UNEXPECTED' && known.cause instanceof Error)
    process.stderr.write(`${known.cause.stack ?? ''}\n`);
  return exitCodeOf(known);
}

/** Parses, runs, and returns the exit code. */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    await buildProgram().parseAsync([...argv]);
    return Number(process.exitCode ?? EXIT_OK);
  } catch (error) {
    return report(error, argv.includes('--json'));
  }
}
