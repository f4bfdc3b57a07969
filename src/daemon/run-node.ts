/** A node with its control API, as the commands `protect` and `backup` run it. */
import { setFlagsFromString } from 'node:v8';
import type { Logger } from 'pino';
import type { NodeConfig } from '../engine/config.ts';
import { Node } from '../engine/node.ts';
import type { NodeEvent } from '../engine/status.ts';
import { serveControl } from './control-api.ts';

/**
 * How much a heap may grow, in percent of what lived in it, until all of it is marked. What is
 * received counts as growth too: by V8's own measure, a backup of ten megabytes a second marks its heap
 * nearly once a second, 25 ms each time.
 */
const HEAP_GROWING_PERCENT = 400;
/**
 * Megabytes that a thread of ours fills with new objects until they are sorted out. V8 begins with one:
 * the heartbeat thread alone then collects more than once a second.
 */
const SEMI_SPACE_MB = 8;

export interface RunOptions {
  readonly logger: Logger;
  readonly onEvent?: (event: NodeEvent) => void;
  /** Aborting it stops the node cleanly. */
  readonly signal?: AbortSignal;
}

/**
 * Runs a node until it is told to stop, or cannot go on. Its process should have been started with
 * Node's option `--single-threaded-gc`, as the command line sees to (src/cli/collect-alone.ts).
 * @throws {RomulusError} with the reason it could not start or had to end.
 */
export async function runNode(config: NodeConfig, options: RunOptions): Promise<void> {
  setFlagsFromString(`--heap-growing-percent=${HEAP_GROWING_PERCENT}`);
  setFlagsFromString(`--min-semi-space-size=${SEMI_SPACE_MB}`);
  const node = new Node(config, options.logger);
  if (options.onEvent !== undefined) node.onEvent(options.onEvent);
  const control = await serveControl(node, config.stateDirectory);
  const stop = (): void => {
    void node.stop();
  };
  options.signal?.addEventListener('abort', stop, { once: true });
  try {
    await node.run();
  } finally {
    options.signal?.removeEventListener('abort', stop);
    await node.stop();
    await control.close();
  }
}
