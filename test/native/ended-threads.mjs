// Ends threads at the worst moments, one after another, and says how many it ended. `wake`: a wake of a
// tap waits for the thread's event loop. `call`: the thread is within a native function. With `throw`,
// a wake comes through and throws, in this thread. Plain JavaScript, because workers need it.
import { once } from 'node:events';
import { writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';

const native = createRequire(import.meta.url)('../../native-sim/build/Release/romulus_native.node');
const [moment, count] = isMainThread ? process.argv.slice(2) : [workerData];

function tapWithWake() {
  const handle = native.frameTapCreate({ ports: 1, bytesMax: 1 << 20, framesMax: 64 }, () => {
    throw new Error('a wake that throws');
  });
  const [capture] = native.frameTapDescribe(handle).farEnds;
  writeSync(capture, Buffer.from([0, 0, 0, 4, 1, 2, 3, 4]));
  // Long enough for the tap's own thread to read it and to ask for the wake.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
  return handle;
}

if (!isMainThread) {
  const handle = tapWithWake();
  parentPort.postMessage('begun');
  for (;;) if (moment === 'call') native.frameTapDescribe(handle);
} else if (moment === 'throw') {
  const handle = tapWithWake();
  setTimeout(() => native.frameTapDescribe(handle), 5000);
} else {
  for (let ended = 0; ended < Number(count); ended += 1) {
    const worker = new Worker(fileURLToPath(import.meta.url), { workerData: moment });
    worker.on('error', (error) => {
      throw error;
    });
    await once(worker, 'message');
    await worker.terminate();
  }
  console.log(`ended ${count}`);
}
