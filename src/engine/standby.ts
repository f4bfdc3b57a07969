/**
 * The machine that waits on a backup: its process runs, its memory is ours to fill, its net is
 * connected to a closed gate. Everything that can be done before a promotion is done here.
 */
import type { Logger } from 'pino';
import type { GuestDescriptor, IncomingGuest } from '../guests/guest.ts';
import { prepareIncomingSim } from '../guests/sim/incoming.ts';
import type { MachineSocket } from '../nets/machine-socket.ts';
import type { OutputGate } from '../nets/output-gate.ts';
import type { NodeConfig } from './config.ts';
import { connectMachineNet } from './machine-net.ts';
import { machineTracker } from './machine-tracker.ts';

export interface Standby {
  readonly descriptor: GuestDescriptor;
  readonly incoming: IncomingGuest;
  readonly socketPath: string;
  readonly pid: number;
  readonly disk: { readonly fd: number; readonly bytes: number } | null;
  readonly net: MachineSocket;
  /** Gives the machine up. Not after it was started. */
  discard(): Promise<void>;
}

/** Starts a machine of this description that waits for its state. */
export async function prepareStandby(options: {
  readonly descriptor: GuestDescriptor;
  readonly directory: string;
  readonly tracker: NodeConfig['tracker'];
  readonly gate: OutputGate;
  readonly log: Logger;
}): Promise<Standby> {
  const { descriptor, directory, gate, log } = options;
  // It will be the protected machine one day, on this host.
  const tracker = machineTracker(options.tracker);
  const incoming = await prepareIncomingSim({
    descriptor,
    directory,
    ...(tracker !== undefined && { tracker }),
  });
  try {
    const net = await connectMachineNet({ path: incoming.netSocketPath, gate, log });
    return {
      descriptor,
      incoming,
      socketPath: incoming.controlPath,
      pid: incoming.pid,
      disk: incoming.disk,
      net,
      discard: async () => {
        net.close();
        await incoming.discard();
      },
    };
  } catch (error) {
    await incoming.discard();
    throw error;
  }
}
