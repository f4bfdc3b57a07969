/** The machine's net line: acknowledgements, sending again, hostile and stuck worlds. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { infoOf, MachineKit, type PortClient, runToStep, until } from './machine-kit.ts';

let kit: MachineKit;
beforeEach(async () => {
  kit = new MachineKit();
  await kit.open();
});
afterEach(async () => {
  await kit.close();
});

function seqsOf(port: PortClient): number[] {
  return port.emits.map((emit) => emit.seq);
}

/** `count` numbers from `first`. */
function range(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}

describe('emits', () => {
  it('come without gap, are sent again unchanged, and not after an acknowledgement', async () => {
    const machine = await kit.start({ beacons: 100_000, rate: 5_000 });
    const control = await kit.control(machine.socketPath);
    const first = await kit.port(machine.socketPath);
    await until('frames came', () => first.emits.length >= 40);
    expect(seqsOf(first)).toEqual(range(1, first.emits.length));
    first.acknowledge(25);
    await until('it was taken', async () => {
      const { ringFrames, emitSeq } = await infoOf(control);
      return ringFrames === emitSeq - 25;
    });
    first.close();
    await sleep(20);
    const second = await kit.port(machine.socketPath);
    await until('frames came again', () => second.emits.length >= first.emits.length);
    expect(second.frames[0]).toMatchObject({ kind: 'line-open', seq: 26, inputSeq: 0 });
    expect(seqsOf(second)).toEqual(range(26, second.emits.length));
    const again = second.payloads.slice(1, 1 + 10);
    expect(again).toEqual(first.payloads.slice(1 + 25, 1 + 35));
  });

  it('go to the newest connection only', async () => {
    const machine = await kit.start();
    const first = await kit.port(machine.socketPath);
    const second = await kit.port(machine.socketPath);
    await until('the first was closed', () => first.closed);
    await until('the second hears', () => second.emits.length > 3);
    expect(second.closed).toBe(false);
  });

  it('that were never made cannot be acknowledged', async () => {
    const machine = await kit.start({ beacons: 50_000 });
    const control = await kit.control(machine.socketPath);
    const port = await kit.port(machine.socketPath);
    await until('frames came', () => port.emits.length > 5);
    port.acknowledge(Number.MAX_SAFE_INTEGER);
    await sleep(30);
    expect((await infoOf(control)).ringFrames).toBeGreaterThan(5);
  });

  it('are dropped oldest first when nobody acknowledges, and line-open says from where', async () => {
    const machine = await kit.start({ paused: true, rate: 0, beacons: 1_000_000 });
    const control = await kit.control(machine.socketPath);
    const info = await runToStep(control, 4_000);
    expect(info.emitSeq).toBe(4_000);
    expect(info.emitsDropped).toBe(4_000 - info.ringFrames);
    expect(info.ringFrames).toBe(Math.floor(65_536 / 44));
    const port = await kit.port(machine.socketPath);
    await control.command('stop-at 4001');
    await control.command('cont');
    await until('all came', () => port.emits.at(-1)?.seq === 4_001);
    const oldest = 4_000 - info.ringFrames + 1;
    expect(port.frames[0]).toMatchObject({ kind: 'line-open', seq: oldest });
    expect(seqsOf(port)).toEqual(range(oldest, info.ringFrames + 1));
  });

  it('hold the machine up for a bounded time only when they are not acknowledged', async () => {
    const machine = await kit.start({ rate: 0, beacons: 1_000_000 });
    const control = await kit.control(machine.socketPath);
    await kit.port(machine.socketPath);
    await until('it ran on', async () => {
      const info = await infoOf(control);
      return info.ringStalls > 0 && info.emitsDropped > 0;
    });
  });
});

describe('inputs', () => {
  it('are consumed once, in order, each with an emit of its step', async () => {
    const machine = await kit.start({ rate: 100, beacons: 0 });
    const control = await kit.control(machine.socketPath);
    const port = await kit.port(machine.socketPath);
    port.input('data', 1, 'c', 3);
    port.input('open', 1, '', 1);
    port.input('open', 1, '', 1);
    port.input('data', 1, 'b', 2);
    port.input('data', 1, 'd', 4);
    port.input('data', 1, 'c', 3);
    await until('three were consumed', () => port.emits.length >= 3);
    expect(port.emits.map(({ inputSeq }) => inputSeq)).toEqual([1, 2, 3]);
    expect((await infoOf(control)).inputsDropped).toBe(3);
  });

  it('lost in a full queue are asked for again', async () => {
    const machine = await kit.start({ paused: true, beacons: 0 });
    const control = await kit.control(machine.socketPath);
    const port = await kit.port(machine.socketPath);
    // Far more than the window that a well-behaved world keeps to.
    for (let seq = 1; seq <= 2_000; seq++) port.input('data', 1, 'x', seq);
    await until('some were dropped', async () => (await infoOf(control)).inputsDropped >= 900);
    await control.command('cont');
    await until('it asks again', () => port.lineOpens.some(({ inputSeq }) => inputSeq > 0));
    const from = port.lineOpens.at(-1)?.inputSeq ?? 0;
    expect(from).toBe(1024);
    for (let seq = from + 1; seq <= 2_000; seq++) {
      port.input('data', 1, 'x', seq);
      if (seq % 100 === 0) port.acknowledge(port.emits.at(-1)?.seq ?? 0);
    }
    await until('all were consumed', async () => {
      port.acknowledge(port.emits.at(-1)?.seq ?? 0);
      return (await infoOf(control)).inputSeq === 2_000;
    });
  });

  it('not consumed before a new connection are forgotten, for the world sends them again', async () => {
    const machine = await kit.start({ paused: true, beacons: 0 });
    const control = await kit.control(machine.socketPath);
    const first = await kit.port(machine.socketPath);
    first.input('data', 1, 'old');
    await until('it waits', async () => (await infoOf(control)).inputsQueued === 1);
    const second = await kit.port(machine.socketPath);
    await until('it was forgotten', async () => (await infoOf(control)).inputsQueued === 0);
    await control.command('cont');
    await until('the line opened', () => second.lineOpens.length === 1);
    second.input('data', 1, 'new');
    await until('it was consumed', () => second.emits.length === 1);
  });
});

describe('a hostile or stuck world', () => {
  it('loses its connection, or its frame, and the machine runs on', async () => {
    const machine = await kit.start();
    const control = await kit.control(machine.socketPath);
    const oversized = await kit.port(machine.socketPath);
    oversized.sendRaw(Buffer.from([0xff, 0xff, 0xff, 0xff, 1, 2, 3]));
    await until('it was closed', () => oversized.closed);
    const port = await kit.port(machine.socketPath);
    const bad = [
      Buffer.alloc(0),
      Buffer.alloc(15, 1),
      Buffer.alloc(16, 0),
      Buffer.alloc(16, 0xff),
      Buffer.concat([Buffer.from([1, 3]), Buffer.alloc(14)]),
      Buffer.concat([Buffer.from([2, 0]), Buffer.alloc(15)]),
      Buffer.concat([Buffer.from([1, 1]), Buffer.alloc(14 + 16_385)]),
    ];
    for (const payload of bad) port.sendPayload(payload);
    port.input('data', 1, 'good');
    await until('the good one was consumed', () => port.emits.some(({ inputSeq }) => inputSeq > 0));
    const info = await infoOf(control);
    expect(info.protocolErrors).toBe(1 + bad.length);
    expect(info.running).toBe(true);
  });

  it('is given up when it reads nothing, and the machine was held up for a bounded time', async () => {
    const machine = await kit.start({ workload: 'random', rate: 0, beacons: 1_000_000 });
    const control = await kit.control(machine.socketPath);
    const port = await kit.port(machine.socketPath);
    port.stall();
    await until('it was given up', async () => (await infoOf(control)).lineStalls === 1);
    const { step, netConnected } = await infoOf(control);
    expect(netConnected).toBe(false);
    await until('the machine runs on', async () => (await infoOf(control)).step > step);
  });

  it('cannot stop the machine from being stopped', async () => {
    const machine = await kit.start({ rate: 0, beacons: 1_000_000 });
    const control = await kit.control(machine.socketPath);
    const port = await kit.port(machine.socketPath);
    port.stall();
    await until('much was emitted', async () => (await infoOf(control)).emitSeq > 10_000);
    expect(await control.command('stop')).toMatch(/^frames=\d+ /);
  });
});
