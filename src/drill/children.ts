/**
 * The processes and files of one drill. Whatever way a drill ends, nothing of it is left running,
 * and its files are gone unless something failed: then they are the evidence, and are kept.
 */
import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { RomulusError } from '../base/errors.ts';

/** Longest wait for a killed process to be gone. */
export const REAP_MS = 20_000;
/** Longest wait for the guardians of killed engines to have cleared up. */
const GUARDIAN_MS = 1000;
const POLL_MS = 10;

/** How a child is started. */
export interface ChildOptions {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  /** What it is run by, such as `ip netns exec NAME`. */
  readonly launcher?: readonly string[];
  /** `json`: stdout is read by us. `ipc`: talks over IPC. `log`: both streams go to the log. */
  readonly output: 'json' | 'ipc' | 'log';
}

/** One child process and its end. */
export interface Child {
  readonly name: string;
  readonly pid: number;
  readonly process: ChildProcess;
  readonly logFile: string;
  /** Settles when the process is gone; never rejects. */
  readonly gone: Promise<string>;
  readonly isGone: () => boolean;
}

const STDIO: Record<ChildOptions['output'], (log: number) => StdioOptions> = {
  json: (log) => ['ignore', 'pipe', log],
  ipc: (log) => ['ignore', log, log, 'ipc'],
  log: (log) => ['ignore', log, log],
};

/** Owns every process and file of a drill. */
export class Stage {
  readonly directory: string;
  readonly #children: Child[] = [];
  #closed = false;

  constructor() {
    // Short: a unix socket's path has 107 bytes.
    this.directory = mkdtempSync(join(tmpdir(), 'romulus-drill-'));
  }

  path(...parts: string[]): string {
    return join(this.directory, ...parts);
  }

  /** @throws {RomulusError} ERR_HOST_SPAWN when the program cannot be started. */
  start(options: ChildOptions): Child {
    const logFile = this.path(`${options.name}.log`);
    const log = openSync(logFile, 'a', 0o640);
    const words = [...(options.launcher ?? []), options.command, ...options.args];
    const child = spawn(words[0] ?? '', words.slice(1), {
      stdio: STDIO[options.output](log),
      serialization: 'advanced',
      cwd: this.directory,
    });
    closeSync(log);
    let isGone = false;
    const gone = new Promise<string>((resolve) => {
      child.once('error', (error) => {
        isGone = true;
        resolve(error.message);
      });
      child.once('exit', (code, signal) => {
        isGone = true;
        resolve(signal === null ? `exit code ${code}` : `signal ${signal}`);
      });
    });
    if (child.pid === undefined)
      throw new RomulusError('ERR_HOST_SPAWN', `cannot start ${options.command}`, {
        remedy: 'Run `npm ci` so that everything is built.',
      });
    const entry: Child = {
      name: options.name,
      pid: child.pid,
      process: child,
      logFile,
      gone,
      isGone: () => isGone,
    };
    this.#children.push(entry);
    return entry;
  }

  /** Ends every process and, unless the files are wanted, removes them. Idempotent. */
  async close(options: { readonly keepFiles: boolean }): Promise<void> {
    if (!this.#closed) {
      this.#closed = true;
      for (const child of this.#children) if (!child.isGone()) child.process.kill('SIGKILL');
      killNaming(this.directory, { andGuardians: false });
      await Promise.race([
        Promise.all(this.#children.map((child) => child.gone)),
        new Promise((resolve) => setTimeout(resolve, REAP_MS).unref()),
      ]);
      const deadlineMs = performance.now() + GUARDIAN_MS;
      while (pidsNaming(this.directory).length > 0 && performance.now() < deadlineMs)
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      killNaming(this.directory, { andGuardians: true });
    }
    if (!options.keepFiles) rmSync(this.directory, { recursive: true, force: true });
  }

  /** The same at once, from an exit handler where nothing can be waited for. */
  closeNow(): void {
    for (const child of this.#children) if (!child.isGone()) killIfThere(child.pid);
    killNaming(this.directory, { andGuardians: false });
  }
}

/**
 * A promoted machine outlives the engine that started it, and is no child of ours. Its command line
 * names our directory, which nobody else's does: the name was drawn at random for this drill.
 */
function pidsNaming(directory: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((name) => commandLine(name).includes(`${directory}/`))
    .map(Number);
}

/** A guardian whose engine died clears up after it and ends by itself. */
function killNaming(directory: string, options: { readonly andGuardians: boolean }): void {
  for (const pid of pidsNaming(directory)) {
    const [program = ''] = commandLine(String(pid)).split('\0');
    if (options.andGuardians || !program.endsWith('/romulus-guardian')) killIfThere(pid);
  }
}

function commandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // It ended while we looked, or is another user's.
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES') return '';
    throw error;
  }
}

/** Kills a process that may be gone already. */
export function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
