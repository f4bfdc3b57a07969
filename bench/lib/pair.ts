/**
 * A protected machine as a user has it: romulus-sim, `romulus protect` and `romulus backup` in
 * processes of their own on this host, and a world outside that listens and acknowledges. The drill's
 * stage owns all of them, so whatever way a bench ends, nothing of it is left running.
 *
 * Spreads are begun anew for every stretch that is measured, so that what start-up and base image
 * cost is not in them.
 */
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { PAGE_BYTES } from '../../src/base/units.ts';
import { callControl } from '../../src/cli/control-client.ts';
import { type Child, Stage } from '../../src/drill/children.ts';
import { NodeProcess, type SeenEvent } from '../../src/drill/node-process.ts';
import { freePorts } from '../../src/drill/ports.ts';
import { AskedProcess } from '../../src/drill/asked-process.ts';
import type { WorldAnswers, WorldQuestion } from '../../src/drill/world-process.ts';
import type { NodeStatus } from '../../src/engine/status.ts';
import { SimControl } from '../../src/guests/sim/control.ts';
import { parseSimInfo, type SimInfo, type SimWorkload } from '../../src/guests/sim/info.ts';
import { SIM_EXECUTABLE } from '../../src/native/load.ts';
import { processUse } from './process-use.ts';

const HOST = '127.0.0.1';
const START_WAIT_MS = 20_000;
/** A first copy of gigabytes, on a host that others use too. */
const PROTECT_WAIT_MS = 120_000;
const POPULATE_WAIT_MS = 60_000;
const POLL_MS = 20;
/** Stretches begin after the change that they are to show has passed through the pipeline. */
const SETTLE_MS = 400;
const LAST_WORDS_CHARACTERS = 3000;

export interface PairOptions {
  readonly memoryBytes: number;
  readonly workload: SimWorkload;
  /** Steps a second; 0: no limit. */
  readonly rate: number;
  /** Output frames per million steps. */
  readonly beacons: number;
  readonly intervalMs: number;
}

/** What happened in one measured stretch. */
export interface Stretch {
  readonly seconds: number;
  readonly epochs: number;
  readonly stepsPerSecond: number;
  /** With the spreads of this stretch alone. */
  readonly status: NodeStatus;
  readonly bytesRaw: number;
  readonly bytesSent: number;
  readonly primaryCpuMs: number;
  readonly backupCpuMs: number;
  readonly machineCpuMs: number;
  /** Seen in progress lines, five a second. */
  readonly queueBytesMax: number;
}

export interface MachineSpeed {
  readonly stepsPerSecond: number;
  /** What is left of it when it need not share the processors. */
  readonly stepsPerCpuMs: number;
}

async function until(what: string, withinMs: number, test: () => Promise<boolean>): Promise<void> {
  const deadlineMs = performance.now() + withinMs;
  while (!(await test())) {
    if (performance.now() > deadlineMs) throw new Error(`waited ${withinMs} ms for ${what}`);
    await sleep(POLL_MS);
  }
}

type Flags = Readonly<Record<string, string>>;

function argsOf(flags: Flags): string[] {
  return Object.entries(flags).flat();
}

/** One machine and, once protected, its two nodes. */
export class Pair {
  readonly options: PairOptions;
  readonly #stage: Stage;
  readonly #machine: Child;
  readonly #control: SimControl;
  readonly #closeNow: () => void;
  #primary: NodeProcess | null = null;
  #backup: NodeProcess | null = null;
  #queueBytesMax = 0;

  private constructor(
    options: PairOptions,
    stage: Stage,
    machine: Child,
    control: SimControl,
    closeNow: () => void,
  ) {
    this.options = options;
    this.#stage = stage;
    this.#machine = machine;
    this.#control = control;
    this.#closeNow = closeNow;
  }

  /** Starts the machine alone; it runs at once. */
  static async start(options: PairOptions): Promise<Pair> {
    const stage = new Stage();
    const closeNow = (): void => stage.closeNow();
    process.once('exit', closeNow);
    try {
      const socketPath = stage.path('m.sock');
      const args = argsOf({
        '--socket': socketPath,
        '--memory': String(options.memoryBytes),
        '--workload': options.workload,
        '--rate': String(Math.round(options.rate)),
        '--beacons': String(options.beacons),
      });
      const machine = stage.start({
        name: 'machine',
        command: SIM_EXECUTABLE,
        args,
        output: 'log',
      });
      await until('the machine to listen', START_WAIT_MS, async () => {
        if (machine.isGone()) throw new Error(`the machine ended: ${await machine.gone}`);
        return existsSync(socketPath);
      });
      const control = await SimControl.connect(socketPath);
      return new Pair(options, stage, machine, control, closeNow);
    } catch (error) {
      await stage.close({ keepFiles: false });
      throw error;
    }
  }

  get machinePid(): number {
    return this.#machine.pid;
  }

  get primaryPid(): number {
    return this.#node(this.#primary).child.pid;
  }

  get backupPid(): number {
    return this.#node(this.#backup).child.pid;
  }

  /** What the primary told of itself, progress left out. */
  get primaryEvents(): readonly SeenEvent[] {
    return this.#node(this.#primary).events;
  }

  /** What the backup told of itself, progress left out. */
  get backupEvents(): readonly SeenEvent[] {
    return this.#node(this.#backup).events;
  }

  async info(): Promise<SimInfo> {
    return parseSimInfo(await this.#control.command('info'));
  }

  async setRate(stepsPerSecond: number): Promise<void> {
    await this.#control.command(`rate ${Math.round(stepsPerSecond)}`);
  }

  /**
   * Runs at full speed until (nearly) every page was written, then as before. Not for `kv`, which
   * has no load of its own then, and fills its memory as its clients like.
   */
  async populate(): Promise<void> {
    const pages = this.options.memoryBytes / PAGE_BYTES;
    // Uniform writes miss a share of e^-4 of the pages; a sequential pass misses none.
    const steps = this.options.workload === 'stream' ? pages : 4 * pages;
    await this.setRate(0);
    await until('the memory to be filled', POPULATE_WAIT_MS, async () => {
      return (await this.info()).step >= steps;
    });
    await this.setRate(this.options.rate);
  }

  /** How fast the machine runs over a stretch, by the clock and by its own processor time. */
  async speed(durationMs: number): Promise<MachineSpeed> {
    const before = await this.info();
    const { cpuMs } = processUse(this.machinePid);
    const startMs = performance.now();
    await sleep(durationMs);
    const steps = (await this.info()).step - before.step;
    return {
      stepsPerSecond: (steps * 1000) / (performance.now() - startMs),
      stepsPerCpuMs: steps / Math.max(processUse(this.machinePid).cpuMs - cpuMs, 1),
    };
  }

  /** Starts world, primary and backup; resolves when the machine is protected. */
  async protect(): Promise<void> {
    const ports = await freePorts(6);
    const [linkA = 0, beatA = 0, netA = 0, linkB = 0, beatB = 0, netB = 0] = ports;
    mkdirSync(this.#stage.path('arbiter'), { mode: 0o750 });
    const world = new AskedProcess<WorldQuestion, WorldAnswers>(this.#stage, {
      name: 'world',
      program: 'world-process.js',
    });
    await world.ask({ ask: 'start', lines: [netA, netB].map((port) => ({ host: HOST, port })) });
    const shared = (name: string, link: number, beat: number, net: number): Flags => ({
      '--guest': 'sim',
      '--name': name,
      '--listen': `${HOST}:${link}`,
      '--heartbeat-listen': `${HOST}:${beat}`,
      '--net-listen': `${HOST}:${net}`,
      '--state-dir': this.#stage.path(name),
      '--arbiter': `file:${this.#stage.path('arbiter')}`,
      '--interval': `${this.options.intervalMs}ms`,
      // Output that waits would end epochs early, and the interval that is measured be another.
      '--min-interval': 'off',
    });
    this.#primary = await this.#startNode('node-a', 'protect', {
      ...shared('a', linkA, beatA, netA),
      '--sim-socket': this.#stage.path('m.sock'),
      '--peer': `${HOST}:${linkB}`,
    });
    this.#backup = await this.#startNode('node-b', 'backup', {
      ...shared('b', linkB, beatB, netB),
      '--peer': `${HOST}:${linkA}`,
      '--peer-heartbeat': `${HOST}:${beatA}`,
    });
    await this.#primary.waitForState(['protected'], { withinMs: PROTECT_WAIT_MS });
  }

  async setInterval(intervalMs: number): Promise<void> {
    await this.#post('/v1/adjust', { intervalMs });
  }

  async status(): Promise<NodeStatus> {
    return (await this.#call('GET', '/v1/status')) as NodeStatus;
  }

  /** Measures a stretch of this length; the pair must be protected. */
  async measure(durationMs: number): Promise<Stretch> {
    await sleep(SETTLE_MS);
    const before = (await this.#post('/v1/reset-spreads', {})) as NodeStatus;
    this.#queueBytesMax = before.queueBytes;
    const infoBefore = await this.info();
    const primaryBefore = processUse(this.primaryPid);
    const backupBefore = processUse(this.backupPid);
    const machineBefore = processUse(this.machinePid);
    const startMs = performance.now();
    await sleep(durationMs);
    const status = await this.status();
    const infoAfter = await this.info();
    const seconds = (performance.now() - startMs) / 1000;
    return {
      seconds,
      epochs: status.epoch - before.epoch,
      stepsPerSecond: (infoAfter.step - infoBefore.step) / seconds,
      status,
      bytesRaw: status.bytesRaw - before.bytesRaw,
      bytesSent: status.bytesSent - before.bytesSent,
      primaryCpuMs: processUse(this.primaryPid).cpuMs - primaryBefore.cpuMs,
      backupCpuMs: processUse(this.backupPid).cpuMs - backupBefore.cpuMs,
      machineCpuMs: processUse(this.machinePid).cpuMs - machineBefore.cpuMs,
      queueBytesMax: this.#queueBytesMax,
    };
  }

  /** How each process ended, if it did, and the end of its log. */
  async lastWords(): Promise<string> {
    const nodes = [this.#primary, this.#backup].filter((node) => node !== null);
    const texts = [this.#machine, ...nodes.map(({ child }) => child)].map(async (child) => {
      const end = child.isGone() ? await child.gone : 'still running';
      const log = readFileSync(child.logFile, 'utf8').slice(-LAST_WORDS_CHARACTERS);
      return `--- ${child.name}: ${end}\n${log}\n`;
    });
    return (await Promise.all(texts)).join('');
  }

  /** Ends every process and removes every file. Idempotent. */
  async close(): Promise<void> {
    this.#control.close();
    await this.#stage.close({ keepFiles: false });
    process.off('exit', this.#closeNow);
  }

  async #startNode(name: string, verb: string, flags: Flags): Promise<NodeProcess> {
    const node = new NodeProcess(this.#stage, {
      name,
      args: [verb, ...argsOf(flags)],
      onProgress: (status) => {
        if (status.role === 'primary')
          this.#queueBytesMax = Math.max(this.#queueBytesMax, status.queueBytes);
      },
    });
    await node.waitFor(
      'listening',
      (event): event is Extract<typeof event, { event: 'listening' }> =>
        event.event === 'listening',
      { withinMs: START_WAIT_MS },
    );
    return node;
  }

  async #post(path: string, body: Readonly<Record<string, unknown>>): Promise<unknown> {
    return await this.#call('POST', path, body);
  }

  async #call(
    method: 'GET' | 'POST',
    path: string,
    body?: Readonly<Record<string, unknown>>,
  ): Promise<unknown> {
    const stateDirectory = this.#stage.path('a');
    return await callControl({ stateDirectory, method, path, ...(body && { body }) });
  }

  #node(node: NodeProcess | null): NodeProcess {
    if (node === null) throw new Error('the machine is not protected yet');
    return node;
  }
}

/** Starts a pair, gives it to `body`, and ends it whatever happens. */
export async function withPair<Result>(
  options: PairOptions,
  body: (pair: Pair) => Promise<Result>,
): Promise<Result> {
  const pair = await Pair.start(options);
  try {
    return await body(pair);
  } catch (error) {
    // The logs go with the stage; what they ended with is often all there is to learn from.
    process.stderr.write(await pair.lastWords());
    throw error;
  } finally {
    await pair.close();
  }
}
