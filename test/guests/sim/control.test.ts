/** The control socket under hostile or clumsy clients, and the client under a hostile machine. */
import { createConnection, createServer, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Prng } from '../../../src/base/prng.ts';
import { SimControl } from '../../../src/guests/sim/control.ts';
import { infoOf, MachineKit, until } from './machine-kit.ts';

/** How long answers are waited for: those that come, and those that do not. */
const PATIENT_MS = 10_000;
const IN_VAIN_MS = 200;

let kit: MachineKit;
beforeEach(async () => {
  kit = new MachineKit();
  await kit.open();
});
afterEach(async () => {
  await kit.close();
});

interface Raw {
  readonly socket: Socket;
  text: string;
  closed: boolean;
}

function raw(path: string): Raw {
  const socket = createConnection({ path });
  const client: Raw = { socket, text: '', closed: false };
  socket.on('data', (chunk) => {
    client.text += chunk.toString('latin1');
  });
  socket.on('close', () => {
    client.closed = true;
  });
  socket.on('error', () => {
    client.closed = true;
  });
  kit.onClose(() => {
    socket.destroy();
  });
  return client;
}

describe('the machine', () => {
  it('serves commands sent in one write, in order', async () => {
    const machine = await kit.start();
    const client = raw(machine.socketPath);
    client.socket.write('stop\nsave\ncont\nstatus\nnonsense\nsave\n');
    const stateBytes = 69_632;
    await until('all was answered', () => client.text.endsWith('stop it\n'));
    const at = client.text.indexOf(`ok bytes=${stateBytes}\n`);
    expect(client.text.slice(0, at)).toMatch(/^ok frames=0 diskwrites=0 step=\d+\n$/);
    const rest = client.text.slice(at + `ok bytes=${stateBytes}\n`.length + stateBytes);
    expect(rest).toMatch(
      /^ok\nok running=1 step=\d+ input=0\nerr ERR_PROTOCOL_CONTROL_COMMAND .*'nonsense'\nerr ERR_GUEST_RUNNING .*\n$/,
    );
  });

  it('answers what it does not know and goes on', async () => {
    const machine = await kit.start();
    const control = await kit.control(machine.socketPath);
    await until('it is past step 0', async () => (await infoOf(control)).step > 0);
    const client = raw(machine.socketPath);
    const bad = ['', 'rate', 'rate -1', 'rate 1000000001', 'rate 1 2', 'busy', 'busy maybe'];
    bad.push('stop-at', 'stop-at x', 'stop-at 0', '\u0000\u0001', 'INFO', 'load');
    for (const line of bad) client.socket.write(`${line}\n`);
    await until('all were refused', () => client.text.split('\n').length > bad.length);
    expect(client.text.trim().split('\n')).toHaveLength(bad.length);
    expect(
      client.text
        .trim()
        .split('\n')
        .every((line) => line.startsWith('err ERR_')),
    ).toBe(true);
    await until('a broken load ends the connection', () => client.closed);
    expect((await infoOf(control)).running).toBe(true);
  });

  it('ends connections that break the bounds', async () => {
    const machine = await kit.start();
    const endless = raw(machine.socketPath);
    endless.socket.write('x'.repeat(300));
    await until('it was closed', () => endless.closed);
    expect(endless.text).toMatch(/^err ERR_PROTOCOL_CONTROL_LINE/);
    const greedy = raw(machine.socketPath);
    greedy.socket.write('load 99999999999\n');
    await until('it was closed', () => greedy.closed);
    // Asks for ever and reads nothing.
    const deaf = raw(machine.socketPath);
    deaf.socket.pause();
    deaf.socket.write('stop\n');
    for (let i = 0; i < 200; i++) deaf.socket.write('save\n');
    const control = await kit.control(machine.socketPath);
    await until('it was given up, and the machine goes on', async () => {
      return (await infoOf(control)).running;
    });
    const crowd = Array.from({ length: 40 }, () => raw(machine.socketPath));
    await until('some were turned away', () => crowd.filter(({ closed }) => closed).length >= 9);
    expect((await infoOf(control)).running).toBe(true);
  });

  it('survives random bytes', async () => {
    const machine = await kit.start();
    const control = await kit.control(machine.socketPath);
    const seed = 20_261_121;
    const prng = new Prng(seed);
    const words = [
      'stop',
      'cont',
      'save',
      'load 5',
      'load 69632',
      'rate 0',
      'status',
      'info',
      '\n',
    ];
    for (let round = 0; round < 60; round++) {
      const client = raw(machine.socketPath);
      const parts: Buffer[] = [];
      for (let i = 0; i < 20; i++) {
        const bytes = Buffer.from(Array.from({ length: 12 }, () => prng.nextBelow(256)));
        parts.push(prng.chance(0.5) ? bytes : Buffer.from(`${prng.pick(words)}\n`));
      }
      client.socket.end(Buffer.concat(parts));
      // The machine takes 32 connections at a time.
      if (round % 20 === 19) await until('it was read', () => client.closed);
    }
    await until(`it runs (seed ${seed})`, async () => (await infoOf(control)).running);
  });

  it('lets a client that vanishes in the middle of a load hold nothing', async () => {
    const machine = await kit.start();
    const client = raw(machine.socketPath);
    client.socket.write(`stop\nload 69632\n${'x'.repeat(1000)}`);
    await until('it stopped', () => client.text.startsWith('ok'));
    client.socket.destroy();
    const control = await kit.control(machine.socketPath);
    await until('it runs on', async () => (await infoOf(control)).running);
  });
});

describe('the client', () => {
  /** Answers the first bytes that come with these, on a socket of its own. */
  async function fake(answer: string, timeoutMs = PATIENT_MS): Promise<SimControl> {
    const path = kit.freshPath();
    const server = createServer((socket) => {
      socket.once('data', () => socket.write(answer));
      socket.on('error', () => undefined);
      kit.onClose(() => {
        socket.destroy();
      });
    });
    await new Promise<void>((resolve) => {
      server.listen(path, resolve);
    });
    kit.onClose(() => {
      server.close();
    });
    const control = await SimControl.connect(path, timeoutMs);
    kit.onClose(() => {
      control.close();
    });
    return control;
  }

  it('gives nonsense one typed error', async () => {
    const code = { code: 'ERR_PROTOCOL_GUEST_CONTROL' };
    await expect((await fake('hello\n')).command('info')).rejects.toMatchObject(code);
    await expect((await fake('x'.repeat(20_000))).command('info')).rejects.toMatchObject(code);
    await expect((await fake('ok bytes=-1\n')).stateOf('save')).rejects.toMatchObject(code);
    await expect((await fake('ok bytes=99999999\n')).stateOf('save')).rejects.toMatchObject(code);
    const twice = await fake('ok a\nok b\n');
    expect(await twice.command('info')).toBe('a');
    await until('the second answer ended it', () => twice.ended !== null);
    expect(twice.ended).toMatchObject(code);
    const broken = await fake('ok {"protocolVersion":2}\n');
    await expect(infoOf(broken)).rejects.toMatchObject(code);
  });

  it('waits no longer than its bound', async () => {
    const code = { code: 'ERR_TIMEOUT_GUEST_CONTROL' };
    const silent = await fake('', IN_VAIN_MS);
    await expect(silent.command('info')).rejects.toMatchObject(code);
    const short = await fake('ok bytes=100\nshort', IN_VAIN_MS);
    await expect(short.stateOf('save')).rejects.toMatchObject(code);
  });

  it('refuses to queue without bound', async () => {
    const control = await fake('', IN_VAIN_MS);
    const commands = Array.from({ length: 65 }, () => control.command('info'));
    const results = await Promise.allSettled(commands);
    const codes = results.map((result) =>
      result.status === 'rejected' ? (result.reason as { code: string }).code : 'ok',
    );
    expect(codes.filter((code) => code === 'ERR_LIMIT_GUEST_CONTROL')).toHaveLength(1);
  });
});
