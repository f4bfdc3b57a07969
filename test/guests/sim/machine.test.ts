import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import { SIM_WORKLOADS } from '../../../src/guests/sim/info.ts';
import { SIM_EXECUTABLE } from '../../../src/native/load.ts';
import { Memory } from '../../../src/native/memory.ts';
import { infoOf, MachineKit, pathsOf, runToStep, until } from './machine-kit.ts';

let kit: MachineKit;
beforeEach(async () => {
  kit = new MachineKit();
  await kit.open();
});
afterEach(async () => {
  await kit.close();
});

describe('determinism', () => {
  for (const workload of SIM_WORKLOADS) {
    it(`${workload}: RAM, disk and output are what the oracle computes`, async () => {
      const machine = await kit.start({
        workload,
        paused: true,
        rate: 200_000,
        beacons: 20_000,
        tracker: 'mprotect',
      });
      const control = await kit.control(machine.socketPath);
      const port = await kit.port(machine.socketPath);
      const oracle = kit.oracle(await infoOf(control));
      for (const step of [1, 1_003, 12_345]) {
        const info = await runToStep(control, step);
        expect(info.step).toBe(step);
        oracle.runTo(step);
        expect(oracle.ramCompare(pathsOf(info).ram)).toBe(-1);
        expect(oracle.diskCompare(pathsOf(info).disk)).toBe(-1);
        expect(oracle.registers.hash).toBe(info.hash);
      }
      const expected = oracle.frames();
      await until('all frames came', () => port.emits.length >= expected.length);
      expect(port.payloads.slice(1)).toEqual(expected);
      expect(expected).toHaveLength(Math.floor((12_345 * 20_000) / 1_000_000));
    });
  }

  it('two machines of one seed are equal, of two seeds are not', async () => {
    const infos = [];
    for (const seed of [5n, 5n, 6n]) {
      // Different rates: pacing must not show.
      const rate = infos.length === 0 ? 0 : 50_000;
      const machine = await kit.start({ paused: true, seed, rate, beacons: 25_000 });
      infos.push(await runToStep(await kit.control(machine.socketPath), 5_000));
    }
    const [first, second, third] = infos.map((info) =>
      Memory.map({ path: pathsOf(info).ram, bytes: info.memoryBytes, writable: false }),
    );
    if (first === undefined || second === undefined || third === undefined) throw new Error();
    expect(first.compare(second)).toBe(-1);
    expect(first.compare(third)).toBeGreaterThanOrEqual(0);
    for (const memory of [first, second, third]) memory.close();
  });

  it('keeps untouched memory as holes', async () => {
    const machine = await kit.start({ memoryBytes: 1024 * MIB, workload: 'hotspot' });
    const control = await kit.control(machine.socketPath);
    await until('it ran a little', async () => (await infoOf(control)).step > 1000);
    await control.command('stop');
    const info = await infoOf(control);
    const ram = Memory.map({ path: pathsOf(info).ram, bytes: info.memoryBytes, writable: false });
    expect(ram.populatedBytes()).toBeLessThanOrEqual(info.step * 4096);
    ram.close();
  });
});

describe('stop and continue', () => {
  it('stops between two instructions: nothing moves until cont', async () => {
    const machine = await kit.start({ rate: 0 });
    const control = await kit.control(machine.socketPath);
    for (let i = 0; i < 20; i++) {
      expect(await control.command('stop')).toMatch(/^frames=0 diskwrites=0 step=\d+$/);
      const before = await infoOf(control);
      expect(before.running).toBe(false);
      const after = await infoOf(control);
      expect(after.step).toBe(before.step);
      await control.command('cont');
    }
    const { step } = await infoOf(control);
    await until('it runs on', async () => (await infoOf(control)).step > step);
  });

  it('is idempotent, and refused while the machine is busy', async () => {
    const machine = await kit.start();
    const control = await kit.control(machine.socketPath);
    const other = await kit.control(machine.socketPath);
    await control.command('busy on');
    await expect(control.command('stop')).rejects.toMatchObject({
      code: 'ERR_GUEST_CANNOT_SUSPEND',
    });
    expect((await infoOf(control)).running).toBe(true);
    await control.command('busy off');
    const first = await control.command('stop');
    expect(await other.command('stop')).toBe(first);
    await control.command('cont');
    await control.command('cont');
    expect((await infoOf(other)).running).toBe(true);
  });

  it('runs on when whoever stopped it goes away, unless another holds it', async () => {
    const machine = await kit.start();
    const watcher = await kit.control(machine.socketPath);
    const one = await kit.control(machine.socketPath);
    const two = await kit.control(machine.socketPath);
    await one.command('stop');
    await two.command('stop');
    one.close();
    await sleep(30);
    expect((await infoOf(watcher)).running).toBe(false);
    two.close();
    await until('it runs on', async () => (await infoOf(watcher)).running);
  });

  it('counts what it put into the sockets since they were connected', async () => {
    const machine = await kit.start({ beacons: 100_000 });
    const control = await kit.control(machine.socketPath);
    await until('it has written', async () => (await infoOf(control)).diskWrites > 4);
    const port = await kit.port(machine.socketPath);
    const disk = createConnection({ path: `${machine.socketPath}.disk` });
    const diskBytes: Buffer[] = [];
    disk.on('data', (chunk) => diskBytes.push(chunk));
    await until('frames came', () => port.frames.length > 50);
    const [, frames, writes] =
      /^frames=(\d+) diskwrites=(\d+)/.exec(await control.command('stop')) ?? [];
    await until('all that was counted came', () => port.frames.length >= Number(frames));
    const written = Number(writes) * (4 + 8 + 4096);
    await until('all writes came', () => Buffer.concat(diskBytes).length >= written);
    // And no more than was counted.
    await sleep(20);
    expect(port.frames).toHaveLength(Number(frames));
    expect(port.frames[0]?.kind).toBe('line-open');
    const received = Buffer.concat(diskBytes);
    expect(received.length).toBe(written);
    // What came last is what the disk holds.
    const info = await infoOf(control);
    const last = received.subarray(received.length - 4108);
    expect(last.readUInt32BE(0)).toBe(4096);
    const image = readFileSync(pathsOf(info).disk);
    const offset = Number(last.readBigUInt64BE(4));
    expect(image.subarray(offset, offset + 4096).equals(last.subarray(12))).toBe(true);
    disk.destroy();
  });

  it('changes its rate while it runs', async () => {
    const machine = await kit.start({ rate: 100 });
    const control = await kit.control(machine.socketPath);
    await control.command('rate 0');
    await until('it is quick', async () => (await infoOf(control)).step > 100_000);
    await control.command('rate 1000');
    expect((await infoOf(control)).rate).toBe(1000);
  });
});

describe('the process', () => {
  it('replaces the sockets of a machine that was killed', async () => {
    const machine = await kit.start();
    machine.kill('SIGKILL');
    expect(await machine.ended).toBe('SIGKILL');
    expect(existsSync(machine.socketPath)).toBe(true);
    const again = await kit.start({ socketPath: machine.socketPath });
    expect((await infoOf(await kit.control(again.socketPath))).pid).toBe(again.pid);
  });

  it('takes no socket from a machine that lives, and no file', async () => {
    const machine = await kit.start();
    await expect(kit.start({ socketPath: machine.socketPath })).rejects.toMatchObject({
      code: 'ERR_USAGE_SIM',
    });
    expect((await infoOf(await kit.control(machine.socketPath))).running).toBe(true);
    const file = kit.freshPath();
    writeFileSync(file, 'precious');
    await expect(kit.start({ socketPath: file })).rejects.toMatchObject({ code: 'ERR_USAGE_SIM' });
    expect(readFileSync(file, 'utf8')).toBe('precious');
  });

  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    it(`ends in order on ${signal}`, async () => {
      const machine = await kit.start();
      machine.kill(signal);
      expect(await machine.ended).toBe(0);
      expect(existsSync(machine.socketPath)).toBe(false);
      expect(existsSync(`${machine.socketPath}.net`)).toBe(false);
    });
  }

  it('ends on quit', async () => {
    const machine = await kit.start();
    expect(await (await kit.control(machine.socketPath)).command('quit')).toBe('');
    expect(await machine.ended).toBe(0);
  });

  it('keeps its disk in a file when told to', async () => {
    const diskFile = kit.freshPath();
    const machine = await kit.start({ diskFile, diskBytes: MIB, beacons: 100_000 });
    const control = await kit.control(machine.socketPath);
    await until('it has written', async () => (await infoOf(control)).diskWrites > 3);
    await control.command('stop');
    expect(readFileSync(diskFile).equals(readFileSync(pathsOf(await infoOf(control)).disk))).toBe(
      true,
    );
    expect(readFileSync(diskFile)).toHaveLength(MIB);
  });

  it('refuses bad options in one line and exits with 2', () => {
    const bad: readonly (readonly string[])[] = [
      [],
      ['--socket'],
      ['--socket', 'x', '--workload', 'sleep'],
      ['--socket', 'x', '--memory', '1M'],
      ['--socket', 'x', '--memory', '17G'],
      ['--socket', 'x', '--memory', '16777217'],
      ['--socket', 'x', '--memory', '-1'],
      ['--socket', 'x', '--memory', '99999999999999999999999'],
      ['--socket', 'x', '--rate', '-5'],
      ['--socket', 'x', '--seed', 'abc'],
      ['--socket', 'x', '--beacons', '1000001'],
      ['--socket', 'x', '--disk', '1'],
      ['--socket', 'x', '--disk-fd', '3', '--disk-file', 'y'],
      ['--socket', 'x', '--tracker', 'magic'],
      ['--sockets', 'x'],
      ['--socket', 'x'.repeat(120)],
    ];
    for (const args of bad) {
      const result = spawnSync(SIM_EXECUTABLE, args, { encoding: 'utf8', cwd: kit.directory });
      expect(result.status, args.join(' ')).toBe(2);
      expect(result.stderr.trim().split('\n'), args.join(' ')).toHaveLength(1);
      expect(result.stdout).toBe('');
    }
    const help = spawnSync(SIM_EXECUTABLE, ['--help'], { encoding: 'utf8' });
    expect(help.status).toBe(0);
    expect(help.stdout).toContain('Example:');
  });

  it('reports dirty pages itself when it tracks by mprotect', async () => {
    const machine = await kit.start({ tracker: 'mprotect', paused: true });
    const control = await kit.control(machine.socketPath);
    const tracker = createConnection({ path: `${machine.socketPath}.tracker` });
    kit.onClose(() => {
      tracker.destroy();
    });
    let received = Buffer.alloc(0);
    tracker.on('data', (chunk) => {
      received = Buffer.concat([received, chunk]);
    });
    const bitmapBytes = (16 * MIB) / 4096 / 8;
    const collect = async (): Promise<Buffer> => {
      received = Buffer.alloc(0);
      tracker.write('C');
      await until('the bitmap came', () => received.length === 8 + bitmapBytes);
      expect(received.readBigUInt64LE(0)).toBe(BigInt(bitmapBytes));
      return received.subarray(8);
    };
    const bytes = (bitmap: Buffer): Set<number> => new Set(bitmap);
    expect(bytes(await collect())).toEqual(new Set([0xff]));
    expect(bytes(await collect())).toEqual(new Set([0]));
    const info = await infoOf(control);
    const oracle = kit.oracle(info);
    const before = oracle.ram.read(0, info.memoryBytes);
    await runToStep(control, 300);
    oracle.runTo(300);
    const after = oracle.ram.read(0, info.memoryBytes);
    const dirty = await collect();
    for (let page = 0; page < info.memoryBytes / 4096; page++) {
      const at = page * 4096;
      const changed = before.compare(after, at, at + 4096, at, at + 4096) !== 0;
      const reported = ((dirty[page >> 3] ?? 0) >> (page & 7)) & 1;
      expect(reported, `page ${page}`).toBe(changed ? 1 : 0);
    }
  });
});
