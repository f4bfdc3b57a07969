/**
 * Goal: the outside line keeps the contract of outlets, is not held up for ever by a listener that
 * does not read, and believes nothing it is sent. Method: real sockets on loopback.
 */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import { BoundaryDecoder, payloadOf, toBoundaryFrame } from '../../src/nets/boundary-frames.ts';
import { type Line, LISTENERS_MAX, listenLine, type LineOptions } from '../../src/nets/line.ts';
import { netContract } from '../contracts/net.ts';

const HOST = '127.0.0.1';

async function openLine(options: Partial<LineOptions> = {}): Promise<Line> {
  return await listenLine({ host: HOST, port: 0, onFrame: () => {}, ...options });
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
}

async function dial(line: Line): Promise<Socket> {
  const before = line.counters.listeners;
  const socket = connect(line.port, HOST);
  await once(socket, 'connect');
  await until(() => line.counters.listeners > before);
  return socket;
}

describe('outside line', () => {
  netContract(async () => {
    const line = await openLine();
    return {
      outlet: line,
      listen: async () => {
        const socket = await dial(line);
        const decoder = new BoundaryDecoder();
        const heard: string[] = [];
        socket.on('data', (chunk: Buffer) => {
          for (const frame of decoder.push(chunk)) heard.push(payloadOf(frame).toString());
        });
        return {
          heard: async (count) => {
            await until(() => heard.length >= count);
            return heard;
          },
          close: () => {
            socket.destroy();
          },
        };
      },
      destroy: async () => {
        await line.close();
      },
    };
  });

  it('hands frames from outside to the machine', async () => {
    const frames: string[] = [];
    const line = await openLine({
      onFrame: (frame) => {
        frames.push(payloadOf(frame).toString());
      },
    });
    const socket = await dial(line);
    socket.write(
      Buffer.concat([toBoundaryFrame(Buffer.from('a')), toBoundaryFrame(Buffer.from('b'))]),
    );
    await until(() => frames.length === 2);
    expect(frames).toEqual(['a', 'b']);
    expect(line.counters.framesReceived).toBe(2);
    socket.destroy();
    await line.close();
  });

  it('drops a listener that sends nonsense, and says why', async () => {
    const dropped: unknown[] = [];
    const line = await openLine({ onDropped: (why) => dropped.push(why) });
    const socket = await dial(line);
    const closed = once(socket, 'close');
    socket.on('error', () => {});
    socket.write('GET / HTTP/1.1\r\n\r\n');
    await closed;
    await until(() => dropped.length === 1);
    expect(dropped[0]).toMatchObject({ code: 'ERR_LIMIT_NET_FRAME' });
    expect(line.counters).toMatchObject({ listeners: 0, listenersDropped: 1 });
    await line.close();
  });

  it('is not ready while a listener does not read, and drops it after its time', async () => {
    const line = await openLine({ stallMs: 50 });
    const slow = await dial(line);
    slow.pause();
    slow.on('error', () => {});
    let readyAgain = false;
    line.onReady(() => {
      readyAgain = true;
    });
    const frame = toBoundaryFrame(Buffer.alloc(60_000));
    for (let count = 0; line.ready; count += 1) {
      expect(count).toBeLessThan(5000);
      line.write(frame);
    }
    await until(() => readyAgain);
    expect(line.ready).toBe(true);
    expect(line.counters).toMatchObject({ listeners: 0, listenersDropped: 1 });
    slow.destroy();
    await line.close();
  });

  it('is ready again when a slow listener reads on in time', async () => {
    const line = await openLine({ stallMs: 10_000 });
    const slow = await dial(line);
    slow.pause();
    let readyAgain = false;
    line.onReady(() => {
      readyAgain = true;
    });
    while (line.ready) line.write(toBoundaryFrame(Buffer.alloc(60_000)));
    slow.resume();
    await until(() => readyAgain);
    expect(line.counters).toMatchObject({ listeners: 1, listenersDropped: 0 });
    slow.destroy();
    await line.close();
  });

  it('bounds the number of listeners', async () => {
    const line = await openLine();
    const sockets: Socket[] = [];
    for (let count = 0; count < LISTENERS_MAX; count += 1) sockets.push(await dial(line));
    const extra = connect(line.port, HOST);
    extra.on('error', () => {});
    await once(extra, 'close');
    expect(line.counters).toMatchObject({ listeners: LISTENERS_MAX, listenersDropped: 1 });
    for (const socket of sockets) socket.destroy();
    await line.close();
  });

  it('says that its address is in use', async () => {
    const line = await openLine();
    await expect(openLine({ port: line.port })).rejects.toMatchObject({
      code: 'ERR_NET_ADDRESS_IN_USE',
    });
    await expect(openLine({ host: '192.0.2.1' })).rejects.toMatchObject({ code: 'ERR_NET_LISTEN' });
    await line.close();
    await line.close();
  });
});
