/**
 * A running simulated machine as a Guest: the reference implementation of that interface.
 *
 * A pause asks for the device state in the same write as the stop, so that the state is on its way
 * while the pages are copied. If this process dies while the machine is suspended, the machine
 * notices the closed socket and goes on by itself.
 */
import { rm } from 'node:fs/promises';
import { basename } from 'node:path';
import { RomulusError } from '../../base/errors.ts';
import type {
  Guest,
  GuestDescriptor,
  GuestLoss,
  MachineDisks,
  PauseReport,
  RamBlock,
  SuspendReport,
} from '../guest.ts';
import { SimControl } from './control.ts';
import { describeSim, parseSimInfo, type SimInfo } from './info.ts';
import { endProcess, processStartTime } from '../process.ts';

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
  /** Its engine's death stops nothing in it. */
  readonly guardian = null;
  readonly disks: MachineDisks & { readonly kind: 'socket' };
  readonly monitor = null;
  readonly heldNetdevs = [];
  /** Where the machine reports dirty pages itself; null unless it runs with `--tracker mprotect`. */
  readonly trackerSocketPath: string | null;
  readonly #control: SimControl;
  readonly #startTime: string | null;
  #state: Promise<Buffer> | null = null;
  #onLost: ((loss: GuestLoss) => void) | null = null;
  #fenced = false;

  /** Takes over the connection. */
  constructor(control: SimControl, info: SimInfo) {
    this.#control = control;
    this.descriptor = describeSim(info, basename(control.socketPath));
    this.pid = info.pid;
    this.#startTime = processStartTime(info.pid);
    this.socketPath = control.socketPath;
    this.netSocketPath = `${control.socketPath}.net`;
    this.disks = {
      kind: 'socket',
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
      this.#onLost?.({ kind: 'died', why: error.message });
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

  async pause(whileStopped: () => void, meanwhile?: () => void): Promise<PauseReport> {
    const askedMs = performance.now();
    const report = await this.suspend();
    const stoppedMs = performance.now();
    let capturedMs: number;
    let savedMs: number;
    let deviceState: Uint8Array;
    try {
      whileStopped();
      capturedMs = performance.now();
      deviceState = await this.saveDeviceState();
      savedMs = performance.now();
    } finally {
      await this.resume();
    }
    const resumedMs = performance.now();
    meanwhile?.();
    return {
      ...report,
      deviceState,
      pauseMs: resumedMs - askedMs,
      stopMs: stoppedMs - askedMs,
      stateMs: savedMs - capturedMs,
      resumeMs: resumedMs - savedMs,
    };
  }

  /** Stops the vCPU; `saveDeviceState` and `resume` follow. `pause` is made of these three. */
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

  /** The state that `suspend` asked for. */
  async saveDeviceState(): Promise<Uint8Array> {
    return this.#state ?? this.#control.stateOf('save');
  }

  /** Lets the vCPU run on. */
  async resume(): Promise<void> {
    this.#state = null;
    await this.#control.command('cont');
  }

  async fence(): Promise<void> {
    if (this.#fenced) return;
    this.#onLost = null;
    await endProcess(this.pid, this.#startTime);
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

  lastWords(): Promise<GuestLoss | null> {
    // It says nothing when it ends: whoever switches it off kills it.
    return Promise.resolve(null);
  }

  onLost(listener: (loss: GuestLoss) => void): void {
    if (this.#control.ended !== null && !this.#fenced) {
      listener({ kind: 'died', why: this.#control.ended.message });
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

function parseStop(answer: string): SuspendReport {
  const match = /^frames=(\d{1,15}) diskwrites=(\d{1,15}) step=(\d{1,15})$/.exec(answer);
  if (match === null) {
    throw new RomulusError('ERR_PROTOCOL_GUEST_CONTROL', `the machine answered stop '${answer}'`, {
      remedy: 'Check that the socket belongs to a romulus-sim of the same version.',
    });
  }
  return { framesSent: Number(match[1]), diskWrites: Number(match[2]), position: Number(match[3]) };
}
