/** Goal: a monitor used from another thread is as good as the real one, and safe from that thread's end. */
import { once } from 'node:events';
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { RelayedMonitor, serveMonitor } from '../../src/engine/monitor-relay.ts';
import type { MachineMonitor } from '../../src/guests/guest.ts';

type OnEvent = Parameters<MachineMonitor['onEvent']>[0];

let port: MessagePort;
let relayed: RelayedMonitor;
let orders: string[] = [];
let onEvent: OnEvent = () => undefined;
let onEnd: (error: RomulusError) => void = () => undefined;

beforeEach(() => {
  orders = [];
  const { port1, port2 } = new MessageChannel();
  serveMonitor(port1, {
    command: (name, args) => {
      orders.push(name);
      return name === 'refused'
        ? Promise.reject(new RomulusError('ERR_GUEST_QMP_REFUSED', 'no', { remedy: 'None.' }))
        : Promise.resolve({ name, args });
    },
    commandWithDescriptor: (name, args, descriptor) => Promise.resolve({ name, args, descriptor }),
    onEvent: (listener) => {
      onEvent = listener;
      return () => undefined;
    },
    onEnd: (listener) => {
      onEnd = listener;
    },
  });
  port = port2;
  relayed = new RelayedMonitor(port2);
});

afterEach(() => {
  port.close();
});

/** The other end is gone, and everything that this makes us do is done. */
async function close(): Promise<void> {
  port.close();
  await once(port, 'close');
  await new Promise((resolve) => setTimeout(resolve, 20));
}

describe('a relayed monitor', () => {
  it('gives answers, refusals and the events of block jobs', async () => {
    const events: string[] = [];
    relayed.onEvent(({ event }) => events.push(event));
    expect(await relayed.command('query-x', { a: 1 })).toEqual({ name: 'query-x', args: { a: 1 } });
    expect(await relayed.commandWithDescriptor('getfd', { a: 2 }, 7)).toEqual({
      name: 'getfd',
      args: { a: 2 },
      descriptor: 7,
    });
    await expect(relayed.command('refused')).rejects.toMatchObject({
      code: 'ERR_GUEST_QMP_REFUSED',
    });
    onEvent({ event: 'STOP', data: {} });
    onEvent({ event: 'BLOCK_JOB_READY', data: { device: 'j' } });
    await relayed.command('query-y');
    expect(events).toEqual(['BLOCK_JOB_READY']);
  });

  it('ends with the real one', async () => {
    const ended = new Promise((resolve) => {
      relayed.onEnd(resolve);
    });
    onEnd(new RomulusError('ERR_GUEST_LOST', 'gone', { remedy: 'None.' }));
    expect(await ended).toMatchObject({ code: 'ERR_GUEST_LOST' });
    await expect(relayed.command('x')).rejects.toMatchObject({ code: 'ERR_GUEST_LOST' });
  });

  it('leaves no machine stopped when the thread that stopped it ends', async () => {
    await relayed.command('stop');
    await close();
    await expect.poll(() => orders).toEqual(['stop', 'cont']);
  });

  it('resumes nothing that its thread did not stop, or resumed itself', async () => {
    await relayed.command('stop');
    await relayed.command('cont');
    await relayed.command('query-x');
    await close();
    expect(orders).toEqual(['stop', 'cont', 'query-x']);
  });
});
