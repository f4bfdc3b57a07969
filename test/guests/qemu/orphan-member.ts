/**
 * Part of orphan.test.ts: a process that prepares a QEMU and, with `load`, loads it, or, with `start`,
 * lets it become the machine, says so in one line of JSON, and then waits to be killed.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { prepareIncomingQemu } from '../../../src/guests/qemu/incoming.ts';
import { captureMachine, fill } from './machine-pair.ts';

const [, , mode = '', qemu = ''] = process.argv;
const captured = await captureMachine({
  bare: true,
  machine: 'pc-q35-7.2',
  cpu: 'qemu64',
  until: /c 10\r?\n/,
  ...(qemu !== '' && { qemu }),
});
const { commandLine, serial } = await captured.backup();
const { descriptor, directory } = captured;
const incoming = await prepareIncomingQemu({ descriptor, directory, commandLine });
if (mode !== 'wait') fill(captured, incoming.blocks);
if (mode === 'start') await incoming.start(captured.deviceState);
if (mode === 'load') {
  incoming.load(captured.deviceState);
  // Until it has read all of that.
  await sleep(300);
}
const { pid, controlPath } = incoming;
process.stdout.write(`${JSON.stringify({ pid, controlPath, directory, said: serial.text })}\n`);
// Longer than the test waits for anything.
setTimeout(() => undefined, 120_000);
