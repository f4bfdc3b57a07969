/**
 * What the drills of every kind of machine share: two nodes (the real command line in processes of
 * their own), the cables between them, and whoever hears the machine outside. Node 0 begins as the
 * primary. What the machine is, and how it is heard, is added per kind (`sim-theatre.ts`,
 * `qemu/qemu-theatre.ts`).
 */
import { mkdirSync, readFileSync } from 'node:fs';
import { RomulusError } from '../base/errors.ts';
import type { NodeStatus } from '../engine/status.ts';
import { Cables } from './cables.ts';
import { type Child, Stage } from './children.ts';
import { type AuditLine, readAudit, type Takeover } from './evidence.ts';
import { machineOf } from './machine-note.ts';
import { CLI_PATH, NodeProcess, type PromotedEvent } from './node-process.ts';
import { type DrillOptions, minIntervalText } from './options.ts';
import { freePorts } from './ports.ts';

/** All of a drill is on this host. */
export const HOST = '127.0.0.1';
/** Longest wait for a started process to be in business. */
export const START_WAIT_MS = 60_000;
/** Longest wait for a first full copy; a multi-gigabyte machine takes seconds. */
export const PROTECT_WAIT_MS = 120_000;
const POLL_MS = 10;

/** Names of the nodes, by index. */
export const NAMES = ['a', 'b'] as const;

/**
 * Waits until the test says yes.
 * @throws {RomulusError} ERR_TIMEOUT_DRILL
 */
export async function until(
  what: string,
  withinMs: number,
  test: () => Promise<boolean>,
): Promise<void> {
  const deadlineMs = performance.now() + withinMs;
  while (!(await test())) {
    if (performance.now() > deadlineMs)
      throw new RomulusError('ERR_TIMEOUT_DRILL', `waited ${withinMs} ms for ${what}`, {
        remedy: "Read the logs in the drill's directory.",
      });
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** What a comparison of both images came to. */
export interface ScrubOutcome {
  readonly ok: boolean;
  readonly text: string;
}

interface NodePlan {
  readonly name: string;
  /** Where the other node and the world reach it. */
  readonly host: string;
  readonly linkPort: number;
  readonly heartbeatPort: number;
  readonly netPort: number;
}

/** Told whenever a node reports how it goes. */
export type OnProgress = (node: number, status: NodeStatus) => void;

/** A drill's cast, but for the machine and its audience. */
export abstract class Theatre<Options extends DrillOptions = DrillOptions> {
  readonly stage = new Stage();
  readonly nodes: [NodeProcess | null, NodeProcess | null] = [null, null];
  protected readonly options: Options;
  protected plans: readonly NodePlan[] = [];
  readonly #onProgress: OnProgress;
  #cables: Cables | null = null;
  readonly #promotions: { to: 0 | 1; event: PromotedEvent }[] = [];
  /** Where each node is dialled by the other: directly, or at the end of a cable. */
  #dial: readonly { readonly link: number; readonly heartbeat: number }[] = [];

  protected constructor(options: Options, onProgress: OnProgress) {
    this.options = options;
    this.#onProgress = onProgress;
  }

  /** What is counted as heard: `outputs`, `lines of the console`. */
  abstract readonly outputWord: string;
  /** Nothing of the machine is heard unless its engine lets it out. */
  abstract readonly outputIsHeld: boolean;
  /** How much has been heard of each node's machine so far, counted in the machine's own units. */
  abstract heardCounts(): Promise<readonly number[]>;
  /** The first machine, which node 0 protects. */
  abstract get machine(): Child;
  /** What `protect` and `backup` are told of this kind of machine. */
  protected abstract machineArgs(index: 0 | 1): readonly string[];
  /** Address of a node. */
  protected hostOf(_index: 0 | 1): string {
    return HOST;
  }
  /** A link that is cut needs cables of ours, unless there is a network of its own. */
  protected needsCables(): boolean {
    return true;
  }
  /** What a node is run by; nothing, where both are on this host as it is. */
  protected launcherOf(_index: 0 | 1): readonly string[] {
    return [];
  }

  /** Chooses ports, makes the directories, lays the cables if they will be cut. */
  protected async layOut(): Promise<void> {
    const ports = await freePorts(6);
    this.plans = NAMES.map((name, index) => ({
      name,
      host: this.hostOf(index === 0 ? 0 : 1),
      linkPort: ports[index * 3] ?? 0,
      heartbeatPort: ports[index * 3 + 1] ?? 0,
      netPort: ports[index * 3 + 2] ?? 0,
    }));
    this.#dial = this.plans.map((plan) => ({
      link: plan.linkPort,
      heartbeat: plan.heartbeatPort,
    }));
    mkdirSync(this.stage.path('arbiter'), { mode: 0o750 });
    if (this.options.kill === 'link' && this.needsCables()) await this.#layCables();
  }

  /** The running node, of the two. */
  node(index: 0 | 1): NodeProcess {
    const node = this.nodes[index];
    if (node === null) throw new RangeError(`node ${index} was not started`);
    return node;
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
  async scrub(index: 0 | 1): Promise<ScrubOutcome> {
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
    const args = this.#nodeArgs(index);
    const node = new NodeProcess(this.stage, {
      name: index === 0 ? 'node-a' : 'node-b',
      launcher: this.launcherOf(index),
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
  cutLink(): Promise<void> {
    this.#cables?.cut();
    return Promise.resolve();
  }

  /** Mends the cables. */
  mendLink(): Promise<void> {
    this.#cables?.mend();
    return Promise.resolve();
  }

  /** Cuts the cable between a node's host and the machine's clients. */
  cutUplink(_index: 0 | 1): Promise<void> {
    throw new RangeError('there is no network between the machine and its clients');
  }

  /** Mends it. */
  mendUplink(_index: 0 | 1): Promise<void> {
    throw new RangeError('there is no network between the machine and its clients');
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
    return this.plans.map(({ name }) => readAudit(this.stage.path(`${name}.audit`)));
  }

  /**
   * Waits until more than `beyond` was heard of a node's machine.
   * @throws {RomulusError} ERR_TIMEOUT_DRILL
   */
  async waitUntilHeard(index: 0 | 1, beyond: number, withinMs: number): Promise<void> {
    await until(`the world to hear node ${NAMES[index]}`, withinMs, async () => {
      const heard = await this.heardCounts();
      return (heard[index] ?? 0) > beyond;
    });
  }

  async close(options: { readonly keepFiles: boolean }): Promise<void> {
    await this.stage.close(options);
    await this.#cables?.close();
  }

  /** The same at once, from an exit handler. */
  closeNow(): void {
    this.stage.closeNow();
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

  #nodeArgs(index: 0 | 1): string[] {
    const plan = this.plans[index];
    const peer = this.plans[index === 0 ? 1 : 0]?.host ?? HOST;
    const { link = 0, heartbeat = 0 } = this.#dial[index === 0 ? 1 : 0] ?? {};
    if (plan === undefined) throw new RangeError('a drill has two nodes');
    const { minIntervalMs } = this.options;
    return [
      index === 0 ? 'protect' : 'backup',
      '--guest',
      this.options.guest,
      '--name',
      plan.name,
      '--listen',
      `${plan.host}:${plan.linkPort}`,
      '--heartbeat-listen',
      `${plan.host}:${plan.heartbeatPort}`,
      '--net-listen',
      `${plan.host}:${plan.netPort}`,
      '--state-dir',
      this.stage.path(plan.name),
      '--arbiter',
      `file:${this.stage.path('arbiter')}`,
      '--interval',
      `${this.options.intervalMs}ms`,
      ...(minIntervalMs === null ? [] : ['--min-interval', minIntervalText(minIntervalMs)]),
      '--tracker',
      this.options.tracker,
      '--audit',
      this.stage.path(`${plan.name}.audit`),
      ...this.machineArgs(index),
      '--peer',
      `${peer}:${link}`,
      '--peer-heartbeat',
      `${peer}:${heartbeat}`,
    ];
  }
}
