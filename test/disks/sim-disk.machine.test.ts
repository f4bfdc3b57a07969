/**
 * Goal: a replica made of a first copy and the epochs' writes equals the machine's disk at each
 * boundary. Method: a real simulated machine that writes to its disk all the time.
 */
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import type { DiskWrite } from '../../src/disks/disk.ts';
import { compareDisks, DiskReplica } from '../../src/disks/replica.ts';
import { connectSimDisk } from '../../src/disks/sim-disk.ts';
import { attachSim } from '../../src/guests/sim/sim-guest.ts';
import { type SimProcess, startSim } from '../../src/guests/sim/spawn.ts';

const DISK_BYTES = 4 * MIB;
const EPOCHS = 12;

describe('the disk of a simulated machine', () => {
  let directory: string;
  let machine: SimProcess;
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'romulus-disk-'));
    machine = await startSim({
      socketPath: join(directory, 'sim'),
      memoryBytes: 16 * MIB,
      workload: 'random',
      seed: 11,
      rate: 100_000,
      beacons: 20_000,
      diskBytes: DISK_BYTES,
    });
  });
  afterEach(async () => {
    await machine.stop();
    rmSync(directory, { recursive: true });
  });

  it('is followed by a replica, equal at every boundary', async () => {
    const guest = await attachSim({ socketPath: machine.socketPath });
    const { disks: disk } = guest;
    const replicaPath = join(directory, 'replica');
    writeFileSync(replicaPath, Buffer.alloc(DISK_BYTES));
    const replica = new DiskReplica({
      target: { path: replicaPath },
      diskBytes: DISK_BYTES,
      sync: 'off',
    });
    const source = await connectSimDisk({
      path: disk.socketPath,
      imagePath: disk.imagePath,
      diskBytes: disk.bytes,
      onLost: (error) => {
        throw error;
      },
    });
    const machineDisk = openSync(disk.imagePath, 'r');
    // The machine goes on writing while it is copied.
    for await (const chunk of source.readBase()) replica.applyBase(chunk);
    let writeCount = 0;
    for (let epoch = 1; epoch <= EPOCHS; epoch += 1) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      const { diskWrites } = await guest.suspend();
      source.mark(epoch, diskWrites);
      const writes: readonly DiskWrite[] = await source.take(epoch);
      replica.apply(writes);
      writeCount += writes.length;
      expect(compareDisks(machineDisk, replica.fd, DISK_BYTES)).toBe(-1);
      await guest.resume();
    }
    expect(writeCount).toBeGreaterThan(EPOCHS);
    closeSync(machineDisk);
    replica.close();
    source.close();
    await guest.detach();
  });
});
