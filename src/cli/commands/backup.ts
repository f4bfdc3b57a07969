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
Examples:
  $ echo '{"drives": {"disk0": "/srv/replica.raw"}}' > map.json   # where its disks go here
  $ romulus backup --peer 192.0.2.1:7000 --listen 192.0.2.2:7000 --map map.json \\
      --qemu /usr/bin/qemu-system-x86_64 \\
      --state-dir /var/lib/romulus/vm --arbiter file:/shared/arbiter

  $ romulus backup --peer 127.0.0.1:7000 --listen 127.0.0.1:7001 \\
      --net-listen 127.0.0.1:7101 --state-dir /tmp/b --arbiter file:/tmp/arbiter
`,
    );
  addNodeOptions(command, {
    name: 'b',
    guest: 'kind of machine; not needed: the primary tells it',
  }).action(async (flags: BackupFlags) => {
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
