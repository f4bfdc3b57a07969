/**
 * Goal: the world hears a real machine from its first word on, carries a key-value load into it and
 * back, and its record is enough for the oracle to compute the machine's every bit. Method: a real
 * romulus-sim, a relay in the place of a node.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { FrameSplitter, frameForLine } from '../../src/drill/frame-splitter.ts';
import { openGateway } from '../../src/drill/gateway.ts';
import { KvLoad } from '../../src/drill/kv-load.ts';
import { compareWithOracle } from '../../src/drill/oracle-check.ts';
import { askRedis } from '../../src/drill/redis-benchmark.ts';
import { World } from '../../src/drill/world.ts';
import { SimControl } from '../../src/guests/sim/control.ts';
import { parseSimInfo } from '../../src/guests/sim/info.ts';
import { decodeWorldFrame, encodeMachineFrame } from '../../src/guests/sim/port.ts';
import { SIM_EXECUTABLE } from '../../src/native/load.ts';
import { openRelay } from './relay.ts';

const cleanups: (() => void | Promise<void>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

async function until(test: () => boolean | Promise<boolean>): Promise<void> {
  const deadlineMs = performance.now() + 10_000;
  while (!(await test())) {
    if (performance.now() > deadlineMs) throw new Error('waited in vain');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function startMachine(workload: string): Promise<{ socket: string; process: ChildProcess }> {
  const directory = mkdtempSync(join(tmpdir(), 'romulus-world-'));
  const socket = join(directory, 'm.sock');
  const machine = spawn(
    SIM_EXECUTABLE,
    ['--socket', socket, '--memory', '16M', '--workload', workload, '--seed', '7', '--paused'],
    { stdio: 'ignore' },
  );
  cleanups.push(async () => {
    const gone = new Promise((resolve) => machine.once('exit', resolve));
    if (machine.exitCode === null && machine.signalCode === null) {
      machine.kill('SIGKILL');
      await gone;
    }
    rmSync(directory, { recursive: true, force: true });
  });
  await until(() => existsSync(socket));
  return { socket, process: machine };
}

async function startWorld(socket: string, record: boolean): Promise<World> {
  const relay = await openRelay(`${socket}.net`);
  cleanups.push(() => relay.close());
  const world = new World({
    lines: [{ host: '127.0.0.1', port: relay.port }],
    record,
    onNotice: () => undefined,
  });
  cleanups.push(() => world.close());
  await until(() => world.status().linesUp[0] ?? false);
  const control = await SimControl.connect(socket);
  await until(async () => parseSimInfo(await control.command('info')).netConnected);
  await control.command('cont');
  control.close();
  return world;
}

async function judge(socket: string, world: World): Promise<string[]> {
  const control = await SimControl.connect(socket);
  cleanups.push(() => control.close());
  await control.command('stop');
  const info = parseSimInfo(await control.command('info'));
  const checks = await compareWithOracle(
    {
      ...info,
      ramPath: `/proc/${info.pid}/fd/${info.ramFd}`,
      diskPath: `/proc/${info.pid}/fd/${info.diskFd}`,
    },
    world.record,
    world.inputs,
  );
  return checks.filter(({ ok }) => !ok).map(({ name, text }) => `${name}: ${text}`);
}

describe('the world', () => {
  it('hears every output from the first on, as the oracle computes it', async () => {
    const { socket } = await startMachine('hotspot');
    const world = await startWorld(socket, true);
    await until(() => world.status().seqHeard > 100);
    expect(world.record.at(0).lineOpen).toBe(true);
    expect(world.record.at(1).seq).toBe(1);
    expect(world.status()).toMatchObject({ framesUnlike: 0, framesAhead: 0, framesGarbled: 0 });
    expect(await judge(socket, world)).toEqual([]);
  });

  it('carries a key-value load, and the oracle follows every input', async () => {
    const { socket } = await startMachine('kv');
    const world = await startWorld(socket, true);
    const load = new KvLoad(world);
    await until(() => load.outcome.incrementsAcknowledged > 500);
    const outcome = await load.finish();
    expect(outcome.complaints).toEqual([]);
    expect(outcome.commandsAnswered).toBe(outcome.commandsSent);
    expect(await judge(socket, world)).toEqual([]);
  });

  it('joins a quiet machine late, and goes on where another world was', async () => {
    const { socket } = await startMachine('kv');
    const relay = await openRelay(`${socket}.net`);
    cleanups.push(() => relay.close());
    const worldAt = (): World =>
      new World({
        lines: [{ host: '127.0.0.1', port: relay.port }],
        record: false,
        onNotice: () => undefined,
      });
    const control = await SimControl.connect(socket);
    await control.command('cont');
    control.close();
    for (const round of [1, 2, 3]) {
      const world = worldAt();
      const door = await openGateway(world, { host: '127.0.0.1', port: 0 });
      const reply = await askRedis(door.port, ['INCR', 'n']);
      await door.close();
      world.close();
      expect(reply).toEqual({ kind: 'integer', value: round });
    }
  });

  it('is a door for TCP clients, and for those that come after a restart of the door', async () => {
    const { socket } = await startMachine('kv');
    const first = await startWorld(socket, false);
    const door = await openGateway(first, { host: '127.0.0.1', port: 0 });
    expect(await askRedis(door.port, ['INCR', 'n'])).toEqual({ kind: 'integer', value: 1 });
    expect(await askRedis(door.port, ['INCR', 'n'])).toEqual({ kind: 'integer', value: 2 });
    await door.close();
    first.close();

    const relay = await openRelay(`${socket}.net`);
    cleanups.push(() => relay.close());
    const second = new World({
      lines: [{ host: '127.0.0.1', port: relay.port }],
      record: false,
      onNotice: () => undefined,
    });
    cleanups.push(() => second.close());
    const again = await openGateway(second, { host: '127.0.0.1', port: 0 });
    cleanups.push(() => again.close());
    expect(await askRedis(again.port, ['INCR', 'n'])).toEqual({ kind: 'integer', value: 3 });
  });

  it('takes nothing for its own that was said to a world before it', async () => {
    const said = (frame: Parameters<typeof encodeMachineFrame>[0]): Buffer =>
      frameForLine(encodeMachineFrame(frame));
    const emit = { kind: 'emit', stream: 1, step: 9, data: Buffer.alloc(0) } as const;
    const machine = createServer((line) => {
      const splitter = new FrameSplitter();
      line.on('data', (chunk: Buffer) => {
        for (const payload of splitter.push(chunk)) {
          const frame = decodeWorldFrame(payload);
          if (frame.kind === 'hello') {
            line.write(said({ kind: 'line-open', seq: 5, step: 9, inputSeq: 3 }));
            line.write(
              said({ ...emit, op: 'data', seq: 5, inputSeq: 2, data: Buffer.from('old') }),
            );
            line.write(said({ ...emit, op: 'close', seq: 6, inputSeq: 3 }));
          }
          if (frame.kind !== 'input') continue;
          expect(frame).toMatchObject({ op: 'open', stream: 1, seq: 4 });
          line.write(said({ ...emit, op: 'data', seq: 7, inputSeq: 4, data: Buffer.from('new') }));
          line.write(said({ ...emit, op: 'close', seq: 8, inputSeq: 4 }));
        }
      });
    });
    const port = await new Promise<number>((resolve) =>
      machine.listen(0, '127.0.0.1', () => {
        const address = machine.address();
        resolve(typeof address === 'object' && address !== null ? address.port : 0);
      }),
    );
    cleanups.push(() => new Promise((resolve) => machine.close(() => resolve())));
    const world = new World({
      lines: [{ host: '127.0.0.1', port }],
      record: false,
      onNotice: () => undefined,
    });
    cleanups.push(() => world.close());
    const heard: string[] = [];
    world.openStream({
      onData: (data) => heard.push(data.toString()),
      onClose: () => heard.push('closed'),
    });
    await until(() => world.status().seqHeard === 8);
    expect(heard).toEqual(['new', 'closed']);
  });

  it('is told of the end of every connection by the time the door is closed', async () => {
    const world = new World({ lines: [], record: false, onNotice: () => undefined });
    cleanups.push(() => world.close());
    const door = await openGateway(world, { host: '127.0.0.1', port: 0 });
    const clients = Array.from({ length: 20 }, () => connect(door.port, '127.0.0.1'));
    for (const client of clients) client.on('error', () => client.destroy());
    await until(() => door.connectionCount() === clients.length);
    expect(world.status().inputsWaiting).toBe(clients.length);
    await door.close();
    expect(world.status().inputsWaiting).toBe(2 * clients.length);
  });

  it('refuses a port that is taken, with a way out', async () => {
    const { socket } = await startMachine('kv');
    const world = await startWorld(socket, false);
    const door = await openGateway(world, { host: '127.0.0.1', port: 0 });
    cleanups.push(() => door.close());
    await expect(openGateway(world, { host: '127.0.0.1', port: door.port })).rejects.toMatchObject({
      code: 'ERR_TRANSPORT_ADDRESS_IN_USE',
    });
  });
});
