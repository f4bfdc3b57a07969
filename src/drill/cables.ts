/**
 * The drill's cables between two nodes, in a thread of their own: heartbeats run through them, and
 * a drill that is busy for a moment must not look like a bad cable.
 */
import { Worker } from 'node:worker_threads';
import { workerUrl } from '../native/worker-url.ts';
import type { CableOrder, CableReport, CableTarget } from './cables-worker.ts';

/** Cables that can be cut and mended together. */
export class Cables {
  readonly #worker: Worker;
  /** Where to dial instead of the targets, in their order. */
  readonly ports: readonly number[];

  private constructor(worker: Worker, ports: readonly number[]) {
    this.#worker = worker;
    this.ports = ports;
  }

  /** Lays one cable to each target. */
  static async lay(targets: readonly CableTarget[]): Promise<Cables> {
    const worker = new Worker(workerUrl('./cables-worker', import.meta.url), {
      name: 'cables',
      workerData: targets,
    });
    const ports = await new Promise<readonly number[]>((resolve, reject) => {
      worker.once('message', (report: CableReport) => resolve(report.ports));
      worker.once('error', reject);
    });
    return new Cables(worker, ports);
  }

  /** From now on nothing passes, and nothing says so. */
  cut(): void {
    this.#worker.postMessage('cut' satisfies CableOrder);
  }

  /** New connections pass again; the old ones, having lost bytes, are reset. */
  mend(): void {
    this.#worker.postMessage('mend' satisfies CableOrder);
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }
}
