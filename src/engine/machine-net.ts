/** The machine's net socket on one side, the gate and the outside line on the other. */
import type { Logger } from 'pino';
import { connectMachine, type MachineSocket } from '../nets/machine-socket.ts';
import type { OutputGate } from '../nets/output-gate.ts';

/** Connects the machine's net socket at `path` to the gate; what comes from outside goes to `send`. */
export async function connectMachineNet(options: {
  readonly path: string;
  readonly gate: OutputGate;
  readonly log: Logger;
}): Promise<MachineSocket> {
  const { gate, log } = options;
  const socket = await connectMachine({
    path: options.path,
    onFrame: (frame) => gate.receive(frame),
    onLost: (error) => log.warn({ error: error.toJSON() }, "the machine's net socket is lost"),
  });
  gate.machineConnected();
  return socket;
}
