/**
 * The file that QEMU writes device states into, on tmpfs: one for the whole of an attachment, so
 * that nothing is created or removed inside a pause. QEMU truncates and writes it anew each time.
 */
import {
  chownSync,
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  statSync,
  chmodSync,
} from 'node:fs';
import { join } from 'node:path';
import { RomulusError, toRomulusError } from '../../base/errors.ts';
import { DEVICE_STATE_BYTES_MAX } from '../../codec/limits.ts';

/** Where the file goes; tmpfs on every Linux. */
const DIRECTORY = '/dev/shm';
/** Short, because QEMU reads the path letter by letter while the guest stands. */
const PREFIX = 'romulus-';
/** Others may pass through to the file that QEMU's user owns, and see nothing else. */
const DIRECTORY_MODE = 0o711;
const FILE_MODE = 0o600;

/** A file for the device states of one machine. */
export class StateFile {
  readonly path: string;
  readonly directory: string;
  readonly #fd: number;
  #isClosed = false;

  /**
   * Creates the file for the user that the process runs as.
   * @throws {RomulusError} ERR_HOST_STATE_FILE
   */
  constructor(pid: number) {
    let directory: string | null = null;
    try {
      directory = mkdtempSync(join(DIRECTORY, PREFIX));
      chmodSync(directory, DIRECTORY_MODE);
      this.directory = directory;
      this.path = join(directory, 's');
      this.#fd = openSync(this.path, 'wx+', FILE_MODE);
      const { uid, gid } = statSync(`/proc/${pid}`);
      if (uid !== process.getuid?.()) chownSync(this.path, uid, gid);
    } catch (cause) {
      if (directory !== null) rmSync(directory, { recursive: true, force: true });
      throw new RomulusError(
        'ERR_HOST_STATE_FILE',
        `no file for device states in ${DIRECTORY}: ${toRomulusError(cause).message}`,
        { remedy: `Make room in ${DIRECTORY}, and run as root or as QEMU's user.`, cause },
      );
    }
  }

  /**
   * What QEMU wrote last.
   * @throws {RomulusError} ERR_GUEST_STATE_CORRUPT when it is empty or beyond what a state can be.
   */
  read(): Uint8Array {
    const { size } = fstatSync(this.#fd);
    if (size === 0 || size > DEVICE_STATE_BYTES_MAX)
      throw new RomulusError(
        'ERR_GUEST_STATE_CORRUPT',
        `QEMU wrote a device state of ${size} bytes`,
        {
          remedy: `Make room in ${DIRECTORY}; if there is, report this.`,
          details: { bytes: size },
        },
      );
    const state = Buffer.allocUnsafe(size);
    let at = 0;
    while (at < size) {
      const got = readSync(this.#fd, state, at, size - at, at);
      if (got === 0) break;
      at += got;
    }
    return state.subarray(0, at);
  }

  /** Removes it. Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    closeSync(this.#fd);
    rmSync(this.directory, { recursive: true, force: true });
  }
}
