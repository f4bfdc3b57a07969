/**
 * Goal: what README and RUNBOOK tell a user to type does what they say. Method: the built commands,
 * as processes, from the machine to the gateway; a failover in the middle of a client's session.
 */
import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { freePorts } from '../../src/drill/ports.ts';
import { askRedis } from '../../src/drill/redis-benchmark.ts';
import type { NodeStatus } from '../../src/engine/status.ts';
import { machineOf } from '../../src/drill/machine-note.ts';
import { HandNodes, type Ran, WAIT_MS } from '../support/hand-nodes.ts';

let nodes: HandNodes;
let directory = '';

beforeEach(() => {
  nodes = new HandNodes();
  ({ directory } = nodes);
});

afterEach(() => nodes.close());

const start = (...args: string[]): ChildProcess => nodes.start(args);
const run = (...args: string[]): Promise<Ran> => nodes.run(args);
const end = (child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> =>
  nodes.end(child, signal);
const status = (name: string): Promise<NodeStatus | null> => nodes.status(name);
const until = (what: string, test: () => Promise<boolean>): Promise<void> =>
  nodes.until(what, test);

interface Ports {
  readonly a: number;
  readonly b: number;
  readonly netA: number;
  readonly netB: number;
  readonly gateway: number;
}

async function choosePorts(): Promise<Ports> {
  const [a = 0, b = 0, netA = 0, netB = 0, gateway = 0] = await freePorts(5);
  return { a, b, netA, netB, gateway };
}

function nodeArgs(name: string, ports: { listen: number; peer: number; net: number }): string[] {
  const local = '127.0.0.1';
  const line =
    `--guest sim --name ${name} --listen ${local}:${ports.listen} --peer ${local}:${ports.peer} ` +
    `--net-listen ${local}:${ports.net} --state-dir ${join(directory, name)} ` +
    `--arbiter file:${join(directory, 'arbiter')} --heartbeat 150ms --promise 1500ms`;
  return line.split(' ');
}

function argsOfA({ a, b, netA }: Ports): string[] {
  const own = nodeArgs('a', { listen: a, peer: b, net: netA });
  return ['protect', '--sim-socket', join(directory, 'm.sock'), ...own];
}

function argsOfB({ a, b, netB }: Ports): string[] {
  return ['backup', ...nodeArgs('b', { listen: b, peer: a, net: netB })];
}

function startPrimary(ports: Ports): ChildProcess {
  return start(...argsOfA(ports));
}

/** Carries connections to a port, and can break all of them at once. */
async function startCable(to: number): Promise<{ port: number; server: Server; cut: () => void }> {
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect(to, '127.0.0.1');
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one);
      one.pipe(other);
      // The reason adds nothing: 'close' follows, and ends the other half.
      one.on('error', () => one.destroy());
      one.on('close', () => {
        sockets.delete(one);
        other.destroy();
      });
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  return {
    port,
    server,
    cut: () => {
      for (const socket of sockets) socket.resetAndDestroy();
    },
  };
}

async function startAll(
  ports: Ports,
  extraOfB: readonly string[] = [],
): Promise<{ a: ChildProcess; b: ChildProcess }> {
  await nodes.startMachine('m.sock', '--workload', 'kv');
  const a = startPrimary(ports);
  await until('a', async () => (await status('a')) !== null);
  const b = start(...argsOfB(ports), ...extraOfB);
  await until('protection', async () => (await status('a'))?.state === 'protected');
  return { a, b };
}

describe('two nodes by hand', { timeout: 3 * WAIT_MS }, () => {
  it('keep a client’s count through a kill, and the other way round', async () => {
    const ports = await choosePorts();
    const { a, b } = await startAll(ports);
    const lines = `--node 127.0.0.1:${ports.netA} --node 127.0.0.1:${ports.netB}`;
    start('gateway', '--listen', `127.0.0.1:${ports.gateway}`, ...lines.split(' '));
    await until('the gateway', async () => {
      try {
        return (await askRedis(ports.gateway, ['PING'])).kind === 'text';
      } catch {
        return false;
      }
    });
    expect(await askRedis(ports.gateway, ['INCR', 'visits'])).toMatchObject({ value: 1 });
    expect(await askRedis(ports.gateway, ['INCR', 'visits'])).toMatchObject({ value: 2 });

    process.kill(machineOf(join(directory, 'a')).pid, 'SIGKILL');
    await end(a, 'SIGKILL');
    expect(await askRedis(ports.gateway, ['INCR', 'visits'])).toMatchObject({ value: 3 });
    await until('b as primary', async () => (await status('b'))?.state === 'unprotected');
    expect(await status('b')).toMatchObject({ role: 'primary', schemaVersion: 1 });

    // The same command: it finds that the other one runs the machine now.
    startPrimary(ports);
    await until('protection the other way', async () => (await status('b'))?.state === 'protected');
    expect(await status('a')).toMatchObject({ role: 'backup', state: 'following' });
    process.kill(machineOf(join(directory, 'b')).pid, 'SIGKILL');
    await end(b, 'SIGKILL');
    expect(await askRedis(ports.gateway, ['INCR', 'visits'])).toMatchObject({ value: 4 });
  });

  it('tell of a promote hook that failed, and run the machine all the same', async () => {
    const ports = await choosePorts();
    const said = join(directory, 'hook');
    const hook = `echo $ROMULUS_NODE $ROMULUS_GENERATION > ${said}; echo no bridge; exit 5`;
    const { a } = await startAll(ports, ['--promote-hook', hook]);
    expect((await status('b'))?.promoteHook).toBeNull();
    process.kill(machineOf(join(directory, 'a')).pid, 'SIGKILL');
    await end(a, 'SIGKILL');
    await until('the hook', async () => (await status('b'))?.promoteHook?.state === 'failed');
    await until('b as primary', async () => (await status('b'))?.state === 'unprotected');
    const after = await status('b');
    expect(after).toMatchObject({
      role: 'primary',
      promoteHook: { why: 'exit code 5: no bridge' },
    });
    expect(readFileSync(said, 'utf8')).toBe(`b ${after?.generation}\n`);
    expect((await run('status', '--state-dir', join(directory, 'b'))).stdout).toContain(
      'no bridge',
    );
  });

  it('can be asked, adjusted, scrubbed, and refuse what would lose output', async () => {
    const ports = await choosePorts();
    const { a, b } = await startAll(ports);
    const dirA = join(directory, 'a');
    const dirB = join(directory, 'b');
    expect((await run('status', '--state-dir', dirA)).stdout).toContain('protected');

    const adjusted = await run('adjust', '--state-dir', dirA, '--interval', '10ms', '--json');
    expect(JSON.parse(adjusted.stdout)).toMatchObject({ intervalMs: 10 });
    expect(await run('adjust', '--state-dir', dirB, '--interval', '10ms')).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('ERR_USAGE_ROLE') as string,
    });

    const scrub = await run('scrub', '--state-dir', dirA, '--json');
    expect(JSON.parse(scrub.stdout)).toMatchObject({ schemaVersion: 1, match: true });
    expect(scrub.code).toBe(0);

    expect((await run('promote', '--state-dir', dirA)).stderr).toContain('ERR_USAGE_ROLE');
    const [listen = 0, net = 0] = await freePorts(2);
    const second = start('backup', ...nodeArgs('c', { listen, peer: ports.a, net }), '--json');
    let said = '';
    second.stdout?.on('data', (chunk: Buffer) => {
      said += String(chunk);
    });
    await until('the refusal', () => Promise.resolve(said.includes('ERR_LIMIT_SECOND_BACKUP')));
    expect(await status('a')).toMatchObject({ state: 'protected', peer: { node: 'b' } });
    await end(second, 'SIGKILL');

    // A clean stop leaves the machine running, and a backup that knows it must not take over.
    expect(await end(a, 'SIGTERM')).toBe(0);
    await until('b to know', async () => (await status('b'))?.state === 'lost');
    startPrimary(ports);
    await until('protection again', async () => (await status('a'))?.state === 'protected');
    expect(await end(b, 'SIGTERM')).toBe(0);
    await until('a alone', async () => (await status('a'))?.state === 'unprotected');
  });

  it('resume over a link that broke, from the epoch they were at, without a new image', async () => {
    const ports = await choosePorts();
    const cable = await startCable(ports.a);
    await nodes.startMachine('m.sock', '--workload', 'hotspot');
    startPrimary(ports);
    await until('a', async () => (await status('a')) !== null);
    start(...argsOfB({ ...ports, a: cable.port }));
    await until('protection', async () => (await status('a'))?.state === 'protected');
    const before = await status('a');
    const image = (await status('b'))?.instance;
    for (let round = 0; round < 2; round += 1) {
      cable.cut();
      await until('the resumption', async () => {
        const now = await status('a');
        return now?.state === 'protected' && now.why.startsWith('resumed');
      });
      const { epoch = 0 } = (await status('a')) ?? {};
      await until('more epochs', async () => ((await status('b'))?.appliedEpoch ?? 0) > epoch);
    }
    const after = await status('a');
    expect(after?.generation).toBe(before?.generation);
    expect((await status('b'))?.instance).toBe(image);
    const scrub = await run('scrub', '--state-dir', join(directory, 'a'), '--json');
    expect(JSON.parse(scrub.stdout)).toMatchObject({ match: true });
    cable.cut();
    cable.server.close();
  });

  it('tell of heartbeats that do not come through beside a link that works', async () => {
    const sockets: Socket[] = [];
    const blackHole = createServer((socket) => sockets.push(socket.resume()));
    await new Promise<void>((resolve) => blackHole.listen(0, '127.0.0.1', resolve));
    const { port } = blackHole.address() as { port: number };
    try {
      await startAll(await choosePorts(), ['--peer-heartbeat', `127.0.0.1:${port}`]);
      await nodes.until(
        'the warnings',
        () => nodes.sayingCount('ERR_TRANSPORT_NO_HEARTBEATS') === 2,
      );
      for (const name of ['a', 'b']) {
        expect(await status(name)).toMatchObject({ heartbeatAgeMs: null });
        const { stdout } = await run('status', '--state-dir', join(directory, name));
        expect(stdout).toMatch(/last heartbeat +-/);
      }
    } finally {
      for (const socket of sockets) socket.destroy();
      blackHole.close();
    }
  });

  it('outlive whoever reads what they tell', async () => {
    const [listen = 0, peer = 0, net = 0] = await freePorts(3);
    const node = start('backup', ...nodeArgs('b', { listen, peer, net }), '--json');
    await until('b', async () => (await status('b')) !== null);
    node.stdout?.destroy();
    // Several lines of progress go nowhere.
    await new Promise((resolve) => setTimeout(resolve, 1500));
    expect(await status('b')).toMatchObject({ role: 'backup', state: 'empty' });
    expect(await end(node, 'SIGTERM')).toBe(0);
  });

  it('refuse a state directory that a living node holds', async () => {
    const ports = await choosePorts();
    await startAll(ports);
    const again = await run(...argsOfA(await choosePorts()));
    expect(again.code).toBe(2);
    expect(again.stderr).toContain('ERR_CONFIG_ALREADY_RUNNING');
  });
});
