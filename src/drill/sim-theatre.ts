/** The theatre of a simulated machine: its process, and a world outside that hears its every word. */
import { existsSync } from 'node:fs';
import { machineTracker } from '../engine/machine-tracker.ts';
import { SimControl } from '../guests/sim/control.ts';
import { parseSimInfo } from '../guests/sim/info.ts';
import { SIM_EXECUTABLE } from '../native/load.ts';
import { AskedProcess } from './asked-process.ts';
import type { Child } from './children.ts';
import type { SimDrillOptions } from './options.ts';
import { HOST, type OnProgress, START_WAIT_MS, Theatre, until } from './theatre.ts';
import type { WorldAnswers, WorldQuestion } from './world-process.ts';

/** A drill's cast with a simulated machine. */
export class SimTheatre extends Theatre<SimDrillOptions> {
  override readonly outputWord = 'outputs';
  override readonly outputIsHeld = true;
  readonly world: AskedProcess<WorldQuestion, WorldAnswers>;
  #machine: Child | null = null;

  private constructor(options: SimDrillOptions, onProgress: OnProgress) {
    super(options, onProgress);
    this.world = new AskedProcess(this.stage, { name: 'world', program: 'world-process.js' });
  }

  /** Sets the stage and starts the world. */
  static async open(options: SimDrillOptions, onProgress: OnProgress): Promise<SimTheatre> {
    const theatre = new SimTheatre(options, onProgress);
    await theatre.layOut();
    await theatre.world.ask({
      ask: 'start',
      lines: theatre.plans.map(({ netPort }) => ({ host: HOST, port: netPort })),
    });
    return theatre;
  }

  override get machine(): Child {
    if (this.#machine === null) throw new RangeError('the machine was not started');
    return this.#machine;
  }

  get machineSocket(): string {
    return this.stage.path('machine.sock');
  }

  override async heardCounts(): Promise<readonly number[]> {
    return (await this.world.ask({ ask: 'status' })).framesHeard;
  }

  /** Starts the machine; it does not run yet. */
  async startMachine(): Promise<void> {
    const { workload, memoryBytes, seed, rate } = this.options;
    const tracker = machineTracker(this.options.tracker);
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

  protected override machineArgs(index: 0 | 1): readonly string[] {
    return index === 0
      ? ['--sim-socket', this.machineSocket]
      : ['--memory', `${this.options.memoryBytes / 1024}K`];
  }
}
