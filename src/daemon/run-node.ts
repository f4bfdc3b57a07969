/** A node with its control API, as the commands `protect` and `backup` run it. */
import type { Logger } from 'pino';
import type { NodeConfig } from '../engine/config.ts';
import { Node } from '../engine/node.ts';
import type { NodeEvent } from '../engine/status.ts';
import { serveControl } from './control-api.ts';

export interface RunOptions {
  readonly logger: Logger;
  readonly onEvent?: (event: NodeEvent) => void;
  /** Aborting it stops the node cleanly. */
  readonly signal?: AbortSignal;
}

/**
 * Runs a node until it is told to stop, or cannot go on.
 * @throws {RomulusError} with the reason it could not start or had to end.
 */
export async function runNode(config: NodeConfig, options: RunOptions): Promise<void> {
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
