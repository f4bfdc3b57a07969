// Goal: the queue keeps exactly what a resumed link could need, and counts what waits.
import { describe, expect, it } from 'vitest';
import { EpochQueue, type QueuedEpoch } from '../../src/engine/epoch-queue.ts';

function epoch(number: number, bytes = 10): QueuedEpoch {
  const payload = new Uint8Array(bytes);
  return { epoch: number, frames: [[payload]], bytes, buffers: [payload.buffer] };
}

describe('EpochQueue', () => {
  it('keeps acknowledged epochs until they are applied', () => {
    const queue = new EpochQueue({ retainedBytesMax: 1000 });
    for (const number of [1, 2, 3]) queue.append(epoch(number));
    expect(queue.unackedBytes).toBe(30);
    queue.acknowledge(2);
    expect(queue.unackedBytes).toBe(10);
    expect(queue.oldestEpoch).toBe(1);
    queue.applied(1);
    expect(queue.oldestEpoch).toBe(2);
    expect(queue.after(2).map((item) => item.epoch)).toEqual([3]);
  });

  it('drops acknowledged epochs beyond its bound, never unacknowledged ones', () => {
    const queue = new EpochQueue({ retainedBytesMax: 25 });
    for (const number of [1, 2, 3, 4]) queue.append(epoch(number));
    expect(queue.oldestEpoch).toBe(1);
    queue.acknowledge(2);
    expect(queue.oldestEpoch).toBe(3);
    expect(queue.unackedBytes).toBe(20);
  });

  it('gives the memory of applied epochs away, once, and of no others', () => {
    const queue = new EpochQueue({ retainedBytesMax: 1000 });
    const epochs = [1, 2, 3].map((number) => epoch(number));
    for (const item of epochs) queue.append(item);
    queue.acknowledge(3);
    expect(queue.takeSpares()).toEqual([]);
    queue.applied(2);
    const spares = queue.takeSpares();
    expect(spares).toHaveLength(2);
    for (const [index, spare] of spares.entries()) expect(spare).toBe(epochs[index]?.buffers[0]);
    expect(queue.takeSpares()).toEqual([]);
    queue.applied(3);
    queue.clear();
    expect(queue.takeSpares()).toEqual([]);
  });

  it('keeps no more memory of applied epochs than its bound', () => {
    const queue = new EpochQueue({ retainedBytesMax: 1000 });
    const buffers = Array.from({ length: 100 }, () => new ArrayBuffer(1));
    queue.append({ ...epoch(1), buffers });
    queue.append({ ...epoch(2), buffers: [new ArrayBuffer(1)] });
    queue.applied(2);
    expect(queue.takeSpares()).toEqual(buffers.slice(0, 32));
  });

  it('gives away no memory of epochs dropped before they were applied', () => {
    const queue = new EpochQueue({ retainedBytesMax: 25 });
    for (const number of [1, 2, 3, 4]) queue.append(epoch(number));
    queue.acknowledge(2);
    queue.applied(2);
    expect(queue.takeSpares()).toEqual([]);
  });

  it('refuses a gap', () => {
    const queue = new EpochQueue({ retainedBytesMax: 1000 });
    queue.append(epoch(5));
    expect(() => queue.append(epoch(7))).toThrow(/epoch 7 after 5/);
  });

  it('counts repeated acknowledgements once', () => {
    const queue = new EpochQueue({ retainedBytesMax: 1000 });
    queue.append(epoch(1));
    queue.append(epoch(2));
    queue.acknowledge(1);
    queue.acknowledge(1);
    expect(queue.unackedBytes).toBe(10);
    queue.applied(2);
    expect(queue.unackedBytes).toBe(0);
    expect(queue.oldestEpoch).toBeNull();
  });
});
