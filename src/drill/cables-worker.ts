/** The thread of cables.ts: holds the proxies, ahead of ordinary threads where it may. */
import { parentPort, workerData } from 'node:worker_threads';
import { assert, unreachable } from '../base/assert.ts';
import { boostThread } from '../native/host.ts';
import { LinkProxy } from './link-proxy.ts';

export interface CableTarget {
  readonly host: string;
  readonly port: number;
}
export type CableOrder = 'cut' | 'mend';
export interface CableReport {
  readonly ports: readonly number[];
}

const port = parentPort;
assert(port !== null, 'the cables are a worker thread');
boostThread();
const proxies = (workerData as readonly CableTarget[]).map((target) => new LinkProxy(target));
port.on('message', (order: CableOrder) => {
  for (const proxy of proxies)
    switch (order) {
      case 'cut':
        proxy.cut();
        break;
      case 'mend':
        proxy.mend();
        break;
      default:
        unreachable(order, 'order to the cables');
    }
});
port.postMessage({
  ports: await Promise.all(proxies.map((proxy) => proxy.listen())),
} satisfies CableReport);
