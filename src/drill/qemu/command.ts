/**
 * Runs one helper program (apt-get, dpkg, cc) to its end. Bounded in time and in what is kept of its
 * output; a failure tells its last words.
 */
import { spawn } from 'node:child_process';
import { RomulusError } from '../../base/errors.ts';

/** Longest run of a helper, milliseconds: a package mirror may be slow. */
export const HELPER_MS_MAX = 600_000;
/** Characters kept of each stream; listings of packages fit. */
const OUTPUT_CHARACTERS_MAX = 16 * 1024 * 1024;
const LAST_WORDS = 600;

export interface HelperOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/**
 * Runs a program and gives its standard output.
 * @throws {RomulusError} ERR_HOST_HELPER when it cannot be started, fails, or takes too long.
 */
export function runHelper(
  command: string,
  args: readonly string[],
  options: HelperOptions = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, [...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: HELPER_MS_MAX,
      env: { ...process.env, LC_ALL: 'C', ...options.env },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    let output = '';
    let errors = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (output.length < OUTPUT_CHARACTERS_MAX) output += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      if (errors.length < OUTPUT_CHARACTERS_MAX) errors += text;
    });
    const fail = (why: string, cause?: Error): void => {
      reject(
        new RomulusError('ERR_HOST_HELPER', `${command} ${args.join(' ')}: ${why}`, {
          remedy: 'Run that command by hand and mend what it complains about.',
          details: { stderr: errors.trim().slice(-LAST_WORDS) },
          ...(cause === undefined ? {} : { cause }),
        }),
      );
    };
    child.once('error', (error) => fail(error.message, error));
    child.once('close', (code, signal) => {
      if (code === 0) resolve(output);
      else
        fail(
          `${signal === null ? `exit code ${code}` : signal}: ${errors.trim().slice(-LAST_WORDS)}`,
        );
    });
  });
}
