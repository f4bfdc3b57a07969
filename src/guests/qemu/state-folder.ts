/**
 * Where QEMU writes device states: a pipe in a folder of its own on tmpfs, one for the whole of an
 * attachment, so that nothing is created or removed inside a pause.
 */
import { chmodSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { RomulusError, toRomulusError } from '../../base/errors.ts';
import { releaseAbandonedPipes, StatePipe } from '../../native/qmp-pause.ts';

/** Where the folder goes; tmpfs on every Linux. */
const DIRECTORY = '/dev/shm';
/** Short, because QEMU reads the path letter by letter. */
const PREFIX = 'romulus-';
/** Others may pass through to the pipe that QEMU's user owns, and see nothing else. */
const DIRECTORY_MODE = 0o711;

/** The pipe for the device states of one machine, and a place for sockets beside it. */
export class StateFolder {
  readonly directory: string;
  readonly pipe: StatePipe;
  #isClosed = false;

  /**
   * Makes it for the user that the process runs as.
   * @throws {RomulusError} ERR_HOST_STATE_PIPE
   */
  constructor(pid: number) {
    let directory: string | null = null;
    try {
      directory = mkdtempSync(join(DIRECTORY, PREFIX));
      chmodSync(directory, DIRECTORY_MODE);
      this.directory = directory;
      this.pipe = new StatePipe(directory, statSync(`/proc/${pid}`));
    } catch (cause) {
      if (directory !== null) rmSync(directory, { recursive: true, force: true });
      const error = toRomulusError(cause);
      if (error.code === 'ERR_HOST_STATE_PIPE') throw error;
      throw new RomulusError(
        'ERR_HOST_STATE_PIPE',
        `no pipe for device states in ${DIRECTORY}: ${error.message}`,
        { remedy: `Make room in ${DIRECTORY}, and run as root or as QEMU's user.`, cause },
      );
    }
  }

  /** Removes it. Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.pipe.close();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Lets every QEMU go on that waits for an engine that died, and its guardian with it. */
export function releaseAbandoned(): void {
  releaseAbandonedPipes(DIRECTORY, PREFIX);
}
