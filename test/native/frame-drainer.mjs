// Another thread that asks a tap for its count. Plain JavaScript, because workers need it.
import { createRequire } from 'node:module';
import { workerData } from 'node:worker_threads';

const native = createRequire(import.meta.url)('../../native-sim/build/Release/romulus_native.node');
const answer = new Int32Array(workerData.answer);
answer[0] = native.frameTapDrain(workerData.id);
Atomics.store(answer, 1, 1);
Atomics.notify(answer, 1);
