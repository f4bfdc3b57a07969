/**
 * A simulated machine prepared on the backup: its process exists and waits, its RAM and disk are
 * memory that we made and write replicated pages into, so that a promotion loads a few kilobytes of
 * device state and starts the vCPU, nothing else.
 *
 * Until it is started the machine ends with the thread that prepared it (PR_SET_PDEATHSIG is tied to
 * the thread that forks: prepare it in one that lives as long as the backup). From the start on it
 * outlives this process.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { RomulusError } from '../../base/errors.ts';
import { Memory } from '../../native/memory.ts';
import type { GuestDescriptor, IncomingGuest } from '../guest.ts';
import { SimControl } from './control.ts';
import { parseSimInfo, readSimDescriptor, type SimInfo } from './info.ts';
import { SimGuest } from './sim-guest.ts';
import { launchSim, type SimProcess } from './spawn.ts';

export interface PrepareIncomingSimOptions {
  /** What the primary said of its machine. */
  readonly descriptor: GuestDescriptor;
  /** Where the machine's sockets go. */
  readonly directory: string;
  /** Whether the machine is to track its dirty pages itself once it runs. */
  readonly tracker?: 'mprotect';
}

/**
 * Makes memory and a waiting process for the machine that the descriptor describes.
 * @throws {RomulusError} ERR_GUEST_DESCRIPTOR, ERR_USAGE_SIM, ERR_GUEST_START, ERR_HOST_MEMORY_*
 */
export async function prepareIncomingSim(options: PrepareIncomingSimOptions): Promise<IncomingSim> {
  const { memoryBytes, diskBytes, profile } = readSimDescriptor(options.descriptor);
  const socketPath = join(options.directory, `sim-${randomBytes(4).toString('hex')}.sock`);
  const ram = Memory.create({ name: 'romulus-ram', bytes: memoryBytes });
  let disk: Memory | null = null;
  let machine: SimProcess | null = null;
  try {
    disk = Memory.create({ name: 'romulus-disk', bytes: diskBytes });
    const args = [
      '--incoming',
      '--quit-with-parent',
      `${process.pid}`,
      '--ram-fd',
      '3',
      '--disk-fd',
      '4',
    ];
    args.push('--socket', socketPath, '--memory', `${memoryBytes}`, '--disk', `${diskBytes}`);
    args.push('--workload', profile.workload, '--seed', profile.seed);
    args.push('--rate', `${profile.rate}`, '--beacons', `${profile.beacons}`);
    if (options.tracker !== undefined) args.push('--tracker', options.tracker);
    machine = await launchSim(socketPath, args, [ram.fd, disk.fd]);
    const control = await SimControl.connect(socketPath);
    const info = parseSimInfo(await control.command('info'));
    return new IncomingSim({ machine, control, info, ram, disk });
  } catch (error) {
    await machine?.stop();
    ram.close();
    disk?.close();
    throw error;
  }
}

interface IncomingParts {
  readonly machine: SimProcess;
  readonly control: SimControl;
  readonly info: SimInfo;
  readonly ram: Memory;
  readonly disk: Memory;
}

/** A machine that waits to be started. Made by `prepareIncomingSim`. */
export class IncomingSim implements IncomingGuest {
  readonly blocks: IncomingGuest['blocks'];
  readonly pid: number;
  readonly controlPath: string;
  readonly netSocketPath: string;
  readonly disks: IncomingGuest['disks'];
  /** The memory behind block 0, mapped in this thread. */
  readonly ram: Memory;
  /** The disk's memory: replicated disk writes go in here. */
  readonly disk: Memory;
  readonly #parts: IncomingParts;
  #onLost: ((why: string) => void) | null = null;
  #state: 'waiting' | 'started' | 'discarded' = 'waiting';

  /** Takes over all parts. */
  constructor(parts: IncomingParts) {
    this.#parts = parts;
    this.pid = parts.machine.pid;
    this.controlPath = parts.machine.socketPath;
    this.netSocketPath = `${parts.machine.socketPath}.net`;
    this.ram = parts.ram;
    this.disk = parts.disk;
    this.disks = [{ id: 0, fd: parts.disk.fd, bytes: parts.disk.bytes }];
    this.blocks = [{ id: 0, fd: parts.ram.fd, bytes: parts.ram.bytes, isReserved: false }];
    void this.#watch(parts.machine);
  }

  /** There is nothing that the start of a simulated machine could be spared. */
  beforeLoad(): void {}

  /** It loads and starts with one command, in no time. */
  load(): void {}

  async start(deviceState: Uint8Array): Promise<SimGuest> {
    if (this.#state !== 'waiting') {
      throw new RomulusError('ERR_GUEST_STATE', `the machine was ${this.#state} before`, {
        remedy: 'Prepare another one.',
      });
    }
    this.#state = 'started';
    try {
      await this.#parts.control.loadAndContinue(deviceState);
    } catch (error) {
      // Refused: it never ran, and may be started with another state or discarded.
      this.#state = 'waiting';
      throw error;
    }
    return new SimGuest(this.#parts.control, this.#parts.info);
  }

  async #watch(machine: SimProcess): Promise<void> {
    const how = await machine.ended;
    if (this.#state === 'waiting') this.#onLost?.(`the waiting machine ended (${how})`);
  }

  onLost(listener: (why: string) => void): void {
    this.#onLost = listener;
  }

  /** As in IncomingGuest; after a start it only lets go of the memory's mappings. */
  async discard(): Promise<void> {
    if (this.#state === 'discarded') return;
    const wasStarted = this.#state === 'started';
    this.#state = 'discarded';
    if (!wasStarted) {
      this.#parts.control.close();
      await this.#parts.machine.stop();
    }
    this.ram.close();
    this.disk.close();
  }
}
