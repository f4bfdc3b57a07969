/**
 * The guardian of one QEMU machine: a tiny process that sends `cont` when this one dies in the
 * middle of a pause, removes the file for device states that we left, and does nothing else
 * (native-sim/src/guardian_main.cc). It outlives us, has its own session, and ends when the pipe to
 * it ends.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { RomulusError } from '../../base/errors.ts';
import { PAGE_BYTES } from '../../base/units.ts';
import { GUARDIAN_EXECUTABLE } from '../../native/load.ts';
import { Memory } from '../../native/memory.ts';

/** A byte on the pipe tells it that nobody needs it any more. */
const FAREWELL = 'q';

/** A running guardian, and the word through which it knows whether a pause lasts. */
export class Guardian {
  /** For the native pause, which sets its first word. */
  readonly inPause: Memory;
  readonly #process: ChildProcess;
  #isDismissed = false;

  private constructor(child: ChildProcess, inPause: Memory) {
    this.#process = child;
    this.inPause = inPause;
  }

  /**
   * Starts a guardian for the machine behind this QMP socket, and of the file that its states go to.
   * @throws {RomulusError} ERR_HOST_GUARDIAN when it cannot be started.
   */
  static async start(qmpPath: string, stateFilePath: string): Promise<Guardian> {
    const inPause = Memory.create({ name: 'romulus-pause', bytes: PAGE_BYTES });
    const child = spawn(GUARDIAN_EXECUTABLE, [qmpPath, stateFilePath], {
      stdio: ['pipe', 'ignore', 'inherit', inPause.fd],
      detached: true,
    });
    // It may be gone before we say farewell; then there is nobody to say it to.
    child.stdin?.on('error', () => undefined);
    try {
      await once(child, 'spawn');
    } catch (cause) {
      inPause.close();
      throw new RomulusError('ERR_HOST_GUARDIAN', 'the guardian of the machine cannot be started', {
        remedy: 'Run `npm rebuild romulus` (or `npm ci` in a checkout).',
        cause,
        details: { executable: GUARDIAN_EXECUTABLE },
      });
    }
    child.unref();
    return new Guardian(child, inPause);
  }

  get pid(): number {
    return this.#process.pid ?? 0;
  }

  /** Sends it away, while no pause lasts. Idempotent. */
  dismiss(): void {
    if (this.#isDismissed) return;
    this.#isDismissed = true;
    this.#process.stdin?.end(FAREWELL);
    this.inPause.close();
  }
}
