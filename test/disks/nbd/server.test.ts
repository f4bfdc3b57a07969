/** Goal: one order of writes for all disks, one client a disk, and no client can hold the server. */
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { RomulusError } from '../../../src/base/errors.ts';
import { NbdServer } from '../../../src/disks/nbd/server.ts';
import { clientFlags, go, option, request } from './nbd-client.ts';

describe('NbdServer', () => {
  let directory: string;
  let server: NbdServer;
  let received: string[];
  let gone: [number, string][];
  const sockets: Socket[] = [];

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'romulus-nbd-'));
    received = [];
    // Clients of an earlier test may still be leaving.
    const leavers: [number, string][] = [];
    gone = leavers;
    server = await NbdServer.listen({
      path: join(directory, 'nbd.sock'),
      exports: [
        { name: 'disk0', diskBytes: 1000 },
        { name: 'disk1', diskBytes: 1000 },
      ],
      sink: {
        write: (disk, offset, data) => {
          if (data.toString() === 'full') throw new RangeError('no room');
          received.push(`${disk}:${offset}:${data.toString()}`);
        },
        zeros: (disk, offset, byteCount) => received.push(`${disk}:${offset}:0*${byteCount}`),
      },
      onGone: (disk, error: RomulusError) => leavers.push([disk, error.code]),
      handshakeTimeoutMs: 2000,
    });
  });
  afterEach(() => {
    for (const socket of sockets.splice(0)) socket.destroy();
    server.close();
    server.close();
    expect(existsSync(server.path)).toBe(false);
    rmSync(directory, { recursive: true });
  });

  async function connect(): Promise<{ socket: Socket; read: (bytes: number) => Promise<Buffer> }> {
    const socket = createConnection({ path: server.path });
    sockets.push(socket);
    socket.on('error', () => socket.destroy());
    const read = async (bytes: number): Promise<Buffer> => {
      for (;;) {
        const data = socket.read(bytes) as Buffer | null;
        if (data !== null) return data;
        await once(socket, 'readable');
      }
    };
    expect((await read(18)).toString('latin1', 0, 16)).toBe('NBDMAGICIHAVEOPT');
    socket.write(clientFlags());
    return { socket, read };
  }

  it('hands writes of all disks over in one order, before their replies', async () => {
    expect(statSync(server.path).mode & 0o077).toBe(0);
    const first = await connect();
    const second = await connect();
    first.socket.write(go('disk0'));
    second.socket.write(go('disk1'));
    const granted = await first.read(32 + 34 + 20);
    expect(granted.readBigUInt64BE(22)).toBe(1000n);
    await second.read(32 + 34 + 20);
    for (let round = 0; round < 20; round += 1) {
      const { socket, read } = round % 2 === 0 ? first : second;
      const data = Buffer.from(`w${round}`);
      socket.write(request({ type: 1, cookie: BigInt(round), offset: 5n, data }));
      expect((await read(16)).readBigUInt64BE(8)).toBe(BigInt(round));
      expect(received.at(-1)).toBe(`${round % 2}:5:w${round}`);
    }
    first.socket.write(request({ type: 4, offset: 1n, length: 9 }));
    await first.read(16);
    expect(received.at(-1)).toBe('0:1:0*9');
  });

  it('gives a disk to one client at a time', async () => {
    const first = await connect();
    first.socket.write(go('disk0'));
    await first.read(86);
    const second = await connect();
    second.socket.write(go('disk0'));
    expect((await second.read(20)).readUInt32BE(12)).toBe(0x80000002);
    first.socket.destroy();
    await expect.poll(() => gone).toEqual([[0, 'ERR_DISK_LOST']]);
    second.socket.write(go('disk0'));
    expect((await second.read(86)).readUInt32BE(12)).toBe(3);
  });

  it('ends who breaks the protocol, hesitates or sends what the sink refuses', async () => {
    const closed = async (socket: Socket): Promise<void> => {
      socket.resume();
      await once(socket, 'close');
    };
    const nonsense = await connect();
    nonsense.socket.write(Buffer.alloc(64, 0xff));
    await closed(nonsense.socket);
    const idle = await connect();
    await closed(idle.socket);
    const leaver = await connect();
    leaver.socket.write(option(2));
    expect((await leaver.read(20)).readUInt32BE(12)).toBe(1);
    await closed(leaver.socket);
    const full = await connect();
    full.socket.write(
      Buffer.concat([go('disk1'), request({ type: 1, data: Buffer.from('full') })]),
    );
    await closed(full.socket);
    await expect.poll(() => gone).toEqual([[1, 'ERR_INTERNAL_UNEXPECTED']]);
    expect(server.refusedCount).toBe(3);
    expect(received).toEqual([]);
  });
});
