/**
 * A process that prepares an incoming machine, starts it when told to, says its process id, and
 * waits to be killed. For orphan.test.ts.
 */
import { prepareIncomingSim } from '../../../src/guests/sim/incoming.ts';
import { attachSim } from '../../../src/guests/sim/sim-guest.ts';

const [socketPath = '', directory = '', mode = ''] = process.argv.slice(2);
const guest = await attachSim({ socketPath });
const incoming = await prepareIncomingSim({ descriptor: guest.descriptor, directory });
if (mode === 'start') {
  await guest.suspend();
  await incoming.start(await guest.saveDeviceState());
}
process.stdout.write(`${incoming.pid} ${incoming.controlPath}\n`);
setInterval(() => undefined, 1000);
