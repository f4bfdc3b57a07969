/** `romulus backup`: run the node that follows, and takes over when the primary dies. */
import type { Command } from 'commander';
import { endpoint, type Endpoint, sizeBytes } from '../options.ts';
import { addNodeOptions, type NodeFlags, sharedConfig } from './node-options.ts';
import { runForeground } from './node-run.ts';

interface BackupFlags extends NodeFlags {
  readonly peer: Endpoint;
  readonly memory?: number;
}

/** Adds the command to the program. */
export function addBackup(program: Command): void {
  const command = program
    .command('backup')
    .description('follow a protected machine, and run the copy when the primary dies')
    .requiredOption('--peer <host:port>', 'the primary: its --listen address', endpoint('--peer'))
    .option(
      '--memory <size>',
      'refuse a machine whose main memory is not of this size (what -m of QEMU says)',
      sizeBytes('--memory'),
    )
    .addHelpText(
      'after',
      `
Example:
  $ romulus backup --peer 127.0.0.1:7000 --listen 127.0.0.1:7001 \\
      --net-listen 127.0.0.1:7101 --state-dir /tmp/b --arbiter file:/tmp/arbiter
`,
    );
  addNodeOptions(command, 'b').action(async (flags: BackupFlags) => {
    await runForeground(
      {
        ...sharedConfig(flags),
        role: 'backup',
        peer: flags.peer,
        ...(flags.memory !== undefined && { expectedMemoryBytes: flags.memory }),
      },
      { json: flags.json === true },
    );
  });
}
