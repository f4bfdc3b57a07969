/** Goal: one client a disk, and no client can hold the server, or slip past its handover. */
import { existsSync, statSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { go, option, request } from './nbd-client.ts';
import { NbdRig } from './nbd-rig.ts';

describe('NbdServer', () => {
  let rig: NbdRig;

  beforeEach(async () => {
    rig = await NbdRig.start([1000, 1000]);
  });
  afterEach(() => {
    rig.stop();
    expect(existsSync(rig.server.path)).toBe(false);
  });

  it('grants a disk with its size, and lets others wait outside', async () => {
    expect(statSync(rig.server.path).mode & 0o077).toBe(0);
    const peer = await rig.connect();
    peer.socket.write(go('disk1'));
    expect((await peer.read(86)).readBigUInt64BE(22)).toBe(1000n);
    expect(rig.server.isOpen(1)).toBe(true);
    expect(rig.server.isOpen(0)).toBe(false);
  });

  it('gives a disk to one client at a time', async () => {
    const first = await rig.open(0);
    const second = await rig.connect();
    second.socket.write(go('disk0'));
    expect((await second.read(20)).readUInt32BE(12)).toBe(0x80000002);
    first.socket.destroy();
    await expect.poll(() => rig.gone.map(({ code }) => code)).toEqual(['ERR_DISK_LOST']);
    second.socket.write(go('disk0'));
    expect((await second.read(86)).readUInt32BE(12)).toBe(3);
    expect(rig.server.refusedCount).toBe(1);
  });

  it('hands over what was sent before its grant was read', async () => {
    const peer = await rig.connect();
    const data = Buffer.from('early');
    peer.socket.write(
      Buffer.concat([
        option(8),
        go('disk0'),
        request({ type: 1, cookie: 7n, offset: 3n, data }),
        request({ type: 1, cookie: 8n, offset: 4n, data }).subarray(0, 30),
      ]),
    );
    expect((await peer.read(20)).readUInt32BE(12)).toBe(0x80000001);
    await peer.read(86);
    expect((await peer.read(16)).readBigUInt64BE(8)).toBe(7n);
    peer.socket.write(data.subarray(2));
    expect((await peer.read(16)).readBigUInt64BE(8)).toBe(8n);
    expect(rig.intake.takeThrough(2)).toMatchObject([
      { disk: 0, offset: 3, data },
      { disk: 0, offset: 4, data },
    ]);
  });

  it('ends who breaks the protocol, or hesitates', async () => {
    const nonsense = await rig.connect();
    nonsense.socket.write(Buffer.alloc(64, 0xff));
    await nonsense.closed();
    const leaver = await rig.connect();
    leaver.socket.write(option(2));
    expect((await leaver.read(20)).readUInt32BE(12)).toBe(1);
    await leaver.closed();
    expect(rig.server.refusedCount).toBe(1);
    expect(rig.gone).toEqual([]);
    rig.stop();
    rig = await NbdRig.start([1000, 1000], { handshakeTimeoutMs: 300 });
    const idle = await rig.connect();
    await idle.closed();
    expect(rig.server.refusedCount).toBe(1);
    expect(rig.gone).toEqual([]);
  });
});
