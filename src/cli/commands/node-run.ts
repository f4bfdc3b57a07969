/** Runs one node in the foreground: events on stdout, logs on stderr, a clean end on a signal. */
import { unreachable } from '../../base/assert.ts';
import { EventOutput } from '../event-output.ts';
import { createLogger } from '../logger.ts';
import type { NodeConfigInput } from '../../engine/config.ts';
import type { NodeEvent } from '../../engine/status.ts';

function describe(event: NodeEvent): string | null {
  switch (event.event) {
    case 'listening':
      return `listening: link ${event.linkPort ?? '-'}, net ${event.netPort ?? '-'}, heartbeat ${event.heartbeatPort ?? '-'}`;
    case 'state':
      return `${event.role} ${event.state}: ${event.why} (epoch ${event.epoch}, generation ${event.generation})`;
    case 'verdict':
      return `peer ${event.dead ? 'dead' : 'alive'}: ${event.why}`;
    case 'promoted':
      return `promoted at epoch ${event.epoch}, generation ${event.generation}, in ${event.promoteMs.toFixed(1)} ms`;
    case 'promoteHook':
      return `promote hook ${event.state}${event.why === '' ? '' : `: ${event.why}`}`;
    case 'fenced':
      return `fenced: ${event.why}`;
    case 'error':
      return `${event.code}: ${event.message}`;
    case 'progress':
      return null;
    default:
      return unreachable(event, 'event');
  }
}

/** Runs the node until it ends by itself or a signal ends it. */
export async function runForeground(
  config: NodeConfigInput,
  options: { readonly json: boolean },
): Promise<void> {
  const [{ parseNodeConfig }, { runNode }] = await Promise.all([
    import('../../engine/config.ts'),
    import('../../daemon/run-node.ts'),
  ]);
  const parsed = parseNodeConfig(config);
  const output = new EventOutput();
  const stop = new AbortController();
  const onSignal = (signal: NodeJS.Signals): void => {
    stop.abort(new Error(signal));
    // A second signal means: now, whatever is lost.
    process.once(signal, () => process.exit(1));
  };
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  try {
    await runNode(parsed, {
      logger: createLogger(parsed.node),
      signal: stop.signal,
      onEvent: (event) => {
        const line = options.json
          ? JSON.stringify({ schemaVersion: 1, ...event })
          : describe(event);
        if (line !== null) output.write(line);
      },
    });
  } finally {
    await output.close();
    process.removeAllListeners('SIGINT');
    process.removeAllListeners('SIGTERM');
  }
}
