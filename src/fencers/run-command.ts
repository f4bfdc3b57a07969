/**
 * Runs a command of the operator's by a shell: bounded in time and in what is kept of its words, in a
 * process group of its own, of which nothing is left when it is late.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';

/** Characters kept of what a command says, the last ones. */
const WORDS_CHARACTERS_MAX = 2000;

/** How a command ended. */
export interface CommandEnd {
  readonly isSuccess: boolean;
  /** It was killed because it took too long. */
  readonly isLate: boolean;
  /** Exit code or signal, in words. */
  readonly how: string;
  /** The last of what it said on both streams. */
  readonly said: string;
}

/** Runs it to its end. What cannot even be started ends like what fails. */
export function runCommand(
  command: string,
  options: {
    readonly environment: Readonly<Record<string, string>>;
    readonly timeoutMs: number;
  },
): Promise<CommandEnd> {
  return new Promise((resolve) => {
    const child = shellOf(command, options.environment);
    if (child instanceof Error) {
      resolve({ isSuccess: false, isLate: false, how: child.message, said: 'it said nothing' });
      return;
    }
    let said = '';
    let isLate = false;
    const listen = (text: string): void => {
      said = (said + text).slice(-WORDS_CHARACTERS_MAX);
    };
    child.stdout.setEncoding('utf8').on('data', listen);
    child.stderr.setEncoding('utf8').on('data', listen);
    const end = (isSuccess: boolean, how: string): void => {
      clearTimeout(timer);
      child.stdout.destroy();
      child.stderr.destroy();
      resolve({ isSuccess, isLate, how, said: said.trim() || 'it said nothing' });
    };
    const timer = setTimeout(() => {
      isLate = true;
      killGroup(child.pid);
      // Whoever it started and moved to another group may keep its streams open for ever.
      end(false, 'killed');
    }, options.timeoutMs);
    child.once('error', (error) => end(false, error.message));
    child.once('exit', (code, signal) => {
      // Words that are still on their way are heard first.
      setImmediate(() => end(code === 0, signal === null ? `exit code ${code}` : signal));
    });
  });
}

/** What Node will not even try, such as a zero byte in the name of a machine, is thrown by it. */
function shellOf(
  command: string,
  environment: Readonly<Record<string, string>>,
): ChildProcessByStdio<null, Readable, Readable> | Error {
  try {
    return spawn('/bin/sh', ['-c', command], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...environment },
      detached: true,
    });
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    // It has just ended by itself.
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
  }
}
