/**
 * `romulus bench`: the benches of a source checkout, the same as `npm run bench`. They are no part of
 * the installed package: they need its development dependencies and write into the checkout.
 */
import type { Command } from 'commander';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { RomulusError } from '../../base/errors.ts';
import { EXIT_FAILED } from '../exit-codes.ts';

const CHECKOUT = fileURLToPath(new URL('../../../', import.meta.url));
const BENCH_MAIN = fileURLToPath(new URL('../../../bench/main.ts', import.meta.url));

/** Adds the command to the program. */
export function addBench(program: Command): void {
  program
    .command('bench')
    .description('measure every promised figure on this host (needs a source checkout)')
    .argument('[flags...]', 'flags of the bench; `romulus bench -- --help` lists them')
    .allowUnknownOption()
    .addHelpText('after', '\nExample:\n  $ romulus bench --quick\n')
    .action(async (flags: readonly string[]) => {
      if (!existsSync(BENCH_MAIN))
        throw new RomulusError('ERR_HOST_BENCH', 'this installation has no benches', {
          remedy: 'Clone the repository, then `npm ci && npm run bench`.',
        });
      const child = spawn(process.execPath, ['--import', 'tsx', BENCH_MAIN, ...flags], {
        cwd: CHECKOUT,
        stdio: 'inherit',
      });
      // The terminal's interrupt reaches the bench itself, which then ends in order; so do we.
      const onInterrupt = (): void => undefined;
      const onTerminate = (): void => void child.kill('SIGTERM');
      process.on('SIGINT', onInterrupt);
      process.on('SIGTERM', onTerminate);
      process.exitCode = await new Promise<number>((resolve, reject) => {
        child.once('error', reject);
        child.once('exit', (code) => resolve(code ?? EXIT_FAILED));
      });
      process.off('SIGINT', onInterrupt);
      process.off('SIGTERM', onTerminate);
    });
}
