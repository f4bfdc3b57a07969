/**
 * Nodes as a user starts them: the built commands as processes, in a directory of their own, with an
 * arbiter in it. `close` leaves nothing of them behind, machines that they started neither.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { RomulusError } from '../../src/base/errors.ts';
import { callControl } from '../../src/cli/control-client.ts';
import { CLI_PATH } from '../../src/drill/node-process.ts';
import type { NodeStatus } from '../../src/engine/status.ts';
import { commandLineOf } from './run-drill.ts';

/** Longest a test waits for one thing to become true. */
export const WAIT_MS = 60_000;
/** What of a node's last words a failure shows. */
const LAST_WORDS = 6000;

/** How a command ended. */
export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** All that one test starts. */
export class HandNodes {
  readonly directory: string = mkdtempSync(join(tmpdir(), 'romulus-nodes-'));
  readonly #running: ChildProcess[] = [];
  readonly #lastWords: { readonly command: string; text: string }[] = [];

  constructor() {
    mkdirSync(this.arbiter);
  }

  get arbiter(): string {
    return join(this.directory, 'arbiter');
  }

  /** Starts a command of ours, which runs until it is ended; `under` puts other programs before it. */
  start(args: readonly string[], under: readonly string[] = []): ChildProcess {
    const [program = '', ...words] = [...under, process.execPath, CLI_PATH, ...args];
    const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout.resume();
    const last = { command: args[0] ?? '', text: '' };
    this.#lastWords.push(last);
    child.stderr.on('data', (chunk: Buffer) => {
      last.text = (last.text + String(chunk)).slice(-LAST_WORDS);
    });
    this.#running.push(child);
    return child;
  }

  /** Ends a process and gives its exit code. */
  async end(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
    if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
    const gone = new Promise<number | null>((resolve) => child.once('exit', resolve));
    child.kill(signal);
    return gone;
  }

  /** Runs a command of ours to its end. */
  run(args: readonly string[], under: readonly string[] = []): Promise<Ran> {
    const [program = '', ...words] = [...under, process.execPath, CLI_PATH, ...args];
    return new Promise((resolve) => {
      execFile(program, words, (error, stdout, stderr) => {
        resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
      });
    });
  }

  /** As `romulus status` asks; starting a process for every look would take most of the time. */
  async status(name: string): Promise<NodeStatus | null> {
    const stateDirectory = join(this.directory, name);
    try {
      return (await callControl({
        stateDirectory,
        method: 'GET',
        path: '/v1/status',
      })) as NodeStatus;
    } catch (error) {
      if (error instanceof RomulusError) return null;
      throw error;
    }
  }

  /** Waits for something to become true; that it did not is told with every process's last words. */
  async until(what: string, test: () => boolean | Promise<boolean>): Promise<void> {
    const deadlineMs = performance.now() + WAIT_MS;
    while (!(await test())) {
      if (performance.now() > deadlineMs)
        throw new Error(
          `waited in vain for ${what}\n${this.#lastWords.map(({ command, text }) => `${command}: ${text}`).join('\n')}`,
        );
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** How many of the commands had that among their last words on stderr. */
  sayingCount(words: string): number {
    return this.#lastWords.filter(({ text }) => text.includes(words)).length;
  }

  /** Whether the directory has that file. */
  has(name: string): boolean {
    return readdirSync(this.directory).includes(name);
  }

  /** Starts a simulated machine at a socket of that name in the directory. */
  async startMachine(socket: string, ...extra: readonly string[]): Promise<ChildProcess> {
    const path = join(this.directory, socket);
    rmSync(path, { force: true });
    const machine = this.start([
      'sim',
      '--socket',
      path,
      ...(extra.includes('--memory') ? [] : ['--memory', '32M']),
      ...extra,
    ]);
    await this.until('the machine', () => this.has(socket));
    return machine;
  }

  /** Ends everything that was started, and what that started, and removes the directory. */
  async close(): Promise<void> {
    for (const child of this.#running) await this.end(child, 'SIGKILL');
    this.killNaming(`${this.directory}/`);
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** Kills every process whose command line has that text, which must lie in the directory. */
  killNaming(text: string): void {
    if (!text.startsWith(this.directory)) throw new Error(`${text} is not of this test`);
    for (const name of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry)))
      if (commandLineOf(name).includes(text)) killIfThere(Number(name));
  }
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
