/** `romulus protect`: run the node that holds the living machine. */
import type { Command } from 'commander';
import { endpoint, type Endpoint } from '../options.ts';
import { addNodeOptions, type NodeFlags, sharedConfig } from './node-options.ts';
import { runForeground } from './node-run.ts';

interface ProtectFlags extends NodeFlags {
  readonly simSocket: string;
  readonly peer?: Endpoint;
}

/** Adds the command to the program. */
export function addProtect(program: Command): void {
  const command = program
    .command('protect')
    .description('protect a running machine: checkpoint it and send every epoch to a backup')
    .requiredOption('--sim-socket <path>', 'control socket of the machine (see `romulus sim`)')
    .option(
      '--peer <host:port>',
      'the other node; dialled when this node finds that it is the backup now',
      endpoint('--peer'),
    )
    .addHelpText(
      'after',
      `
Example:
  $ romulus sim --socket /tmp/m.sock --memory 256M --workload counter &
  $ romulus protect --guest sim --sim-socket /tmp/m.sock --listen 127.0.0.1:7000 \\
      --net-listen 127.0.0.1:7100 --state-dir /tmp/a --arbiter file:/tmp/arbiter
`,
    );
  addNodeOptions(command, 'a').action(async (flags: ProtectFlags) => {
    await runForeground(
      {
        ...sharedConfig(flags),
        role: 'protect',
        simSocket: flags.simSocket,
        ...(flags.peer && { peer: flags.peer }),
      },
      { json: flags.json === true },
    );
  });
}
