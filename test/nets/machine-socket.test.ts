/** Goal: frames both ways over the machine's net socket, and its loss told once. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { RomulusError } from '../../src/base/errors.ts';
import { payloadOf, toBoundaryFrame } from '../../src/nets/boundary-frames.ts';
import {
  connectMachine,
  INPUT_QUEUE_BYTES_MAX,
  type MachineSocket,
} from '../../src/nets/machine-socket.ts';

describe('machine socket', () => {
  let directory: string;
  let path: string;
  let server: Server;
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'romulus-net-'));
    path = join(directory, 'net');
    server = createServer();
    server.listen(path);
    await once(server, 'listening');
  });
  afterEach(async () => {
    server.close();
    await once(server, 'close');
    rmSync(directory, { recursive: true });
  });

  async function connectPair(): Promise<{
    machine: Socket;
    ours: MachineSocket;
    frames: string[];
    lost: RomulusError[];
  }> {
    const accepted = once(server, 'connection');
    const frames: string[] = [];
    const lost: RomulusError[] = [];
    const ours = await connectMachine({
      path,
      onFrame: (frame) => frames.push(payloadOf(frame).toString()),
      onLost: (error) => lost.push(error),
    });
    const [machine] = (await accepted) as [Socket];
    machine.on('error', () => {});
    return { machine, ours, frames, lost };
  }

  async function until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
  }

  it('carries frames both ways', async () => {
    const { machine, ours, frames, lost } = await connectPair();
    machine.write(toBoundaryFrame(Buffer.from('out')));
    const arrived = once(machine, 'data');
    expect(ours.send(toBoundaryFrame(Buffer.from('in')))).toBe(true);
    const [chunk] = (await arrived) as [Buffer];
    expect(payloadOf(chunk).toString()).toBe('in');
    await until(() => frames.length === 1);
    expect(frames).toEqual(['out']);
    ours.close();
    ours.close();
    expect(ours.send(toBoundaryFrame(Buffer.from('late')))).toBe(false);
    expect(ours.counters).toEqual({ framesReceived: 1, framesSent: 1, framesDropped: 1 });
    expect(lost).toEqual([]);
    machine.destroy();
  });

  it('drops frames for a machine that does not read', async () => {
    const { machine, ours } = await connectPair();
    machine.pause();
    const frame = toBoundaryFrame(Buffer.alloc(60_000));
    let sent = 0;
    while (ours.send(frame)) {
      sent += 1;
      expect(sent * frame.byteLength).toBeLessThan(INPUT_QUEUE_BYTES_MAX * 4);
    }
    expect(ours.counters.framesDropped).toBe(1);
    ours.close();
    machine.destroy();
  });

  it('tells once that the machine is gone, or speaks nonsense', async () => {
    const gone = await connectPair();
    gone.machine.destroy();
    await until(() => gone.lost.length > 0);
    expect(gone.lost).toMatchObject([{ code: 'ERR_NET_MACHINE_LOST' }]);
    const wrong = await connectPair();
    wrong.machine.write(Buffer.alloc(16, 0xff));
    await until(() => wrong.lost.length > 0);
    expect(wrong.lost).toMatchObject([{ code: 'ERR_LIMIT_NET_FRAME' }]);
    wrong.machine.destroy();
  });

  it('says that no machine is there', async () => {
    const options = { path: join(directory, 'none'), onFrame: () => {}, onLost: () => {} };
    await expect(connectMachine(options)).rejects.toMatchObject({ code: 'ERR_NET_MACHINE_SOCKET' });
  });
});
