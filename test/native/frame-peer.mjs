// QEMU's side of a tap, for tests. Descriptor 3 is what a NIC's frames go into, 4 where frames come
// back; those of a second NIC are 5 and 6. Says what it did as one JSON object and waits for its
// stdin to end.
import { readSync, writeSync } from 'node:fs';

const [, , job, count = '0', bytes = '60'] = process.argv;

function frame(payload) {
  const whole = Buffer.alloc(4 + payload.length);
  whole.writeUInt32BE(payload.length);
  payload.copy(whole, 4);
  return whole;
}

function writeAll(fd, data) {
  for (let at = 0; at < data.length; ) at += writeSync(fd, data, at);
}

const jobs = {
  // Numbered frames, by turns into both NICs.
  turns() {
    for (let index = 0; index < Number(count); index += 1)
      writeAll(3 + 2 * (index % 2), frame(Buffer.from(String(index))));
    return {};
  },
  // As much as goes.
  flood() {
    const payload = Buffer.alloc(Number(bytes));
    for (let index = 0; index < Number(count); index += 1) {
      payload.writeUInt32LE(index);
      writeAll(3, frame(payload));
    }
    return {};
  },
  // Reads so many bytes of what comes back.
  read() {
    const all = Buffer.alloc(Number(count));
    for (let at = 0; at < all.length; ) at += readSync(4, all, { offset: at });
    return { starts: all.toString('latin1', 0, 6), ends: all.toString('latin1', all.length - 6) };
  },
  nonsense() {
    writeAll(3, Buffer.from('ffffffff00', 'hex'));
    return {};
  },
  nothing() {
    return {};
  },
};

process.stdout.write(`${JSON.stringify(jobs[job]())}\n`);
process.stdin.resume();
