/** `romulus gateway`: a TCP door into the machine's network port, whichever node runs it. */
import type { Command } from 'commander';
import { RomulusError } from '../../base/errors.ts';
import { createLogger } from '../logger.ts';
import { endpoint, endpoints, type Endpoint } from '../options.ts';

interface GatewayFlags {
  readonly listen: Endpoint;
  readonly node: readonly Endpoint[];
  readonly json?: boolean;
}

/** Adds the command to the program. */
export function addGateway(program: Command): void {
  program
    .command('gateway')
    .description('carry TCP connections into the machine; they survive a failover')
    .requiredOption('--listen <host:port>', 'where clients connect', endpoint('--listen'))
    .requiredOption(
      '--node <host:port>',
      '--net-listen address of a node; once for each node',
      endpoints('--node'),
    )
    .option('--json', 'events as JSON lines on stdout')
    .addHelpText(
      'after',
      `
Example:
  $ romulus gateway --listen 127.0.0.1:6379 --node 127.0.0.1:7100 --node 127.0.0.1:7101 &
  $ redis-cli -p 6379 incr visits
`,
    )
    .action(async (flags: GatewayFlags) => {
      const [{ World }, { openGateway }] = await Promise.all([
        import('../../drill/world.ts'),
        import('../../drill/gateway.ts'),
      ]);
      if (flags.node.some(({ port }) => port === 0))
        throw new RomulusError('ERR_USAGE_VALUE', '--node: port 0 cannot be dialled', {
          remedy: 'Give the port that the node prints as "net" when it starts.',
        });
      const logger = createLogger('gateway');
      const world = new World({
        lines: flags.node,
        record: false,
        onNotice: (line, text) => logger.info({ line }, text),
      });
      try {
        const gateway = await openGateway(world, flags.listen);
        process.stdout.write(
          flags.json === true
            ? `${JSON.stringify({ schemaVersion: 1, event: 'listening', port: gateway.port })}\n`
            : `listening on ${flags.listen.host}:${gateway.port}\n`,
        );
        await new Promise((resolve) => {
          process.once('SIGINT', resolve);
          process.once('SIGTERM', resolve);
        });
        await gateway.close();
      } finally {
        world.close();
      }
    });
}
