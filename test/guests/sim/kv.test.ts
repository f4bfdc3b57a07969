/** The kv workload through the port: RESP in, RESP out, and all of it in the machine's state. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import { prepareIncomingSim } from '../../../src/guests/sim/incoming.ts';
import type { EmitFrame, InputFrame } from '../../../src/guests/sim/port.ts';
import { attachSim } from '../../../src/guests/sim/sim-guest.ts';
import { Memory } from '../../../src/native/memory.ts';
import { infoOf, MachineKit, pathsOf, type PortClient, until } from './machine-kit.ts';

let kit: MachineKit;
beforeEach(async () => {
  kit = new MachineKit();
  await kit.open();
});
afterEach(async () => {
  await kit.close();
});

async function startKv(memoryBytes = 16 * MIB): Promise<{ socketPath: string; port: PortClient }> {
  const { socketPath } = await kit.start({ workload: 'kv', memoryBytes });
  return { socketPath, port: await kit.port(socketPath) };
}

/** A request as clients send it. */
function resp(...words: string[]): string {
  const bulks = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
  return `*${words.length}\r\n${bulks.join('')}`;
}

/** Waits for all inputs so far and acknowledges everything, as the world does. */
async function settle(port: PortClient, inputs: number): Promise<void> {
  let seen = 0;
  await until(`input ${inputs} was consumed`, () => {
    const last = port.emits.at(-1);
    if (last !== undefined && last.seq > seen) {
      seen = last.seq;
      port.acknowledge(seen);
    }
    return (last?.inputSeq ?? 0) >= inputs;
  });
}

const DIALOGUE: readonly (readonly [string, string])[] = [
  [resp('PING'), '+PONG\r\n'],
  ['PING\r\n', '+PONG\r\n'],
  ['  ping   hello \r\n', '$5\r\nhello\r\n'],
  ['\r\n', ''],
  [resp('GET', 'a'), '$-1\r\n'],
  [resp('SET', 'a', 'one'), '+OK\r\n'],
  [resp('get', 'a'), '$3\r\none\r\n'],
  [resp('SET', 'a', 'a longer value '.repeat(20)), '+OK\r\n'],
  [resp('GET', 'a'), `$300\r\n${'a longer value '.repeat(20)}\r\n`],
  [resp('SET', 'empty', ''), '+OK\r\n'],
  [resp('GET', 'empty'), '$0\r\n\r\n'],
  [resp('INCR', 'n'), ':1\r\n'],
  [resp('INCR', 'n'), ':2\r\n'],
  [resp('INCR', 'a'), '-ERR value is not an integer or out of range\r\n'],
  [resp('SET', 'big', '9223372036854775807'), '+OK\r\n'],
  [resp('INCR', 'big'), '-ERR value is not an integer or out of range\r\n'],
  [resp('EXISTS', 'a', 'n', 'x', 'n'), ':3\r\n'],
  [resp('DBSIZE'), ':4\r\n'],
  [resp('DEL', 'a', 'x', 'empty'), ':2\r\n'],
  [resp('GET', 'a'), '$-1\r\n'],
  [resp('ECHO', 'bytes \u0000 and \r\n ends'), '$19\r\nbytes \u0000 and \r\n ends\r\n'],
  [resp('SELECT', '0'), '+OK\r\n'],
  [resp('SELECT', '1'), '-ERR DB index is out of range\r\n'],
  [resp('CONFIG', 'GET', 'save'), '*2\r\n$4\r\nsave\r\n$0\r\n\r\n'],
  [resp('CONFIG', 'GET', 'appendonly'), '*2\r\n$10\r\nappendonly\r\n$2\r\nno\r\n'],
  [resp('COMMAND', 'DOCS'), '*0\r\n'],
  [resp('GET'), "-ERR wrong number of arguments for 'GET' command\r\n"],
  [resp('SUBSCRIBE', 'x'), "-ERR unknown command 'SUBSCRIBE'\r\n"],
  [resp('SET', 'k', 'v', 'EX', '1'), '-ERR syntax error: SET takes no options here\r\n'],
  [resp('FLUSHALL'), '+OK\r\n'],
  [resp('DBSIZE'), ':0\r\n'],
  [resp('GET', 'n'), '$-1\r\n'],
];

describe('commands', () => {
  it('are answered as Redis would', async () => {
    const { port } = await startKv();
    port.input('open', 7);
    let expected = '';
    for (const [request, answer] of DIALOGUE) {
      port.input('data', 7, request);
      expected += answer;
    }
    await settle(port, 1 + DIALOGUE.length);
    expect(port.textOf(7)).toBe(expected);
    port.input('data', 7, resp('INFO'));
    await until('INFO came', () => port.textOf(7).length > expected.length);
    expect(port.textOf(7).slice(expected.length)).toMatch(/redis_version:\d.*db0:keys=0/s);
  });

  it('may come in any pieces and many at once', async () => {
    const { port } = await startKv();
    const all = Buffer.from(DIALOGUE.map(([request]) => request).join(''));
    const answers = DIALOGUE.map(([, answer]) => answer).join('');
    let inputs = 0;
    for (const [stream, pieceBytes] of [
      [1, 1],
      [2, 7],
      [3, 100_000],
    ] as const) {
      port.input('open', stream);
      inputs += 1;
      for (let at = 0; at < all.length; at += pieceBytes) {
        port.input('data', stream, all.subarray(at, at + pieceBytes));
        inputs += 1;
        if (inputs % 100 === 0) await settle(port, inputs);
      }
      await settle(port, inputs);
      await until('all was answered', () => port.textOf(stream).length >= answers.length);
      expect(port.textOf(stream)).toBe(answers);
    }
  });

  it('that answer much take several steps and wait for acknowledgements', async () => {
    const { socketPath, port } = await startKv();
    const control = await kit.control(socketPath);
    const value = 'v'.repeat(8192);
    port.input('open', 1);
    port.input('data', 1, resp('SET', 'k', value));
    // 600 answers of 8 KiB: far more than the ring of un-acknowledged emits holds.
    port.input('data', 1, resp('GET', 'k').repeat(600));
    await until('the ring filled', async () => (await infoOf(control)).ringBytes > 49_152);
    const { step } = await infoOf(control);
    expect((await infoOf(control)).step).toBe(step);
    const total = 5 + 600 * (8192 + 9);
    let seen = 0;
    await until('all was answered', () => {
      const last = port.emits.at(-1)?.seq ?? 0;
      if (last > seen) {
        seen = last;
        port.acknowledge(seen);
      }
      return port.textOf(1).length >= total;
    });
    expect(port.textOf(1)).toHaveLength(total);
    expect((await infoOf(control)).emitsDropped).toBe(0);
  });

  it('fill the memory and then say so; what was stored stays', async () => {
    const { port } = await startKv();
    const value = 'x'.repeat(8000);
    port.input('open', 1);
    let inputs = 1;
    for (let i = 0; i < 1000; i++) {
      port.input('data', 1, resp('SET', `key:${i}`, value));
      inputs += 1;
      if (i % 64 === 63) await settle(port, inputs);
    }
    await settle(port, inputs);
    const answers = port.textOf(1).trim().split('\r\n');
    const stored = answers.filter((answer) => answer === '+OK').length;
    expect(stored).toBeGreaterThan(600);
    expect(answers.slice(stored).every((answer) => answer.startsWith('-OOM'))).toBe(true);
    port.input('data', 1, resp('GET', 'key:0') + resp('DEL', 'key:1') + resp('SET', 'new', value));
    port.input('data', 1, resp('DBSIZE'));
    await settle(port, inputs + 2);
    const tail = `$8000\r\n${value}\r\n:1\r\n+OK\r\n:${stored}\r\n`;
    await until('the tail came', () => port.textOf(1).endsWith(`:${stored}\r\n`));
    expect(port.textOf(1).slice(-tail.length)).toBe(tail);
  });
});

describe('streams', () => {
  it('are closed after a protocol error, told in RESP', async () => {
    const { port } = await startKv();
    const bad = [
      '*1\r\n!3\r\nGET\r\n',
      '*-1\r\n',
      '*99999\r\n',
      '*1\r\n$-5\r\n',
      '*1\r\n$9000\r\n',
      '*1\r\n$3\r\nGETxx',
      `*${'1'.repeat(40)}`,
      'a'.repeat(16_384),
      `${'b '.repeat(40)}\r\n`,
    ];
    let inputs = 0;
    for (const [stream, bytes] of bad.entries()) {
      port.input('open', stream);
      port.input('data', stream, bytes);
      if (bytes.length === 16_384) {
        port.input('data', stream, 'a');
        inputs += 1;
      }
      inputs += 2;
    }
    await settle(port, inputs);
    for (const [stream, bytes] of bad.entries()) {
      expect(port.textOf(stream), bytes.slice(0, 20)).toMatch(/^-ERR Protocol error: .*\r\n$/);
      const ops = port.emits.filter((emit) => emit.stream === stream).map(({ op }) => op);
      expect(ops.at(-1)).toBe('close');
    }
  });

  it('end on QUIT, on close and when there are too many', async () => {
    const { port } = await startKv();
    port.input('open', 1);
    port.input('data', 1, `QUIT\r\n${resp('SET', 'never', 'run')}`);
    port.input('data', 1, 'PING\r\n');
    port.input('open', 2);
    port.input('close', 2);
    await settle(port, 5);
    expect(port.textOf(1)).toBe('+OK\r\n');
    const opsOf = (stream: number): string[] =>
      port.emits.filter((emit) => emit.stream === stream).map(({ op }) => op);
    expect(opsOf(1)).toEqual(['data', 'data', 'close', 'close']);
    expect(opsOf(2)).toEqual(['data', 'close']);
    for (let stream = 10; stream < 10 + 129; stream++) port.input('open', stream);
    await settle(port, 5 + 129);
    expect(port.textOf(137)).toBe('');
    expect(port.textOf(138)).toBe('-ERR max number of clients reached\r\n');
  });

  it('keep half a command through a failover, and the oracle knows all of it', async () => {
    const { socketPath, port } = await startKv();
    const inputs: Omit<InputFrame, 'kind'>[] = [];
    const send = (line: PortClient, op: InputFrame['op'], data = ''): void => {
      inputs.push({ op, stream: 3, seq: inputs.length + 1, data: Buffer.from(data) });
      line.input(op, 3, data, inputs.length);
    };
    send(port, 'open');
    for (let i = 0; i < 50; i++) send(port, 'data', resp('INCR', `counter:${i % 5}`));
    send(port, 'data', '*2\r\n$3\r\nGET\r\n$9\r\ncoun');
    await until('all were consumed', () => port.emits.at(-1)?.inputSeq === 52);
    port.acknowledge(20);
    await until('20 are acknowledged', async () => {
      const info = await infoOf(await kit.control(socketPath));
      return info.ringFrames === info.emitSeq - 20;
    });

    const guest = await attachSim({ socketPath });
    await guest.suspend();
    const incoming = await prepareIncomingSim({
      descriptor: guest.descriptor,
      directory: kit.directory,
    });
    kit.onClose(() => incoming.discard());
    const info = await guest.info();
    const source = Memory.map({
      path: pathsOf(info).ram,
      bytes: info.memoryBytes,
      writable: false,
    });
    incoming.ram.write(0, source.read(0, info.memoryBytes));
    source.close();
    const state = await guest.saveDeviceState();
    await guest.fence();
    const copy = await incoming.start(state);
    kit.onClose(() => copy.fence());

    const line = await kit.port(incoming.controlPath);
    await until('the line opened', () => line.lineOpens.length > 0);
    expect(line.lineOpens[0]).toMatchObject({ seq: 21, inputSeq: 52 });
    // A repeated input must not be executed twice.
    line.input('data', 3, resp('INCR', 'counter:0'), 51);
    send(line, 'data', 'ter:0\r\n');
    await until('the answer came', () => line.textOf(3).endsWith('$2\r\n10\r\n'));

    // The world's record alone says at which step every input took effect.
    const seen = new Map<number, EmitFrame>();
    for (const emit of [...port.emits, ...line.emits]) seen.set(emit.seq, emit);
    const consumedAt = new Map<number, number>();
    for (const emit of [...seen.values()].sort((a, b) => a.seq - b.seq)) {
      if (!consumedAt.has(emit.inputSeq)) consumedAt.set(emit.inputSeq, emit.step);
    }
    const oracle = kit.oracle(await copy.info());
    for (const input of inputs) oracle.input(consumedAt.get(input.seq) ?? 0, input);
    await copy.suspend();
    const after = await copy.info();
    oracle.runTo(after.step);
    expect(oracle.ramCompare(pathsOf(after).ram)).toBe(-1);
    expect(oracle.registers.hash).toBe(after.hash);
    const expected = oracle.frames();
    expect(expected).toHaveLength(after.emitSeq);
    expect(line.payloads.slice(1)).toEqual(expected.slice(20));
  });

  it('survive damaged memory without a crash', async () => {
    const { socketPath, port } = await startKv();
    const control = await kit.control(socketPath);
    port.input('open', 1);
    for (let i = 0; i < 20; i++) port.input('data', 1, resp('SET', `k${i}`, 'v'.repeat(i * 30)));
    await settle(port, 21);
    const info = await infoOf(control);
    const ram = Memory.map({ path: pathsOf(info).ram, bytes: info.memoryBytes, writable: true });
    const buckets = 16_384 + 4 * MIB;
    ram.write(buckets, Buffer.alloc(200_000, 0x5a));
    ram.write(0, Buffer.alloc(128, 0xa5));
    ram.close();
    port.input('open', 2);
    let inputs = 22;
    for (let i = 0; i < 20; i++) {
      for (const words of [
        ['GET', `k${i}`],
        ['SET', `k${i}`, 'new'],
        ['DEL', `k${i}`],
      ]) {
        port.input('data', 2, resp(...words));
        inputs += 1;
      }
    }
    await settle(port, inputs);
    expect((await infoOf(control)).running).toBe(true);
  });
});

describe('its own load', () => {
  it('runs at the rate, beside inputs, and is computed by the oracle', async () => {
    const { socketPath } = await kit.start({ workload: 'kv', rate: 20_000, beacons: 10_000 });
    const control = await kit.control(socketPath);
    const port = await kit.port(socketPath);
    port.input('open', 1);
    port.input('data', 1, resp('INCR', 'mine'));
    await until('it worked', async () => (await infoOf(control)).step > 3_000);
    await control.command('stop');
    const info = await infoOf(control);
    await until('all came', () => port.emits.length >= info.emitSeq);
    const oracle = kit.oracle(info);
    const stepOf = (seq: number): number =>
      port.emits.find((emit) => emit.inputSeq === seq)?.step ?? 0;
    oracle.input(stepOf(1), { op: 'open', stream: 1, seq: 1, data: Buffer.alloc(0) });
    const data = Buffer.from(resp('INCR', 'mine'));
    oracle.input(stepOf(2), { op: 'data', stream: 1, seq: 2, data });
    oracle.runTo(info.step);
    expect(oracle.ramCompare(pathsOf(info).ram)).toBe(-1);
    expect(port.payloads.slice(1)).toEqual(oracle.frames());
    expect(port.textOf(1)).toBe(':1\r\n');
  });
});
