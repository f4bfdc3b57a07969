/**
 * Two real nodes and a real QEMU between them, for tests of what goes wrong: every process and file is
 * in one stage, whose directory is named on each command line, so that nothing can be left behind.
 */
import { commandLineOf } from '../run-drill.ts';
import { execFile } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Child, Stage } from '../../../src/drill/children.ts';
import { machineOf } from '../../../src/drill/machine-note.ts';
import { CLI_PATH, NodeProcess } from '../../../src/drill/node-process.ts';
import { freePorts } from '../../../src/drill/ports.ts';
import { ControlLine } from '../../../src/drill/qemu/control-line.ts';
import { guestImage } from '../../../src/drill/qemu/guest-image.ts';
import {
  CONSOLE_ID,
  CONTROL_ID,
  type MachineOptions,
  machineArguments,
} from '../../../src/drill/qemu/machine.ts';
import { ensureQemu } from '../../../src/drill/qemu/qemu-versions.ts';
import { SerialLine } from '../../../src/drill/qemu/serial-line.ts';
import { toRomulusError } from '../../../src/base/errors.ts';
import type { NodeStatus } from '../../../src/engine/status.ts';
import { QmpClient } from '../../../src/guests/qemu/qmp/qmp-client.ts';
import { Wire } from './wire.ts';

export type Side = 'a' | 'b';
const SIDES = ['a', 'b'] as const;
/** Longest wait for whatever should happen; a first image of a busy host takes the longest. */
export const WAIT_MS = 60_000;
const BOOT_WAIT_MS = 90_000;
const POLL_MS = 20;
/** Lines of a node's log that a wait in vain quotes. */
const LOG_LINES_MAX = 40;
const AS_NOBODY = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'];

interface Ports {
  readonly console: SerialLine;
  readonly control: SerialLine;
  readonly ask: ControlLine;
}

/** How a node is started. */
export interface NodeOptions {
  readonly extra?: readonly string[];
  readonly stateDir?: string;
  /** What it is run by, such as `env NAME=VALUE`. */
  readonly launcher?: readonly string[];
  /** Where the replicas of disks are, by the disks' names. */
  readonly drives?: Readonly<Record<string, string>>;
}

/** A command that ran to its end. */
export interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The stage of one test or of several that follow each other. */
export class LuckStage {
  readonly stage: Stage;
  /** What becomes of the machine's network backends on each side. */
  readonly netdevs: Record<Side, Record<string, string>> = { a: {}, b: {} };
  readonly #serials: Record<Side, Ports>;
  readonly #links: readonly number[];
  readonly #clients: QmpClient[] = [];
  readonly #wires: Wire[] = [];
  #nodeCount = 0;
  #machineCount = 0;

  private constructor(stage: Stage, serials: Record<Side, Ports>, links: readonly number[]) {
    this.stage = stage;
    this.#serials = serials;
    this.#links = links;
  }

  static async open(): Promise<LuckStage> {
    const stage = new Stage();
    mkdirSync(stage.path('arbiter'));
    const listen = async (side: Side): Promise<Ports> => {
      const console = await SerialLine.listen(stage.path(`console-${side}.sock`));
      const control = await SerialLine.listen(stage.path(`control-${side}.sock`));
      return { console, control, ask: new ControlLine(control) };
    };
    const serials = { a: await listen('a'), b: await listen('b') };
    return new LuckStage(stage, serials, await freePorts(2));
  }

  path(name: string): string {
    return this.stage.path(name);
  }

  /** What the machine says on this side. */
  consoleOf(side: Side): SerialLine {
    return this.#serials[side].console;
  }

  /** Asks the guest on this side; see test-guest/README.md. */
  ask(side: Side, command: string): Promise<string[]> {
    return this.#serials[side].ask.command(command);
  }

  /** Waits until the guest's `disk` program has written more, and gives what it found wrong so far. */
  async diskComplaints(side: Side): Promise<string[]> {
    const { lines } = this.consoleOf(side);
    await this.consoleOf(side).waitFor('writes', (text) => text.startsWith('k '), {
      withinMs: WAIT_MS,
      after: lines.length,
    });
    return lines.map(({ text }) => text).filter((text) => /^(k BAD|!)/.test(text));
  }

  /**
   * Has the guest on this side switch its machine off.
   * @throws {Error} with what the console said last, and where the processor is, when it does not.
   */
  async switchOff(side: Side, machine: Child): Promise<void> {
    const { console } = this.#serials[side];
    const answer = await this.ask(side, 'poweroff').then(
      () => 'ok',
      (error: unknown) => toRomulusError(error).message,
    );
    try {
      await until('the machine to be switched off', () => machine.isGone());
    } catch (error) {
      const said = console.lines.slice(-LOG_LINES_MAX).map(({ text }) => text);
      const monitor = await this.userMonitor();
      const stuck: string[] = [];
      for (const line of [
        'info status',
        'info registers',
        'info registers',
        'info lapic',
        'info pic',
      ])
        stuck.push(await monitor.humanMonitor(line));
      throw new Error(
        `the guest answered '${answer}', and last said:\n${said.join('\n')}\n${stuck.join('\n')}`,
        { cause: error },
      );
    }
  }

  /** Starts a machine on side a, as its user would, and waits until its guest runs. */
  async startMachine(
    options: Partial<MachineOptions> & {
      readonly qemu?: string;
      /** What runs QEMU, such as `nsenter -m -t PID`. */
      readonly launcher?: readonly string[];
      /** As a user of no rights, and not as ourselves. */
      readonly asNobody?: boolean;
    } = {},
  ): Promise<Child> {
    this.#machineCount += 1;
    const { console, control } = this.#serials.a;
    const here = console.lines.length;
    const paths = { qmp: this.path('vm.qmp'), console: console.path, control: control.path };
    const binary = options.qemu ?? (await ensureQemu());
    const launcher = options.asNobody === true ? AS_NOBODY : (options.launcher ?? []);
    let image = await guestImage();
    if (options.asNobody === true) {
      for (const path of [this.path(''), console.path, control.path]) chmodSync(path, 0o777);
      const bare = this.path('bare');
      copyFileSync(image.bare, bare);
      image = { ...image, bare };
    }
    const [command, ...words] = launcher.length > 0 ? [...launcher, binary] : [binary];
    const machine = this.stage.start({
      name: `machine-${this.#machineCount}`,
      command,
      args: [
        ...words,
        ...machineArguments(image, paths, {
          memoryMib: 128,
          run: ['counter', 'pattern'],
          kernelArgs: ['romulus.pattern=8/50'],
          ...options,
        }),
        '-qmp',
        `unix:${this.path('user.qmp')},server=on,wait=off`,
      ],
      output: 'log',
    });
    const said = options.bare === true ? 'c ' : 'ready';
    await Promise.race([
      console.waitFor(said, (text) => text.startsWith(said), {
        withinMs: BOOT_WAIT_MS,
        after: here,
      }),
      machine.gone.then((how) => {
        throw new Error(`QEMU did not start (${how}): ${this.logOf(machine)}`);
      }),
    ]);
    return machine;
  }

  /** The monitor of the machine's user; ours is another one. Copies started on a side have one too. */
  async userMonitor(copyOn?: Side): Promise<QmpClient> {
    const name = copyOn === undefined ? 'user.qmp' : `user-${copyOn}.qmp`;
    const client = await QmpClient.connect(this.path(name), { timeoutMs: 20_000 });
    this.#clients.push(client);
    return client;
  }

  /** Where a node keeps its state. */
  stateOf(side: Side): string {
    return this.path(side);
  }

  /** The words of `romulus protect` or `romulus backup` on that side. */
  nodeArgs(side: Side, role: 'protect' | 'backup', options: NodeOptions = {}): string[] {
    const [own, other] = side === 'a' ? this.#links : this.#links.toReversed();
    const mapping = this.path(`mapping-${side}.json`);
    const backend = (port: SerialLine): string => `socket,path=${port.path},server=off`;
    const { console, control } = this.#serials[side];
    writeFileSync(
      mapping,
      JSON.stringify({
        netdevs: this.netdevs[side],
        chardevs: { [CONSOLE_ID]: backend(console), [CONTROL_ID]: backend(control) },
        drives: options.drives ?? {},
        extraArgs: ['-qmp', `unix:${this.path(`user-${side}.qmp`)},server=on,wait=off`],
      }),
    );
    const pairs = {
      '--name': side,
      '--listen': `127.0.0.1:${own}`,
      '--peer': `127.0.0.1:${other}`,
      '--state-dir': options.stateDir ?? this.stateOf(side),
      '--arbiter': `file:${this.path('arbiter')}`,
      '--map': mapping,
      '--heartbeat': '150ms',
      '--promise': '1500ms',
      '--interval': '250ms',
      ...(role === 'protect' && { '--qmp': this.path('vm.qmp') }),
    };
    return [role, ...Object.entries(pairs).flat(), ...(options.extra ?? [])];
  }

  /** Starts a node of the built program. */
  startNode(side: Side, role: 'protect' | 'backup', options: NodeOptions = {}): NodeProcess {
    this.#nodeCount += 1;
    return new NodeProcess(this.stage, {
      name: `node-${side}-${this.#nodeCount}`,
      args: this.nodeArgs(side, role, options),
      // A node that is killed while it asks a QEMU what it can leaves that one's socket.
      launcher: ['env', `TMPDIR=${this.path('')}`, ...(options.launcher ?? [])],
      onProgress: () => undefined,
    });
  }

  /** Runs the program to its end. */
  run(args: readonly string[], launcher: readonly string[] = []): Promise<Ended> {
    const [command = '', ...words] = [...launcher, process.execPath, CLI_PATH, ...args];
    return new Promise((resolve) => {
      execFile(command, words, { timeout: WAIT_MS }, (error, stdout, stderr) => {
        resolve({ code: error === null ? 0 : Number(error.code ?? -1), stdout, stderr });
      });
    });
  }

  /** Runs any program to its end and gives what it said. */
  runHelper([command = '', ...args]: readonly string[]): Promise<string> {
    return new Promise((resolve) => {
      execFile(command, args, { timeout: WAIT_MS }, (_, stdout, stderr) => {
        resolve(stdout + stderr);
      });
    });
  }

  /** The machine that a node notes as its own. */
  machineOf(side: Side): { socketPath: string; pid: number } {
    return machineOf(this.stateOf(side));
  }

  /** What a process wrote into its log. */
  logOf(child: Child): string {
    return readFileSync(child.logFile, 'utf8');
  }

  /** The far end of the wire of a machine that was started with `wireNetdev` at that path in the stage. */
  async wireAt(name: string): Promise<Wire> {
    const wire = await Wire.connect(this.path(name));
    this.#wires.push(wire);
    return wire;
  }

  /** Ends everything. */
  async close(): Promise<void> {
    for (const client of this.#clients) client.close();
    for (const wire of this.#wires) wire.close();
    await this.stage.close({ keepFiles: process.env['ROMULUS_KEEP'] === '1' });
    for (const side of SIDES) {
      await this.#serials[side].console.close();
      await this.#serials[side].control.close();
    }
  }
}

/** A node's exit code, waited for. */
export async function exitCodeOf(node: NodeProcess): Promise<number | null> {
  await until(
    'the end of a node',
    () => node.child.isGone(),
    () => describeNode(node),
  );
  return node.child.process.exitCode;
}

/** Ends a process at once, and waits until it is gone. */
export async function killed(child: Child): Promise<void> {
  child.process.kill('SIGKILL');
  await child.gone;
}

/** Waits until a node's newest progress satisfies the test. */
export async function untilStatus(
  node: NodeProcess,
  what: string,
  test: (status: NodeStatus) => boolean,
): Promise<void> {
  await until(
    what,
    () => node.progress !== null && test(node.progress),
    () => describeNode(node),
  );
}

function describeNode(node: NodeProcess): string {
  const { role, state, why } = node.progress ?? {};
  return `${role} ${state} (${why})\n${lastWords(node)}`;
}

/** The end of a node's log: its files are gone when a failure is read. */
function lastWords({ child }: NodeProcess): string {
  return readFileSync(child.logFile, 'utf8').trim().split('\n').slice(-LOG_LINES_MAX).join('\n');
}

/** Waits until the test is true. */
export async function until(
  what: string,
  test: () => boolean | Promise<boolean>,
  describe: () => string = () => 'nothing more is known',
): Promise<void> {
  const deadlineMs = performance.now() + WAIT_MS;
  while (!(await test())) {
    if (performance.now() > deadlineMs)
      throw new Error(`waited in vain for ${what}: ${describe()}`);
    await sleep(POLL_MS);
  }
}

/** The QEMUs of this stage that wait to become the machine. */
export function copiesOf(stage: LuckStage): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      const line = commandLineOf(pid);
      return line.includes(stage.path('')) && line.includes('\0fd:3\0');
    });
}
