/**
 * The guardian of one QEMU machine: a tiny process that keeps the machine going when this one cannot
 * (native-sim/src/guardian_main.cc). When we die it lets a machine in the middle of a pause run on,
 * takes out what holds its output if it may run alone, and removes the pipe for device states;
 * when we freeze, it ends what QEMU would wait on. It outlives us, has its own
 * session, and ends when the socket to it ends. What it goes by is told through `GuardianLink`s.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { RomulusError } from '../../base/errors.ts';
import {
  GUARDIAN_PAGE_BYTES,
  type GuardianAddress,
  guardianWord,
} from '../../native/guardian-link.ts';
import { GUARDIAN_EXECUTABLE } from '../../native/load.ts';
import { Memory } from '../../native/memory.ts';
import type { StatePipe } from '../../native/qmp-pause.ts';

/** A running guardian, and the page through which it knows what it must. */
export class Guardian {
  /** The shared page; native pauses tell there that they hold QEMU up. */
  readonly page: Memory;
  /** For other threads' links. */
  readonly address: GuardianAddress;
  readonly #process: ChildProcess;
  #isDismissed = false;
  #isStopped = false;

  private constructor(child: ChildProcess, page: Memory) {
    this.#process = child;
    this.page = page;
    this.address = { socket: socketOf(child), page: page.fd };
  }

  /**
   * Starts a guardian for the machine behind this QMP socket, and of the pipe that its states go to.
   * @throws {RomulusError} ERR_HOST_GUARDIAN when it cannot be started.
   */
  static async start(qmpPath: string, pipe: StatePipe): Promise<Guardian> {
    const page = Memory.create({ name: 'romulus-guardian', bytes: GUARDIAN_PAGE_BYTES });
    const child = spawn(GUARDIAN_EXECUTABLE, [qmpPath, pipe.path], {
      stdio: ['pipe', 'ignore', 'inherit', page.fd, pipe.descriptor],
      detached: true,
    });
    // It may be gone before we say farewell; then there is nobody to say it to.
    child.stdin?.on('error', () => undefined);
    try {
      await once(child, 'spawn');
    } catch (cause) {
      page.close();
      throw new RomulusError('ERR_HOST_GUARDIAN', 'the guardian of the machine cannot be started', {
        remedy: 'Run `npm rebuild romulus` (or `npm ci` in a checkout).',
        cause,
        details: { executable: GUARDIAN_EXECUTABLE },
      });
    }
    child.unref();
    return new Guardian(child, page);
  }

  /** The machine stands at our wish, or does no more, outside of a native pause. */
  noteStopped(isStopped: boolean): void {
    this.#isStopped = isStopped;
    if (!this.#isDismissed) this.page.write(0, Uint8Array.of(isStopped ? 1 : 0, 0, 0, 0));
  }

  /** Whether the machine stands at our wish, outside of a native pause. */
  get isStopped(): boolean {
    return this.#isStopped;
  }

  get pid(): number {
    return this.#process.pid ?? 0;
  }

  /** Sends it away, while no pause lasts; links to it must be closed. Idempotent. */
  dismiss(): void {
    if (this.#isDismissed) return;
    this.#isDismissed = true;
    this.#process.stdin?.end(guardianWord('q'));
    this.page.close();
  }
}

/** Our end of the child's stdin, which is a unix socket: descriptors can be passed through it. */
function socketOf(child: ChildProcess): number {
  const { _handle: handle } = child.stdin as unknown as { _handle?: { fd?: unknown } | null };
  const fd = handle?.fd;
  if (typeof fd !== 'number' || fd < 0) throw new TypeError('a stream without a descriptor');
  return fd;
}
