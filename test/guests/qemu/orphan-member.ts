/**
 * Part of orphan.test.ts: a process that prepares a QEMU and, with `start`, lets it become the
 * machine, says so in one line of JSON, and then waits to be killed.
 */
import { prepareIncomingQemu } from '../../../src/guests/qemu/incoming.ts';
import { captureMachine, fill } from './machine-pair.ts';

const captured = await captureMachine({ bare: true, cpu: 'qemu64', until: /c 10\r?\n/ });
const { commandLine } = await captured.backup();
const { descriptor, directory } = captured;
const incoming = await prepareIncomingQemu({ descriptor, directory, commandLine });
if (process.argv[2] === 'start') {
  fill(captured, incoming.blocks);
  await incoming.start(captured.deviceState);
}
const { pid, controlPath } = incoming;
process.stdout.write(`${JSON.stringify({ pid, controlPath, directory })}\n`);
// Longer than the test waits for anything.
setTimeout(() => undefined, 120_000);
