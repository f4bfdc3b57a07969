/**
 * Starts the simulated machine's process and waits until its sockets answer. The process gets a
 * session of its own: it must survive whoever started it, and a Ctrl-C meant for that one.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { RomulusError } from '../../base/errors.ts';
import { SIM_EXECUTABLE } from '../../native/load.ts';
import type { SimWorkload } from './info.ts';
import { removeSockets } from './sim-guest.ts';

/** How long a machine may take until its sockets answer, milliseconds. */
export const START_TIMEOUT_MS = 10_000;
/** How long an asked machine may take to end before it is killed, milliseconds. */
export const END_TIMEOUT_MS = 3000;
/** Longest path that, with its suffixes, fits a unix socket address. */
export const SOCKET_PATH_BYTES_MAX = 99;
const MESSAGE_BYTES_MAX = 4096;
const EXIT_USAGE = 2;

export interface StartSimOptions {
  /** Control socket to listen at; `.net` and `.disk` stand beside it. */
  readonly socketPath: string;
  readonly memoryBytes: number;
  readonly workload: SimWorkload;
  readonly seed?: bigint | number;
  /** Steps a second; 0: no limit. */
  readonly rate?: number;
  /** Output frames per million steps. */
  readonly beacons?: number;
  readonly diskBytes?: number;
  /** Use this file as the disk instead of memory. */
  readonly diskFile?: string;
  /** Do not run until the first `cont`. */
  readonly paused?: boolean;
  /** The machine tracks its dirty pages itself, for kernels that cannot. */
  readonly tracker?: 'mprotect';
}

/** A machine's process that this process started. */
export interface SimProcess {
  readonly pid: number;
  readonly socketPath: string;
  /** Settles when the process has ended, to its exit code or the signal's name. */
  readonly ended: Promise<number | NodeJS.Signals>;
  /** Sends a signal. */
  kill(signal: NodeJS.Signals): void;
  /** Ends the machine in order, by force when it takes too long; leaves no sockets. Idempotent. */
  stop(): Promise<void>;
}

/**
 * Starts a machine; resolves when it can be attached to.
 * @throws {RomulusError} ERR_USAGE_SIM when it refuses its settings, ERR_GUEST_START when it cannot
 *   start, ERR_TIMEOUT_GUEST_START when it says nothing.
 */
export async function startSim(options: StartSimOptions): Promise<SimProcess> {
  const { socketPath, memoryBytes, workload } = options;
  const settings: readonly (readonly [string, number | bigint | string | undefined])[] = [
    ['--socket', socketPath],
    ['--memory', memoryBytes],
    ['--workload', workload],
    ['--seed', options.seed],
    ['--rate', options.rate],
    ['--beacons', options.beacons],
    ['--disk', options.diskBytes],
    ['--disk-file', options.diskFile],
    ['--tracker', options.tracker],
  ];
  const given = settings.flatMap(([name, value]) =>
    value === undefined ? [] : [name, value.toString()],
  );
  return launchSim(socketPath, options.paused === true ? [...given, '--paused'] : given, []);
}

/**
 * Runs the executable with these arguments; `descriptors` become its descriptors 3, 4 and so on.
 * @throws {RomulusError} as `startSim`.
 */
export async function launchSim(
  socketPath: string,
  args: readonly string[],
  descriptors: readonly number[],
): Promise<SimProcess> {
  if (Buffer.byteLength(socketPath) > SOCKET_PATH_BYTES_MAX) {
    throw new RomulusError('ERR_USAGE_SIM', `the socket path ${socketPath} is too long`, {
      remedy: `Use a directory that keeps it within ${SOCKET_PATH_BYTES_MAX} bytes.`,
    });
  }
  const child = spawn(SIM_EXECUTABLE, args, {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', ...descriptors],
  });
  const ended = new Promise<number | NodeJS.Signals>((resolve) => {
    child.once('exit', (code, signal) => {
      resolve(code ?? signal ?? EXIT_USAGE);
    });
    child.once('error', () => {
      resolve(EXIT_USAGE);
    });
  });
  await waitUntilListening(child, socketPath);
  const { pid } = child;
  if (pid === undefined) throw startError(socketPath, 'it has no process id', undefined);
  // From now on it must not keep this process alive.
  child.unref();
  child.stdout?.destroy();
  child.stderr?.destroy();
  const hasEnded = (): boolean => child.exitCode !== null || child.signalCode !== null;
  return {
    pid,
    socketPath,
    ended,
    kill: (signal) => {
      child.kill(signal);
    },
    stop: async () => {
      if (!hasEnded()) {
        child.kill('SIGTERM');
        const timer = setTimeout(() => child.kill('SIGKILL'), END_TIMEOUT_MS);
        await ended;
        clearTimeout(timer);
      }
      await removeSockets(socketPath);
    },
  };
}

async function waitUntilListening(child: ChildProcess, socketPath: string): Promise<void> {
  let said = '';
  let complained = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    complained = (complained + chunk.toString()).slice(0, MESSAGE_BYTES_MAX);
  });
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(
        new RomulusError(
          'ERR_TIMEOUT_GUEST_START',
          `the machine at ${socketPath} did not listen within ${START_TIMEOUT_MS} ms`,
          { remedy: 'Check that the host has CPU and memory to spare.' },
        ),
      );
    }, START_TIMEOUT_MS);
    const fail = (error: RomulusError): void => {
      clearTimeout(timer);
      reject(error);
    };
    child.once('error', (cause) => {
      fail(startError(socketPath, cause.message, cause));
    });
    // 'close' and not 'exit': by then all that it wrote was read.
    child.once('close', (code) => {
      const reason = complained.trim() || 'it ended without a word';
      fail(
        code === EXIT_USAGE
          ? new RomulusError('ERR_USAGE_SIM', reason, {
              remedy: 'Correct the setting; `romulus-sim --help` lists what it takes.',
            })
          : startError(socketPath, reason, undefined),
      );
    });
    child.stdout?.on('data', (chunk: Buffer) => {
      said = (said + chunk.toString()).slice(0, MESSAGE_BYTES_MAX);
      if (!said.includes('\n')) return;
      clearTimeout(timer);
      resolve();
    });
  });
}

function startError(socketPath: string, reason: string, cause: unknown): RomulusError {
  return new RomulusError(
    'ERR_GUEST_START',
    `the machine at ${socketPath} cannot start: ${reason}`,
    {
      remedy: 'Run `romulus doctor`; rebuild the native part with `npm rebuild` if it is missing.',
      ...(cause === undefined ? {} : { cause }),
    },
  );
}
