/**
 * A running simulated machine as a Guest: the reference implementation of that interface.
 *
 * `suspend` asks for the device state in the same write as the stop, so that the state is on its
 * way while the pages are copied; `saveDeviceState` takes it from there. If this process dies
 * while the machine is suspended, the machine notices the closed socket and goes on by itself.
 */
import { rm } from 'node:fs/promises';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { RomulusError } from '../../base/errors.ts';
import type { Guest, GuestDescriptor, MachineDisk, RamBlock, SuspendReport } from '../guest.ts';
import { SimControl } from './control.ts';
import { describeSim, parseSimInfo, type SimInfo } from './info.ts';
import { isProcessAlive, processStartTime } from './process.ts';

/** How long a killed machine may take to be gone, milliseconds. */
export const FENCE_TIMEOUT_MS = 5000;
const FENCE_POLL_MS = 1;

export interface AttachSimOptions {
  /** The machine's control socket. */
  readonly socketPath: string;
  /** Bound of every wait for the machine, milliseconds. */
  readonly timeoutMs?: number;
}

/**
 * Attaches to a machine that runs. It is left as it is until `suspend`.
 * @throws {RomulusError} ERR_GUEST_UNREACHABLE, ERR_PROTOCOL_GUEST_CONTROL
 */
export async function attachSim(options: AttachSimOptions): Promise<SimGuest> {
  const control = await SimControl.connect(options.socketPath, options.timeoutMs);
  try {
    return new SimGuest(control, parseSimInfo(await control.command('info')));
  } catch (error) {
    control.close();
    throw error;
  }
}

/** A simulated machine that runs, under our control. Made by `attachSim` or an IncomingSim. */
export class SimGuest implements Guest {
  readonly descriptor: GuestDescriptor;
  readonly pid: number;
  readonly blocks: readonly RamBlock[];
  readonly socketPath: string;
  readonly netSocketPath: string;
  readonly disk: MachineDisk;
  /** Where the machine reports dirty pages itself; null unless it runs with `--tracker mprotect`. */
  readonly trackerSocketPath: string | null;
  readonly #control: SimControl;
  readonly #startTime: string | null;
  #state: Promise<Buffer> | null = null;
  #onLost: ((why: string) => void) | null = null;
  #fenced = false;

  /** Takes over the connection. */
  constructor(control: SimControl, info: SimInfo) {
    this.#control = control;
    this.descriptor = describeSim(info, basename(control.socketPath));
    this.pid = info.pid;
    this.#startTime = processStartTime(info.pid);
    this.socketPath = control.socketPath;
    this.netSocketPath = `${control.socketPath}.net`;
    this.disk = {
      bytes: info.diskBytes,
      socketPath: `${control.socketPath}.disk`,
      imagePath: `/proc/${info.pid}/fd/${info.diskFd}`,
    };
    this.trackerSocketPath = info.tracker === 'mprotect' ? `${control.socketPath}.tracker` : null;
    this.blocks = [
      {
        id: 0,
        name: 'ram',
        bytes: info.memoryBytes,
        address: info.ramAddress,
        sharedPath: `/proc/${info.pid}/fd/${info.ramFd}`,
      },
    ];
    control.onEnd((error) => {
      this.#onLost?.(error.message);
      this.#onLost = null;
    });
  }

  /** What the machine says of itself now. */
  async info(): Promise<SimInfo> {
    return parseSimInfo(await this.#control.command('info'));
  }

  /** Changes how many steps a second it runs; 0: no limit. Never what it computes. */
  async setRate(stepsPerSecond: number): Promise<void> {
    await this.#control.command(`rate ${stepsPerSecond}`);
  }

  async suspend(): Promise<SuspendReport> {
    let stopped: Promise<string> | undefined;
    this.#control.together(() => {
      stopped = this.#control.command('stop');
      this.#state = this.#control.stateOf('save');
    });
    // Whoever asks for the state gets its failure; nobody may.
    this.#state?.catch(() => undefined);
    try {
      return parseStop((await stopped) ?? '');
    } catch (error) {
      this.#state = null;
      throw error;
    }
  }

  async saveDeviceState(): Promise<Uint8Array> {
    return this.#state ?? this.#control.stateOf('save');
  }

  async resume(): Promise<void> {
    this.#state = null;
    await this.#control.command('cont');
  }

  async fence(): Promise<void> {
    if (this.#fenced) return;
    this.#onLost = null;
    // SIGKILL and not `quit`: a frozen or wedged machine must end too. The start time makes sure
    // that the number still names the process we attached to.
    if (this.#startTime !== null && processStartTime(this.pid) === this.#startTime) {
      killProcess(this.pid);
    }
    const deadline = performance.now() + FENCE_TIMEOUT_MS;
    while (isProcessAlive(this.pid) && processStartTime(this.pid) === this.#startTime) {
      if (performance.now() > deadline) {
        throw new RomulusError(
          'ERR_GUEST_FENCE',
          `the machine (process ${this.pid}) did not end within ${FENCE_TIMEOUT_MS} ms`,
          {
            remedy: 'End it by hand (kill -9) before starting the copy.',
            details: { pid: this.pid },
          },
        );
      }
      await sleep(FENCE_POLL_MS);
    }
    this.#fenced = true;
    this.#control.close();
    await removeSockets(this.socketPath);
  }

  async detach(): Promise<void> {
    this.#onLost = null;
    // The machine lets go of our stop when it sees the connection end; said first, it is certain
    // that it ran on before we report it.
    if (this.#state !== null && this.#control.ended === null) await this.resume();
    this.#control.close();
  }

  onLost(listener: (why: string) => void): void {
    if (this.#control.ended !== null && !this.#fenced) {
      listener(this.#control.ended.message);
      return;
    }
    this.#onLost = listener;
  }
}

/** Removes the socket files that a killed machine left at this path. */
export async function removeSockets(socketPath: string): Promise<void> {
  for (const suffix of ['', '.net', '.disk', '.tracker']) {
    await rm(`${socketPath}${suffix}`, { force: true });
  }
}

function killProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    // Gone already: what we wanted.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

function parseStop(answer: string): SuspendReport {
  const match = /^frames=(\d{1,15}) diskwrites=(\d{1,15}) step=(\d{1,15})$/.exec(answer);
  if (match === null) {
    throw new RomulusError('ERR_PROTOCOL_GUEST_CONTROL', `the machine answered stop '${answer}'`, {
      remedy: 'Check that the socket belongs to a romulus-sim of the same version.',
    });
  }
  return { framesSent: Number(match[1]), diskWrites: Number(match[2]), position: Number(match[3]) };
}
