// A client of a disk in a thread of its own: writes one by one, and counts the replies that found their
// write counted.
import { createConnection } from 'node:net';
import { parentPort, workerData } from 'node:worker_threads';

const { path, counter, count } = workerData;
const counted = new BigInt64Array(counter);
const socket = createConnection({ path });
await read(18);
const flags = Buffer.alloc(4);
flags.writeUInt32BE(3);
const go = Buffer.alloc(16 + 4 + 5 + 2);
go.write('IHAVEOPT');
go.writeUInt32BE(7, 8);
go.writeUInt32BE(11, 12);
go.writeUInt32BE(5, 16);
go.write('disk0', 20);
socket.write(Buffer.concat([flags, go]));
await read(86);
parentPort.postMessage('open');

parentPort.once('message', async (done) => {
  const request = Buffer.alloc(28 + 4096);
  request.writeUInt32BE(0x25609513);
  request.writeUInt16BE(1, 6);
  request.writeUInt32BE(4096, 24);
  let seen = 0;
  for (let write = 1; write <= count; write += 1) {
    socket.write(request);
    await read(16);
    if (Atomics.load(counted, 0) === BigInt(write)) seen += 1;
  }
  const word = new Int32Array(done);
  Atomics.store(word, 0, seen);
  Atomics.notify(word, 0);
});

async function read(bytes) {
  for (;;) {
    const data = socket.read(bytes);
    if (data !== null) return data;
    await new Promise((resolve) => socket.once('readable', resolve));
  }
}
