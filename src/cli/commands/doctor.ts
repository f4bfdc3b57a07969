/** `romulus doctor`: what this host can do, and what to do about what it cannot. */
import type { Command } from 'commander';
import { EXIT_FAILED } from '../exit-codes.ts';
import type { Finding } from '../host-checks.ts';
import { colorsFor, table } from '../render.ts';

/** Adds the command to the program. */
export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('tell what this host can do; exit code 1 when protection cannot work')
    .option('--json', 'one JSON object on stdout')
    .addHelpText('after', '\nExample:\n  $ romulus doctor\n')
    .action(async (flags: { readonly json?: boolean }) => {
      const { examineHost } = await import('../host-checks.ts');
      const { facts, checks } = await examineHost();
      const ok = checks.every(({ finding }) => finding !== 'fails');
      if (flags.json === true)
        process.stdout.write(`${JSON.stringify({ schemaVersion: 1, ok, host: facts, checks })}\n`);
      else {
        const colors = colorsFor(process.stdout);
        const paint: Record<Finding, (text: string) => string> = {
          ok: colors.green,
          slow: colors.yellow,
          fails: colors.red,
          note: colors.dim,
        };
        const rows = checks.map(({ name, finding, text }) => [paint[finding](finding), name, text]);
        process.stdout.write(`${table(['', 'what', 'finding'], rows, process.stdout)}\n`);
        for (const { name, remedy } of checks)
          if (remedy !== null) process.stdout.write(`\n${name}: ${remedy}\n`);
      }
      if (!ok) process.exitCode = EXIT_FAILED;
    });
}
