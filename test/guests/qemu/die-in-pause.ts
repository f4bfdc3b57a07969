/** A process that says `paused` in the middle of a pause and never comes back from it. */
import { attachQemu } from '../../../src/guests/qemu/attach.ts';

const guest = await attachQemu({
  qmpPath: process.argv[2] ?? '',
  diskMode: 'none',
  holdsOutput: false,
});
await guest.pause(() => {
  process.stdout.write('paused\n');
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
});
