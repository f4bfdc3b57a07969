/**
 * A node of a drill: the real command line in a process of its own, watched through the events it
 * prints with `--json`.
 */
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { RomulusError } from '../base/errors.ts';
import type { NodeEvent, NodeStatus } from '../engine/status.ts';
import type { Child, Stage } from './children.ts';

/** The built command line; the same relative path from `src` and from `dist`. */
export const CLI_PATH: string = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
/** Events kept in memory; progress lines are kept apart, only the newest. */
const EVENTS_KEPT_MAX = 10_000;

/** One event and when we read it. */
export interface SeenEvent {
  readonly event: NodeEvent;
  readonly readAtNs: bigint;
}

/** A node became the running copy. */
export type PromotedEvent = Extract<NodeEvent, { event: 'promoted' }>;
/** A node came into a state, or says another reason for it. */
export type StateEvent = Extract<NodeEvent, { event: 'state' }>;

type Watcher = (event: NodeEvent | null) => void;

/** A running node. */
export class NodeProcess {
  readonly child: Child;
  readonly events: SeenEvent[] = [];
  readonly #watchers = new Set<Watcher>();
  readonly #onProgress: (status: NodeStatus) => void;
  readonly #onPromoted: (event: PromotedEvent) => void;
  #progress: NodeStatus | null = null;

  constructor(
    stage: Stage,
    options: {
      readonly name: string;
      readonly args: readonly string[];
      /** What it is run by, such as `ip netns exec NAME`. */
      readonly launcher?: readonly string[];
      readonly onProgress: (status: NodeStatus) => void;
      readonly onPromoted?: (event: PromotedEvent) => void;
    },
  ) {
    this.#onProgress = options.onProgress;
    this.#onPromoted = options.onPromoted ?? ((): void => undefined);
    this.child = stage.start({
      name: options.name,
      launcher: options.launcher ?? [],
      command: process.execPath,
      args: [CLI_PATH, ...options.args, '--json'],
      output: 'json',
    });
    const { stdout } = this.child.process;
    if (stdout !== null)
      createInterface({ input: stdout }).on('line', (line) => this.#handleLine(line));
    void this.child.gone.then(() => this.#tell(null));
  }

  /** The newest progress, if any came yet. */
  get progress(): NodeStatus | null {
    return this.#progress;
  }

  /**
   * The first event, past or to come, that satisfies the test.
   * @throws {RomulusError} ERR_TIMEOUT_DRILL when none came in time, ERR_HOST_NODE_GONE when the
   *   process ended first.
   */
  waitFor<Wanted extends NodeEvent>(
    what: string,
    test: (event: NodeEvent) => event is Wanted,
    options: { readonly withinMs: number; readonly after?: number },
  ): Promise<Wanted> {
    for (const { event } of this.events.slice(options.after ?? 0))
      if (test(event)) return Promise.resolve(event);
    return new Promise((resolve, reject) => {
      const finish = (settle: () => void): void => {
        clearTimeout(timer);
        this.#watchers.delete(watcher);
        settle();
      };
      const watcher: Watcher = (event) => {
        if (event === null) finish(() => reject(this.#goneError(what)));
        else if (test(event)) finish(() => resolve(event));
      };
      const timer = setTimeout(
        () => finish(() => reject(this.#timeoutError(what, options.withinMs))),
        options.withinMs,
      );
      this.#watchers.add(watcher);
      if (this.child.isGone()) watcher(null);
    });
  }

  /** Waits until the node says it is in one of the states, from event number `after` on. */
  waitForState(
    states: readonly string[],
    options: { readonly withinMs: number; readonly after?: number },
  ): Promise<StateEvent> {
    return this.waitFor(
      states.join(' or '),
      (event): event is StateEvent => event.event === 'state' && states.includes(event.state),
      options,
    );
  }

  #handleLine(line: string): void {
    let event: NodeEvent;
    try {
      event = JSON.parse(line) as NodeEvent;
    } catch {
      // A process killed in the middle of a line leaves half of one; nothing else writes here.
      return;
    }
    if (event.event === 'progress') {
      this.#progress = event;
      this.#onProgress(event);
    } else if (this.events.length < EVENTS_KEPT_MAX)
      this.events.push({ event, readAtNs: process.hrtime.bigint() });
    if (event.event === 'promoted') this.#onPromoted(event);
    this.#tell(event);
  }

  #tell(event: NodeEvent | null): void {
    for (const watcher of this.#watchers) watcher(event);
  }

  /** The state that the node told last, null before the first. */
  get lastState(): StateEvent | null {
    const seen = this.events.findLast(({ event }) => event.event === 'state')?.event;
    return seen?.event === 'state' ? seen : null;
  }

  #lastState(): string {
    const state = this.lastState;
    return state === null ? 'no state yet' : `${state.state} (${state.why})`;
  }

  #timeoutError(what: string, withinMs: number): RomulusError {
    return new RomulusError(
      'ERR_TIMEOUT_DRILL',
      `${this.child.name} did not become "${what}" within ${withinMs} ms; it is ${this.#lastState()}`,
      { remedy: `Read ${this.child.logFile}.` },
    );
  }

  #goneError(what: string): RomulusError {
    return new RomulusError(
      'ERR_HOST_NODE_GONE',
      `${this.child.name} ended while we waited for "${what}"; it was ${this.#lastState()}`,
      { remedy: `Read ${this.child.logFile}.` },
    );
  }
}
