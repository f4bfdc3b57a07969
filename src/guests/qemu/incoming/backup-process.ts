/**
 * The process of the backup's QEMU, from its start to its end.
 *
 * It has a session of its own, so that a Ctrl-C meant for us does not reach it, and one end of a
 * socket pair as the source of its incoming stream (`-incoming fd:3`). That socket is also what
 * binds its life to ours: QEMU reads from it from its first moment, and when we die, however we
 * die, it reads the end of an unfinished stream and ends by itself. Once the stream is complete
 * QEMU closes its end, and nothing ties it to us any more. So it needs neither a watcher nor a
 * parent-death signal, and there is no instant at which it could be left behind or taken along.
 *
 * Its messages are kept, the last ones, for error texts; after our death they go nowhere.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Duplex } from 'node:stream';
import { assert } from '../../../base/assert.ts';
import { RomulusError } from '../../../base/errors.ts';

/** The descriptor under which QEMU finds its incoming stream. */
export const STREAM_DESCRIPTOR = 3;
/** The descriptor under which QEMU finds the first of those it inherits. */
export const FIRST_INHERITED_DESCRIPTOR = 4;
/** How much of what QEMU says is kept. */
const MESSAGES_CHARACTERS_MAX = 8192;
/** How long the messages of an ended process are waited for, milliseconds. */
const LAST_WORDS_MS = 200;
/** How long a killed process may take to be gone, milliseconds. */
export const KILL_TIMEOUT_MS = 10_000;

/** A QEMU that we started. */
export class BackupProcess {
  readonly pid: number;
  /** Our end of the incoming stream. */
  readonly stream: Duplex;
  readonly #child: ChildProcess;
  readonly #onEnd = new Set<(how: string) => void>();
  #messages = '';
  #ended: string | null = null;

  private constructor(child: ChildProcess, pid: number) {
    this.#child = child;
    this.pid = pid;
    const stream = child.stdio[STREAM_DESCRIPTOR];
    assert(stream !== null && stream !== undefined, 'a spawned process has the pipes asked for');
    this.stream = stream as Duplex;
    // What ends the stream ends QEMU too, and that is told with the reason by its exit.
    this.stream.on('error', () => undefined);
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#messages = (this.#messages + text).slice(-MESSAGES_CHARACTERS_MAX);
    });
    child.once('exit', (code, signal) => {
      const how = signal === null ? `exit code ${code ?? '?'}` : signal;
      const timer = setTimeout(() => this.#end(how), LAST_WORDS_MS);
      // Its last words may still be in the pipe; a child of its own may hold the pipe open for long.
      child.once('close', () => {
        clearTimeout(timer);
        this.#end(how);
      });
    });
    child.unref();
    for (const end of [this.stream, child.stderr]) {
      (end as unknown as { unref?: () => void } | null)?.unref?.();
    }
  }

  /**
   * Starts it; `descriptors` become its descriptors from FIRST_INHERITED_DESCRIPTOR on.
   * @throws {RomulusError} ERR_GUEST_START when the program cannot be run.
   */
  static async start(
    command: string,
    args: readonly string[],
    descriptors: readonly number[],
  ): Promise<BackupProcess> {
    const child = spawn(command, args, {
      detached: true,
      stdio: ['ignore', 'ignore', 'pipe', 'pipe', ...descriptors],
    });
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve);
      child.once('error', (cause) => {
        reject(
          new RomulusError('ERR_GUEST_START', `cannot run ${command}: ${cause.message}`, {
            remedy: 'Install QEMU on this host, or name its program in the mapping.',
            cause,
            details: { command },
          }),
        );
      });
    });
    assert(child.pid !== undefined, 'a spawned process has an id');
    return new BackupProcess(child, child.pid);
  }

  /** How it ended; null while it lives. */
  get ended(): string | null {
    return this.#ended;
  }

  /** The last of what it said, one line. */
  get lastWords(): string {
    return this.#messages.trim().split('\n').slice(-4).join('; ') || 'it said nothing';
  }

  /** Calls the listener once when it ends, at once when it has; returns how to stop that. */
  onEnd(listener: (how: string) => void): () => void {
    if (this.#ended !== null) {
      const how = this.#ended;
      queueMicrotask(() => listener(how));
      return () => undefined;
    }
    this.#onEnd.add(listener);
    return () => this.#onEnd.delete(listener);
  }

  /**
   * Kills it and waits until it is gone. Idempotent.
   * @throws {RomulusError} ERR_GUEST_FENCE when it does not go.
   */
  async kill(): Promise<void> {
    this.stream.destroy();
    if (this.#ended !== null) return;
    this.#child.kill('SIGKILL');
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        stop();
        reject(
          new RomulusError('ERR_GUEST_FENCE', `QEMU (process ${this.pid}) does not end`, {
            remedy: `Look at /proc/${this.pid}/stack: it hangs in the kernel.`,
            details: { pid: this.pid },
          }),
        );
      }, KILL_TIMEOUT_MS);
      const stop = this.onEnd(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #end(how: string): void {
    if (this.#ended !== null) return;
    this.#ended = how;
    this.stream.destroy();
    for (const listener of this.#onEnd) listener(how);
    this.#onEnd.clear();
  }
}
