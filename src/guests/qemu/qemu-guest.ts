/**
 * A running, stock QEMU machine as a Guest.
 *
 * It is held by its QMP socket alone. A pause is one native conversation on that socket; between
 * pauses QMP events tell what the machine's user and its own system do to it, and those always win:
 * a machine that somebody else paused is not checkpointed and never resumed by us, a machine that is
 * switched off is not started again by its copy. A `stop` that its user sends while a pause of ours
 * lasts is carried out after it.
 *
 * Devices that come and go are noticed within `WATCH_MS`: a copy prepared before would not fit, so
 * the machine must be attached to anew.
 */
import { RomulusError, toRomulusError } from '../../base/errors.ts';
import { DEVICE_STATE_BYTES_MAX } from '../../codec/limits.ts';
import type { GuardianAddress } from '../../native/guardian-link.ts';
import { type PauseTaken, QmpPause } from '../../native/qmp-pause.ts';
import type {
  Guest,
  GuestDescriptor,
  GuestLoss,
  MachineDisks,
  OwnMonitor,
  PauseReport,
  RamBlock,
} from '../guest.ts';
import { endProcess, hasEndedWithin, processStartTime } from '../process.ts';
import type { Guardian } from './guardian.ts';
import { guardedMonitor } from './guarded-monitor.ts';
import { ask } from './qmp/commands.ts';
import type { QmpEvent } from './qmp/messages.ts';
import type { QmpClient } from './qmp/qmp-client.ts';
import type { StateFolder } from './state-folder.ts';
import { checkDeviceState, type DeviceSection } from './stream/device-state.ts';

/** How long QEMU may take to stop, save or resume; a slow disk's flush is part of stopping. */
export const PAUSE_TIMEOUT_MS = 10_000;
/** How long it may take to resume after something went wrong. */
export const RESCUE_TIMEOUT_MS = 60_000;
/** How long a pause waits for commands of ours that QEMU has not answered yet. */
export const IDLE_WAIT_MS = 200;
/** How long a QEMU whose socket closed may take to be gone, milliseconds. */
const DEATH_MS = 500;
/** How often it is asked whether it is still the machine that was attached to. */
export const WATCH_MS = 1000;

/** What of a machine must not change under us; compared as text. */
export type MachineFingerprint = (qmp: QmpClient) => Promise<string>;

export interface QemuGuestParts {
  readonly qmp: QmpClient;
  readonly pid: number;
  readonly descriptor: GuestDescriptor;
  readonly disks: MachineDisks;
  readonly blocks: readonly RamBlock[];
  readonly guardian: Guardian;
  readonly stateFolder: StateFolder;
  /** Netdevs whose output is to be held. */
  readonly heldNetdevs: readonly string[];
  readonly isRunning: boolean;
  readonly fingerprint: MachineFingerprint;
  readonly fingerprintNow: string;
}

/** A QEMU machine under our eyes. Made by `attachQemu`. */
export class QemuGuest implements Guest {
  readonly descriptor: GuestDescriptor;
  readonly pid: number;
  readonly blocks: readonly RamBlock[];
  readonly disks: MachineDisks;
  /** Mirroring the disks and holding the network's output are rooms of their own, which use this. */
  readonly monitor: OwnMonitor;
  readonly netSocketPath = null;
  readonly heldNetdevs: readonly string[];
  readonly trackerSocketPath = null;
  readonly guardian: GuardianAddress;
  readonly #parts: QemuGuestParts;
  readonly #pauser: QmpPause;
  readonly #startTime: string | null;
  readonly #watch: NodeJS.Timeout;
  #isRunning: boolean;
  /** In which state QEMU says it stands; null while that is not known, or it runs. */
  #standsAs: string | null = null;
  #lookTrouble = '';
  #loss: GuestLoss | null = null;
  #onLost: ((loss: GuestLoss) => void) | null = null;
  #sections: string | null = null;
  #isOver = false;
  /** QEMU was late with a pause, and will still answer. */
  #isAnswerOwed = false;

  /** Takes over all parts. */
  constructor(parts: QemuGuestParts) {
    this.#parts = parts;
    this.descriptor = parts.descriptor;
    this.pid = parts.pid;
    this.disks = parts.disks;
    this.monitor = guardedMonitor(parts.qmp, parts.guardian);
    this.blocks = parts.blocks;
    this.heldNetdevs = parts.heldNetdevs;
    this.guardian = parts.guardian.address;
    this.#isRunning = parts.isRunning;
    this.#startTime = processStartTime(parts.pid);
    this.#pauser = new QmpPause({
      descriptor: parts.qmp.descriptor,
      pipe: parts.stateFolder.pipe,
      page: parts.guardian.page,
      pid: parts.pid,
      timeoutMs: PAUSE_TIMEOUT_MS,
      rescueMs: RESCUE_TIMEOUT_MS,
    });
    parts.qmp.onEvent((event) => this.#onEvent(event));
    parts.qmp.onEnd((error) => void this.#onEnd(error.message));
    this.#watch = setInterval(() => void this.#look(), WATCH_MS);
    this.#watch.unref();
  }

  async pause(
    whileStopped: () => void,
    meanwhile: () => void = () => undefined,
  ): Promise<PauseReport> {
    this.#mustLive();
    await this.#becomeIdle();
    if (this.#isAnswerOwed) await this.#settle();
    if (!this.#isRunning) throw await this.#standing();
    const { qmp } = this.#parts;
    let taken: PauseTaken;
    try {
      taken = this.#pauser.take(whileStopped, meanwhile);
    } catch (error) {
      qmp.feed(this.#pauser.takeForeign());
      throw error;
    }
    qmp.feed(taken.foreign);
    this.#isAnswerOwed = taken.outcome === 'timeout';
    if (taken.outcome === 'notRunning') {
      this.#isRunning = false;
      throw await this.#standing();
    }
    this.#judge(taken, taken.outcome);
    const { deviceState } = taken;
    if (deviceState.byteLength > DEVICE_STATE_BYTES_MAX)
      throw new RomulusError(
        'ERR_GUEST_STATE_CORRUPT',
        `QEMU's device state is larger than ${DEVICE_STATE_BYTES_MAX} bytes`,
        { remedy: 'No machine that can be protected has one; report this.' },
      );
    this.#compareSections(checkDeviceState(deviceState));
    return {
      framesSent: 0,
      diskWrites: 0,
      position: 0,
      deviceState,
      pauseMs: taken.resumedMs - taken.stoppedMs,
      stopMs: taken.heldMs - taken.stoppedMs,
      stateMs: taken.savedMs - taken.capturedMs,
      resumeMs: taken.resumedMs - taken.savedMs,
    };
  }

  async fence(): Promise<void> {
    this.#end();
    await endProcess(this.pid, this.#startTime);
  }

  async detach(): Promise<void> {
    this.#end();
    await Promise.resolve();
  }

  async lastWords(): Promise<GuestLoss | null> {
    const deadlineMs = performance.now() + DEATH_MS;
    while (this.#loss === null && !this.#isOver && performance.now() < deadlineMs)
      await new Promise((resolve) => setImmediate(resolve));
    return this.#loss;
  }

  onLost(listener: (loss: GuestLoss) => void): void {
    if (this.#loss !== null) listener(this.#loss);
    else this.#onLost = listener;
  }

  #end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#onLost = null;
    clearInterval(this.#watch);
    this.#parts.guardian.dismiss();
    this.#parts.qmp.close();
    this.#pauser.close();
    this.#parts.stateFolder.close();
  }

  /** @throws {RomulusError} for every outcome but a whole pause. */
  #judge(taken: PauseTaken, outcome: Exclude<PauseTaken['outcome'], 'notRunning'>): void {
    switch (outcome) {
      case 'done':
        return;
      case 'saveRefused':
        throw new RomulusError(
          'ERR_GUEST_STATE_SAVE',
          `QEMU could not write its device state to ${this.#parts.stateFolder.pipe.path}: ${wordsOf(taken.refusal)}`,
          {
            remedy:
              'See what QEMU says. It must have the same /dev/shm as Romulus, and may open that pipe.',
          },
        );
      case 'ranOn':
        throw new RomulusError(
          'ERR_GUEST_RAN_ON',
          'the machine ran on before the checkpoint was whole: this process stood still for too long',
          { remedy: 'Nothing needs to be done: a new image is made. See that the host has room.' },
        );
      case 'timeout':
        throw new RomulusError(
          'ERR_TIMEOUT_GUEST_CONTROL',
          `QEMU (process ${this.pid}) did not answer within ${PAUSE_TIMEOUT_MS} ms; it is not held up by us`,
          {
            remedy:
              'See what holds QEMU up: a disk or a network file system that hangs, most likely.',
          },
        );
      case 'contRefused':
        throw new RomulusError(
          'ERR_GUEST_RESUME',
          `QEMU refused to resume the machine: ${wordsOf(taken.refusal)}`,
          { remedy: 'See `query-status` and resume it by hand.' },
        );
      case 'lost':
        throw this.#lostError();
    }
  }

  /** A device that came or went shows in the very next state. */
  #compareSections(sections: readonly DeviceSection[]): void {
    const names = sections.map(({ name, instance }) => `${name}#${instance}`).join();
    this.#sections ??= names;
    if (names === this.#sections) return;
    this.#lose({ kind: 'changed', why: 'a device came or went' });
    throw this.#lostError();
  }

  /** Why a machine that stands cannot be checkpointed; asked once for as long as it stands. */
  async #standing(): Promise<RomulusError> {
    if (this.#parts.guardian.isStopped) return notRunning('it is stopped for a change of ours');
    if (this.#standsAs === null) {
      const { status, running } = await ask(this.#parts.qmp, 'query-status');
      this.#isRunning = running;
      if (running) return notRunning('it was just resumed');
      this.#standsAs = status;
    }
    const isPaused = this.#standsAs === 'paused';
    const why = isPaused ? 'its user paused it' : `it stands by itself (${this.#standsAs})`;
    return notRunning(why, { isPaused });
  }

  async #becomeIdle(): Promise<void> {
    const deadlineMs = performance.now() + IDLE_WAIT_MS;
    while (!this.#parts.qmp.idle) {
      this.#mustLive();
      if (performance.now() > deadlineMs)
        throw notRunning(`QEMU is slow to answer${this.#lookTrouble}`);
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** QEMU answers in order: what it answers to a question of now it does after what it owes. */
  async #settle(): Promise<void> {
    try {
      const { running } = await ask(this.#parts.qmp, 'query-status');
      this.#isRunning = running;
      this.#isAnswerOwed = false;
    } catch (error) {
      this.#mustLive();
      throw notRunning(`QEMU is slow to answer: ${toRomulusError(error).message}`);
    }
  }

  #onEvent({ event, data }: QmpEvent): void {
    switch (event) {
      case 'STOP':
        this.#isRunning = false;
        this.#standsAs = null;
        return;
      case 'RESUME':
        this.#isRunning = true;
        this.#standsAs = null;
        this.#parts.guardian.noteStopped(false);
        return;
      case 'SHUTDOWN':
        return this.#lose({
          kind: 'ended',
          why: `the machine was switched off (${reasonOf(data)})`,
        });
      case 'DEVICE_DELETED':
        void this.#look();
        return;
      default:
    }
  }

  /** A QEMU that dies closes its sockets before it is gone: it is given a moment to be. */
  async #onEnd(why: string): Promise<void> {
    const hasDied = await hasEndedWithin(this.pid, DEATH_MS);
    this.#lose(
      hasDied
        ? { kind: 'died', why: `QEMU (process ${this.pid}) is gone: ${why}` }
        : { kind: 'changed', why: `QEMU (process ${this.pid}) hung up its QMP socket: ${why}` },
    );
  }

  /** Asks whether the machine is still the one that was attached to. */
  async #look(): Promise<void> {
    const { qmp, fingerprint, fingerprintNow } = this.#parts;
    if (this.#isOver || this.#loss !== null || !qmp.idle) return;
    try {
      if ((await fingerprint(qmp)) === fingerprintNow) return;
      this.#lose({ kind: 'changed', why: 'devices or memory came or went' });
    } catch (error) {
      // A QEMU that is gone tells so through the connection's end; a slow one is asked again.
      if (qmp.ended === null && this.#loss === null)
        this.#lookTrouble = `: ${toRomulusError(error).message}`;
    }
  }

  #lose(loss: GuestLoss): void {
    if (this.#isOver || this.#loss !== null) return;
    this.#loss = loss;
    this.#onLost?.(loss);
    this.#onLost = null;
  }

  #mustLive(): void {
    if (this.#isOver || this.#parts.qmp.ended !== null) throw this.#lostError();
  }

  #lostError(): RomulusError {
    return new RomulusError(
      'ERR_GUEST_LOST',
      this.#loss?.why ?? `the connection to QEMU (process ${this.pid}) is over`,
      { remedy: 'Check whether the machine still runs; if it ended, start it or fail over.' },
    );
  }
}

/** QEMU's own words in an answer that refuses something. */
function wordsOf(refusal: string): string {
  return /"desc": "([^"]*)"/.exec(refusal)?.[1] ?? refusal.trim();
}

function reasonOf(data: Readonly<Record<string, unknown>>): string {
  return typeof data['reason'] === 'string' ? data['reason'] : 'no reason given';
}

function notRunning(why: string, details: { isPaused?: boolean } = {}): RomulusError {
  return new RomulusError('ERR_GUEST_CANNOT_SUSPEND', `the machine cannot be suspended: ${why}`, {
    remedy: 'Nothing needs to be done: it is checkpointed again as soon as it runs.',
    details,
  });
}
