/**
 * The operator's command that follows a promotion, for instance to move an address to another bridge.
 * It runs beside the machine, which waits for nothing: a failure is told, and undoes nothing.
 */
import type { Logger } from 'pino';
import { RomulusError } from '../base/errors.ts';
import { runCommand } from '../fencers/run-command.ts';
import type { HookStatus, NodeEvent } from './status.ts';

/** How long the command may take, milliseconds; a node that is told to stop waits for it. */
export const HOOK_TIMEOUT_MS = 30_000;

export interface PromoteHookOptions {
  /** For a shell; null: there is none. */
  readonly command: string | null;
  /** Name of this node. */
  readonly node: string;
  readonly log: Logger;
  readonly emit: (event: NodeEvent) => void;
  /** Milliseconds; `HOOK_TIMEOUT_MS` unless said otherwise. */
  readonly timeoutMs?: number;
}

/** What was promoted. */
export interface PromotionFacts {
  /** Name of the machine. */
  readonly guest: string;
  readonly generation: number;
  readonly epoch: number;
}

/** One node's hook; lives as long as the node. */
export class PromoteHook {
  readonly #options: PromoteHookOptions;
  #status: HookStatus | null = null;
  #running: Promise<void> = Promise.resolve();

  constructor(options: PromoteHookOptions) {
    this.#options = options;
  }

  /** How it went after the last promotion; null before there was one, and without a command. */
  get status(): HookStatus | null {
    return this.#status;
  }

  /** Runs the command, once the one of an earlier promotion has ended. Resolves at its end; never rejects. */
  run(facts: PromotionFacts): Promise<void> {
    const { command } = this.#options;
    if (command === null) return Promise.resolve();
    // Two at once could leave the address with either.
    this.#running = this.#running.then(() => this.#run(command, facts));
    return this.#running;
  }

  /** Resolves when no command runs any more. */
  settled(): Promise<void> {
    return this.#running;
  }

  async #run(command: string, { guest, generation, epoch }: PromotionFacts): Promise<void> {
    const { node, log, emit, timeoutMs = HOOK_TIMEOUT_MS } = this.#options;
    this.#tell({ state: 'running', why: '' });
    const { isSuccess, isLate, how, said } = await runCommand(command, {
      environment: {
        ROMULUS_GUEST: guest,
        ROMULUS_GENERATION: String(generation),
        ROMULUS_EPOCH: String(epoch),
        ROMULUS_NODE: node,
      },
      timeoutMs,
    });
    const why = isLate ? `not done within ${timeoutMs} ms: ${said}` : `${how}: ${said}`;
    if (isSuccess) {
      log.info({ command, said }, 'the promote hook is done');
      this.#tell({ state: 'done', why });
      return;
    }
    const error = new RomulusError(
      isLate ? 'ERR_TIMEOUT_PROMOTE_HOOK' : 'ERR_HOST_PROMOTE_HOOK',
      `the machine runs here, but the promote hook failed: ${why}`,
      {
        remedy: 'Do by hand what the command was to do, and mend it before the next failover.',
        details: { command, said },
      },
    );
    log.error({ error: error.toJSON() }, 'the promote hook failed');
    this.#tell({ state: 'failed', why });
    const { code, message, remedy } = error;
    emit({ event: 'error', code, message, remedy });
  }

  #tell(status: HookStatus): void {
    this.#status = status;
    this.#options.emit({ event: 'promoteHook', ...status });
  }
}
