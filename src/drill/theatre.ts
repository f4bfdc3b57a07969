/**
 * Everything a drill sets up: a machine, two nodes (the real command line in processes of their
 * own), the cables between them, and the world outside. Node 0 begins as the primary.
 */
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { RomulusError } from '../base/errors.ts';
import { machineTracker } from '../engine/machine-tracker.ts';
import type { NodeStatus } from '../engine/status.ts';
import { SimControl } from '../guests/sim/control.ts';
import { parseSimInfo } from '../guests/sim/info.ts';
import { SIM_EXECUTABLE } from '../native/load.ts';
import { Cables } from './cables.ts';
import { type Child, Stage } from './children.ts';
import { type AuditLine, readAudit, type Takeover } from './evidence.ts';
import { machineOf } from './final-state.ts';
import { CLI_PATH, NodeProcess, type PromotedEvent } from './node-process.ts';
import type { DrillOptions } from './options.ts';
import { freePorts } from './ports.ts';
import { WorldHandle } from './world-handle.ts';

const HOST = '127.0.0.1';
/** Longest wait for a started process to be in business. */
export const START_WAIT_MS = 20_000;
/** Longest wait for a first full copy; a multi-gigabyte machine takes seconds. */
export const PROTECT_WAIT_MS = 60_000;
const POLL_MS = 10;

const NAMES = ['a', 'b'] as const;

async function until(what: string, withinMs: number, test: () => Promise<boolean>): Promise<void> {
  const deadlineMs = performance.now() + withinMs;
  while (!(await test())) {
    if (performance.now() > deadlineMs)
      throw new RomulusError('ERR_TIMEOUT_DRILL', `waited ${withinMs} ms for ${what}`, {
        remedy: "Read the logs in the drill's directory.",
      });
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

interface NodePlan {
  readonly name: string;
  readonly linkPort: number;
  readonly heartbeatPort: number;
  readonly netPort: number;
}

/** A drill's cast. */
export class Theatre {
  readonly stage = new Stage();
  readonly world: WorldHandle;
  readonly nodes: [NodeProcess | null, NodeProcess | null] = [null, null];
  readonly #options: DrillOptions;
  readonly #plans: readonly NodePlan[];
  readonly #onProgress: (node: number, status: NodeStatus) => void;
  #machine: Child | null = null;
  #cables: Cables | null = null;
  readonly #promotions: { to: 0 | 1; event: PromotedEvent }[] = [];
  /** Where each node is dialled by the other: directly, or at the end of a cable. */
  #dial: readonly { readonly link: number; readonly heartbeat: number }[];

  private constructor(
    options: DrillOptions,
    plans: readonly NodePlan[],
    onProgress: (node: number, status: NodeStatus) => void,
  ) {
    this.#options = options;
    this.#plans = plans;
    this.#onProgress = onProgress;
    this.#dial = plans.map((plan) => ({ link: plan.linkPort, heartbeat: plan.heartbeatPort }));
    this.world = new WorldHandle(this.stage);
  }

  /** Chooses ports, makes the directories and starts the world. */
  static async open(
    options: DrillOptions,
    onProgress: (node: number, status: NodeStatus) => void,
  ): Promise<Theatre> {
    const ports = await freePorts(6);
    const plans = NAMES.map((name, index) => ({
      name,
      linkPort: ports[index * 3] ?? 0,
      heartbeatPort: ports[index * 3 + 1] ?? 0,
      netPort: ports[index * 3 + 2] ?? 0,
    }));
    const theatre = new Theatre(options, plans, onProgress);
    mkdirSync(theatre.stage.path('arbiter'), { mode: 0o750 });
    if (options.kill === 'link') await theatre.#layCables();
    await theatre.world.ask({
      ask: 'start',
      lines: plans.map(({ netPort }) => ({ host: HOST, port: netPort })),
    });
    return theatre;
  }

  get machine(): Child {
    if (this.#machine === null) throw new RangeError('the machine was not started');
    return this.#machine;
  }

  get machineSocket(): string {
    return this.stage.path('machine.sock');
  }

  /** The running node, of the two. */
  node(index: 0 | 1): NodeProcess {
    const node = this.nodes[index];
    if (node === null) throw new RangeError(`node ${index} was not started`);
    return node;
  }

  /** Starts the machine; it does not run yet. */
  async startMachine(): Promise<void> {
    const { workload, memoryBytes, seed, rate } = this.#options;
    const tracker = machineTracker(this.#options.tracker);
    this.#machine = this.stage.start({
      name: 'machine',
      command: SIM_EXECUTABLE,
      args: [
        '--socket',
        this.machineSocket,
        '--memory',
        String(memoryBytes),
        '--workload',
        workload,
        '--seed',
        String(seed),
        '--paused',
        ...(tracker === undefined ? [] : ['--tracker', tracker]),
        ...(rate === null ? [] : ['--rate', String(rate)]),
      ],
      output: 'log',
    });
    // Its control socket is the last that it makes.
    await until('the machine to listen', START_WAIT_MS, () =>
      Promise.resolve(existsSync(this.machineSocket)),
    );
  }

  /**
   * Lets the machine run, once its engine listens to it and the world to the engine: so the world
   * hears it from its first word on.
   * @throws {RomulusError} ERR_TIMEOUT_DRILL
   */
  async runMachine(): Promise<void> {
    const control = await SimControl.connect(this.machineSocket);
    try {
      await until('the world to hear the machine', START_WAIT_MS, async () => {
        const { netConnected } = parseSimInfo(await control.command('info'));
        const { linesUp } = await this.world.ask({ ask: 'status' });
        return netConnected && linesUp[0] === true;
      });
      await control.command('cont');
    } finally {
      control.close();
    }
  }

  /** Which machine the node runs, or last ran. */
  machineOf(index: 0 | 1): { socketPath: string; pid: number } {
    return machineOf(this.stage.path(NAMES[index]));
  }

  /** Ends both engines, the idle one first; the survivor lets go of its machine cleanly. */
  async stopNodes(survivor: 0 | 1): Promise<void> {
    const other = this.nodes[survivor === 0 ? 1 : 0];
    if (other !== null && !other.child.isGone()) {
      other.child.process.kill('SIGKILL');
      await other.child.gone;
    }
    const { child } = this.node(survivor);
    child.process.kill('SIGTERM');
    await until(`${child.name} to stop cleanly`, START_WAIT_MS, () =>
      Promise.resolve(child.isGone()),
    );
  }

  /** Has the images of both sides compared, by the command for it. */
  async scrub(index: 0 | 1): Promise<{ ok: boolean; text: string }> {
    const child = this.stage.start({
      name: 'scrub',
      command: process.execPath,
      args: [CLI_PATH, 'scrub', '--state-dir', this.stage.path(NAMES[index])],
      output: 'log',
    });
    const end = await child.gone;
    const text = readFileSync(child.logFile, 'utf8').trim().split('\n').at(-1) ?? '';
    return { ok: end === 'exit code 0', text: text === '' ? `scrub: ${end}` : text };
  }

  /** Starts a node by the command it always has, and waits until it listens. */
  async startNode(index: 0 | 1): Promise<NodeProcess> {
    const args = index === 0 ? this.#protectArgs() : this.#backupArgs();
    const node = new NodeProcess(this.stage, {
      name: index === 0 ? 'node-a' : 'node-b',
      args,
      onProgress: (status) => this.#onProgress(index, status),
      onPromoted: (event) => this.#promotions.push({ to: index, event }),
    });
    this.nodes[index] = node;
    await node.waitFor(
      'listening',
      (event): event is Extract<typeof event, { event: 'listening' }> =>
        event.event === 'listening',
      { withinMs: START_WAIT_MS },
    );
    return node;
  }

  /** Cuts the cables between the nodes: nothing passes any more, and nothing says so. */
  cutLink(): void {
    this.#cables?.cut();
  }

  /** Mends the cables. */
  mendLink(): void {
    this.#cables?.mend();
  }

  /** Every promotion so far, asked for or not, in the order in which the register allowed them. */
  takeovers(): Takeover[] {
    return this.#promotions
      .map(({ to, event }) => ({
        from: to === 0 ? 1 : 0,
        to,
        promotedEpoch: event.epoch,
        generation: event.generation,
        decidedAtNs: BigInt(event.decidedAtNs),
      }))
      .sort((left, right) => left.generation - right.generation);
  }

  audits(): AuditLine[][] {
    return this.#plans.map(({ name }) => readAudit(this.stage.path(`${name}.audit`)));
  }

  /**
   * Waits until the world heard something from a node after frame number `beyond`.
   * @throws {RomulusError} ERR_TIMEOUT_DRILL
   */
  async waitUntilHeard(index: 0 | 1, beyond: number, withinMs: number): Promise<void> {
    await until(`the world to hear node ${NAMES[index]}`, withinMs, async () => {
      const { framesHeard } = await this.world.ask({ ask: 'status' });
      return (framesHeard[index] ?? 0) > beyond;
    });
  }

  async close(options: { readonly keepFiles: boolean }): Promise<void> {
    await this.stage.close(options);
    await this.#cables?.close();
  }

  async #layCables(): Promise<void> {
    const direct = this.#dial.flatMap(({ link, heartbeat }) => [link, heartbeat]);
    this.#cables = await Cables.lay(direct.map((port) => ({ host: HOST, port })));
    const [linkA = 0, heartbeatA = 0, linkB = 0, heartbeatB = 0] = this.#cables.ports;
    this.#dial = [
      { link: linkA, heartbeat: heartbeatA },
      { link: linkB, heartbeat: heartbeatB },
    ];
  }

  #commonArgs(index: 0 | 1): string[] {
    const plan = this.#plans[index];
    if (plan === undefined) throw new RangeError('a drill has two nodes');
    return [
      '--guest',
      this.#options.guest,
      '--name',
      plan.name,
      '--listen',
      `${HOST}:${plan.linkPort}`,
      '--heartbeat-listen',
      `${HOST}:${plan.heartbeatPort}`,
      '--net-listen',
      `${HOST}:${plan.netPort}`,
      '--state-dir',
      this.stage.path(plan.name),
      '--arbiter',
      `file:${this.stage.path('arbiter')}`,
      '--interval',
      `${this.#options.intervalMs}ms`,
      '--tracker',
      this.#options.tracker,
      '--audit',
      this.stage.path(`${plan.name}.audit`),
    ];
  }

  #peerArgs(other: 0 | 1): string[] {
    const { link = 0, heartbeat = 0 } = this.#dial[other] ?? {};
    return ['--peer', `${HOST}:${link}`, '--peer-heartbeat', `${HOST}:${heartbeat}`];
  }

  #protectArgs(): string[] {
    const socket = ['--sim-socket', this.machineSocket];
    return ['protect', ...this.#commonArgs(0), ...socket, ...this.#peerArgs(1)];
  }

  #backupArgs(): string[] {
    const memory = ['--memory', `${this.#options.memoryBytes / 1024}K`];
    return ['backup', ...this.#commonArgs(1), ...memory, ...this.#peerArgs(0)];
  }
}
