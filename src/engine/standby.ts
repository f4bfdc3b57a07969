/**
 * The machine that waits on a backup: its process runs, its memory is ours to fill, its net is
 * connected to a closed gate. Everything that can be done before a promotion is done here.
 */
import type { Logger } from 'pino';
import { RomulusError } from '../base/errors.ts';
import { sizeText } from '../base/units.ts';
import type { GuestDescriptor, IncomingGuest } from '../guests/guest.ts';
import { type MachineAddress, memoryBytesOf, prepareIncoming } from '../guests/index.ts';
import type { MachineSocket } from '../nets/machine-socket.ts';
import type { OutputGate } from '../nets/output-gate.ts';
import type { NodeConfig } from './config.ts';
import { connectMachineNet } from './machine-net.ts';
import { machineTracker } from './machine-tracker.ts';

export interface Standby {
  readonly descriptor: GuestDescriptor;
  readonly incoming: IncomingGuest;
  /** Where the machine will be found once it runs. */
  readonly address: MachineAddress;
  readonly net: MachineSocket | null;
  /** Gives the machine up. Not after it was started. */
  discard(): Promise<void>;
}

/**
 * Starts a machine of this description that waits for its state.
 * @throws {RomulusError} ERR_CONFIG_MEMORY when it is not of the size that this node was told to expect;
 *   as `prepareIncoming`.
 */
export async function prepareStandby(options: {
  readonly descriptor: GuestDescriptor;
  readonly config: NodeConfig;
  readonly gate: OutputGate;
  readonly log: Logger;
}): Promise<Standby> {
  const { descriptor, config, gate, log } = options;
  requireMemory(memoryBytesOf(descriptor), config.expectedMemoryBytes);
  // It will be the protected machine one day, on this host.
  const simTracker = machineTracker(config.tracker);
  const { qemuBinary: binary, qemuMapping: mapping, ramDirectory } = config;
  const incoming = await prepareIncoming({
    descriptor,
    directory: config.stateDirectory,
    ...(simTracker !== undefined && { simTracker }),
    qemu: {
      diskMode: config.disk,
      holdsOutput: config.netHold === 'all',
      ...(binary !== undefined && { binary }),
      ...(mapping !== undefined && { mapping }),
      ...(ramDirectory !== undefined && { ramDirectory }),
    },
  });
  try {
    const { netSocketPath } = incoming;
    const net =
      netSocketPath === null ? null : await connectMachineNet({ path: netSocketPath, gate, log });
    return {
      descriptor,
      incoming,
      address: { kind: descriptor.kind, controlPath: incoming.controlPath, pid: incoming.pid },
      net,
      discard: async () => {
        net?.close();
        await incoming.discard();
      },
    };
  } catch (error) {
    await incoming.discard();
    throw error;
  }
}

function requireMemory(memoryBytes: number, expectedBytes: number | undefined): void {
  if (expectedBytes === undefined || expectedBytes === memoryBytes) return;
  const [found, expected] = [memoryBytes, expectedBytes].map(sizeText);
  throw new RomulusError(
    'ERR_CONFIG_MEMORY',
    `the primary's machine has ${found} of memory, and this backup was told to expect ${expected} (--memory)`,
    {
      remedy: `Check that --peer leads to the right primary; then start the backup with --memory ${found}, or without --memory.`,
      details: { memoryBytes, expectedBytes },
    },
  );
}
