/** Goal: every lie of a monitor becomes one clear error, and every wait ends. */
import type { Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import type { RomulusError } from '../../../../src/base/errors.ts';
import {
  QMP_COMMANDS_MAX,
  QMP_IN_FLIGHT_MAX,
  QmpClient,
} from '../../../../src/guests/qemu/qmp/qmp-client.ts';
import {
  type Command,
  type FakeBehaviour,
  type FakeMonitor,
  GREETING,
  reply,
  startFakeMonitor,
} from './fake-monitor.ts';

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close();
});

async function fake(behaviour: FakeBehaviour): Promise<FakeMonitor> {
  const monitor = await startFakeMonitor(behaviour);
  closers.push(() => monitor.close());
  return monitor;
}

async function connected(behaviour: FakeBehaviour): Promise<QmpClient> {
  const monitor = await fake(behaviour);
  const client = await QmpClient.connect(monitor.path);
  closers.push(() => client.close());
  return client;
}

async function refusal(monitor: FakeMonitor, timeoutMs = 2000): Promise<string> {
  try {
    (await QmpClient.connect(monitor.path, { timeoutMs })).close();
    return 'connected';
  } catch (error) {
    return (error as RomulusError).code;
  }
}

describe('connecting', () => {
  it('names an absent socket', async () => {
    await expect(QmpClient.connect('/nonexistent/qmp.sock')).rejects.toMatchObject({
      code: 'ERR_GUEST_UNREACHABLE',
    });
  });

  it('refuses a path that a socket cannot have', async () => {
    await expect(QmpClient.connect(`/tmp/${'x'.repeat(120)}`)).rejects.toMatchObject({
      code: 'ERR_GUEST_UNREACHABLE',
    });
  });

  it('says that somebody else holds a silent socket', async () => {
    expect(await refusal(await fake({ greeting: null }), 50)).toBe('ERR_GUEST_QMP_HELD');
  });

  it.each([
    ['noise', '\u0000\u0001garbage\n'],
    ['the wrong JSON', '{"hello":1}\n'],
    ['a malformed greeting', '{"QMP":{"version":7}}\n'],
    ['an event first', '{"event":"STOP","timestamp":{"seconds":1,"microseconds":0}}\n'],
    ['an endless line', 'x'.repeat(100_000)],
    ['two greetings', GREETING + GREETING],
  ])('refuses %s', async (_, greeting) => {
    expect(await refusal(await fake({ greeting }))).toBe('ERR_PROTOCOL_GUEST_CONTROL');
  });

  it('knows the version and the process behind the socket', async () => {
    const client = await connected({});
    expect(client.version).toEqual({ major: 7, minor: 2, micro: 22, package: '' });
    expect(client.peerPid).toBe(process.pid);
    expect(client.descriptor).toBeGreaterThan(2);
    expect(client.idle).toBe(true);
  });
});

describe('commands', () => {
  it('matches answers by id, whatever their order', async () => {
    const held: Command[] = [];
    const client = await connected({
      onCommand: (command, socket) => {
        held.push(command);
        if (held.length === 3) for (const c of held.toReversed()) reply(socket, c, c.execute);
      },
    });
    const names = ['a', 'b', 'c'];
    expect(await Promise.all(names.map((name) => client.command(name)))).toEqual(names);
    expect(client.idle).toBe(true);
  });

  it.each([
    ['CommandNotFound', 'ERR_GUEST_QMP_COMMAND_NOT_FOUND'],
    ['DeviceNotActive', 'ERR_GUEST_QMP_DEVICE_NOT_ACTIVE'],
    ['DeviceNotFound', 'ERR_GUEST_QMP_DEVICE_NOT_FOUND'],
    ['KVMMissingCap', 'ERR_GUEST_QMP_KVM_MISSING_CAP'],
    ['GenericError', 'ERR_GUEST_QMP_REFUSED'],
    ['ErrorOfTomorrow', 'ERR_GUEST_QMP_REFUSED'],
  ])('gives %s its code and keeps its text', async (errorClass, code) => {
    const client = await connected({
      onCommand: ({ id }, socket) => {
        const error = { class: errorClass, desc: 'because of the moon' };
        socket.write(`${JSON.stringify({ error, id })}\n`);
      },
    });
    const error = await client.command('x').catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code, details: { qemuText: 'because of the moon' } });
  });

  it('sends no more than QEMU takes, and bounds what waits', async () => {
    let received = 0;
    const client = await connected({
      onCommand: () => {
        received += 1;
      },
    });
    const all = Array.from({ length: QMP_COMMANDS_MAX }, () =>
      client.command('x', undefined, { timeoutMs: 300 }).catch((error: RomulusError) => error.code),
    );
    await expect(client.command('y')).rejects.toMatchObject({ code: 'ERR_LIMIT_GUEST_CONTROL' });
    expect(new Set(await Promise.all(all))).toEqual(new Set(['ERR_TIMEOUT_GUEST_CONTROL']));
    await expect.poll(() => received).toBe(QMP_IN_FLIGHT_MAX);
  });

  it('stays busy after a time-out until the late answer came, then goes on', async () => {
    let late: (() => void) | undefined;
    const client = await connected({
      onCommand: (command, socket) => {
        if (command.execute === 'slow') late = () => reply(socket, command);
        else reply(socket, command, 'quick');
      },
    });
    await expect(client.command('slow', {}, { timeoutMs: 300 })).rejects.toMatchObject({
      code: 'ERR_TIMEOUT_GUEST_CONTROL',
    });
    await expect.poll(() => late).toBeDefined();
    expect(client.idle).toBe(false);
    late?.();
    expect(await client.command('other')).toBe('quick');
    expect(client.idle).toBe(true);
  });

  it.each([
    ['an answer nobody asked for', '{"return":{},"id":"r999"}\n'],
    ['an error without an id', '{"error":{"class":"GenericError","desc":"Invalid JSON"}}\n'],
    ['a malformed event', '{"event":5}\n'],
    ['an array', '[]\n'],
    ['an id that is no text', '{"return":{},"id":7}\n'],
  ])('gives the connection up at %s', async (_, line) => {
    const client = await connected({ onCommand: (_, socket) => socket.write(line) });
    const ended = new Promise<RomulusError>((resolve) => {
      client.onEnd(resolve);
    });
    await expect(client.command('x')).rejects.toMatchObject({ code: 'ERR_PROTOCOL_GUEST_CONTROL' });
    expect((await ended).code).toBe('ERR_PROTOCOL_GUEST_CONTROL');
    await expect(client.command('y')).rejects.toMatchObject({ code: 'ERR_PROTOCOL_GUEST_CONTROL' });
  });

  it('fails what waits when the other side goes', async () => {
    const client = await connected({ onCommand: (_, socket) => socket.destroy() });
    await expect(client.command('x')).rejects.toMatchObject({ code: 'ERR_GUEST_LOST' });
  });

  it('hears what was said last, though it was speaking itself when the other side went', async () => {
    let side: Socket | undefined;
    const client = await connected({
      onCommand: (command, socket) => {
        side = socket;
        reply(socket, command);
      },
    });
    const events: string[] = [];
    client.onEvent(({ event }) => events.push(event));
    await client.command('x');
    side?.write('{"event":"SHUTDOWN","timestamp":{"seconds":2,"microseconds":500}}\r\n');
    side?.destroy();
    // In the same turn: none of this was read yet, and nobody reads what is said now.
    const ended = new Promise((resolve) => {
      client.onEnd(resolve);
    });
    await expect(client.command('y')).rejects.toMatchObject({ code: 'ERR_GUEST_LOST' });
    await ended;
    expect(events).toEqual(['SHUTDOWN']);
  });

  it('says nothing to onEnd when we close', async () => {
    const client = await connected({});
    let isTold = false;
    client.onEnd(() => {
      isTold = true;
    });
    const waiting = client.command('x').catch((error: RomulusError) => error.code);
    client.close();
    client.close();
    expect(await waiting).toBe('ERR_GUEST_LOST');
    expect(isTold).toBe(false);
    expect(client.idle).toBe(false);
  });
});

describe('feed', () => {
  const answer = Buffer.from('{"return":{},"id":"n1"}\r\n{"event":"RESUME","data":{"a":1},');
  const rest = Buffer.from('"timestamp":{"seconds":2,"microseconds":500}}\r\n');

  it('drops answers to the native pause, and tells events that it read', async () => {
    const client = await connected({});
    const events: unknown[] = [];
    client.onEvent((event) => events.push(event));
    for (const byte of answer) client.feed(Uint8Array.of(byte));
    expect(client.idle).toBe(false);
    client.feed(rest);
    expect(client.idle).toBe(true);
    expect(events).toEqual([{ event: 'RESUME', data: { a: 1 }, timestampMs: 2000.5 }]);
  });

  it('stops telling events to who does not want them any more', async () => {
    const client = await connected({});
    let count = 0;
    const stop = client.onEvent(() => {
      count += 1;
    });
    client.feed(Buffer.concat([answer, rest]));
    stop();
    client.feed(Buffer.concat([answer, rest]));
    expect(count).toBe(1);
  });
});
