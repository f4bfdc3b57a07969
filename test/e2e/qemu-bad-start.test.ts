/**
 * Goal: what cannot be protected, or copied, is told in one clear error, and the machine runs on.
 * Method: real nodes and a real QEMU without any system in it, which starts at once.
 */
import { chmodSync, mkdirSync, readdirSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { callControl } from '../../src/cli/control-client.ts';
import type { NodeStatus } from '../../src/engine/status.ts';
import { QmpClient } from '../../src/guests/qemu/qmp/qmp-client.ts';
import { type Ended, LuckStage, until, untilStatus, WAIT_MS } from '../support/qemu/luck-stage.ts';
import { qemuVersions, requireQemu } from '../support/qemu/require-qemu.ts';
import { requireRoot } from '../support/require.ts';
import { statePipeOf } from '../support/qemu/state-pipe.ts';

const hasQemu = await requireQemu();
const isRoot = requireRoot('tests that mount a tmpfs or drop capabilities');
const versions = hasQemu ? await qemuVersions() : [];
const system = versions.find(({ version }) => version === 'system');
/** With machine types that the system's has not; who cannot be had was told of. */
const newer = versions.findLast(({ version }) => version !== 'system');
const BARE = { bare: true, memoryMib: 32 } as const;
/** A node that was refused an image tries again this often, and not more. */
const REST_MS = 3000;

/** The end of a command that failed: exit code 1, and one error with its remedy at the end. */
function expectError(ended: Ended, code: string): void {
  expect(ended.code).toBe(1);
  const text = ended.stderr.split('\n').filter((line) => !line.startsWith('{'));
  expect(text[0]).toMatch(new RegExp(`^${code}: .{10,}`));
  expect(text[1]).toMatch(/^ {2}\w.+\.$/);
  expect(text.join('').length).toBeLessThan(2000);
}

describe.runIf(hasQemu)('romulus protect', { timeout: 2 * WAIT_MS }, () => {
  let stage: LuckStage;
  beforeEach(async () => {
    stage = await LuckStage.open();
  });
  afterEach(() => stage.close());

  it('says that there is no socket', async () => {
    expectError(await stage.run(stage.nodeArgs('a', 'protect')), 'ERR_GUEST_UNREACHABLE');
  });

  it('says that another client holds the socket, and leaves the machine alone', async () => {
    await stage.startMachine(BARE);
    const holder = await QmpClient.connect(stage.path('vm.qmp'));
    expectError(await stage.run(stage.nodeArgs('a', 'protect')), 'ERR_GUEST_QMP_HELD');
    expect(await holder.command('query-status')).toMatchObject({ status: 'running' });
    holder.close();
  });

  it.each([
    ['says nothing that is QMP', 'HTTP/1.1 400 Bad Request\r\n\r\n', null],
    ['greets with something else', '{"hello": 1}\r\n', null],
    ['never ends its first line', 'x'.repeat(1024 * 1024), null],
    ['answers every question with a number', GREETING(), '{"return": 5}\r\n'],
    ['answers what was not asked', GREETING(), '{"return": {}, "id": "nobody"}\r\n'],
  ])('does not believe who %s', async (_, greeting, answer) => {
    const liar = await lieAt(stage.path('vm.qmp'), greeting, answer);
    const ended = await stage.run(stage.nodeArgs('a', 'protect'));
    expectError(ended, 'ERR_[A-Z_]+');
    expect(ended.stderr).not.toContain('ERR_INTERNAL');
    liar.close();
  });

  it.runIf(isRoot)('says that it may not look into the process of another user', async () => {
    const machine = await stage.startMachine({ ...BARE, asNobody: true });
    const ended = await stage.run(stage.nodeArgs('a', 'protect'), [
      'setpriv',
      '--bounding-set=-sys_ptrace',
      '--inh-caps=-sys_ptrace',
    ]);
    expectError(ended, 'ERR_HOST_ATTACH_PERMISSION');
    expect(ended.stderr).toMatch(/CAP_SYS_PTRACE|root/);
    expect(machine.isGone()).toBe(false);
  });

  it.runIf(isRoot)('never leaves a machine paused whose QEMU cannot write its state', async () => {
    const machine = await stage.startMachine({ ...BARE, asNobody: true });
    const a = stage.startNode('a', 'protect');
    const b = stage.startNode('b', 'backup');
    await untilStatus(a, 'protection', ({ state }) => state === 'protected');
    const pipe = statePipeOf(a.child.pid);
    chmodSync(pipe, 0);
    await until('the error', () => stage.logOf(a.child).includes('ERR_GUEST_STATE_SAVE'));
    await new Promise((resolve) => setTimeout(resolve, 2 * REST_MS));
    const status = (await callControl({
      stateDirectory: stage.stateOf('a'),
      method: 'GET',
      path: '/v1/status',
    })) as NodeStatus;
    expect(status.state).not.toBe('protected');
    expect(status.why).toContain('/dev/shm');
    expect(stage.logOf(a.child).match(/"checkpoint skipped"/g)?.length).toBeLessThan(10);
    expect(machine.isGone()).toBe(false);
    const user = await stage.userMonitor();
    expect(await user.command('query-status')).toMatchObject({ status: 'running' });
    expect(b.child.isGone()).toBe(false);

    chmodSync(pipe, 0o600);
    await untilStatus(a, 'protection', ({ state }) => state === 'protected');
  });

  it.runIf(isRoot)('says that a QEMU in a container does not find what is ours', async () => {
    const holder = stage.stage.start({
      name: 'namespace',
      command: 'unshare',
      args: ['-m', 'sh', '-c', `mount -t tmpfs -o size=16k none /dev/shm && exec sleep 600`],
      output: 'log',
    });
    const inside = ['nsenter', '-m', '-t', String(holder.pid)];
    await until('the namespace', async () =>
      (await stage.runHelper([...inside, 'df', '/dev/shm'])).includes(' 16 '),
    );
    await stage.startMachine({ ...BARE, launcher: inside });
    const ended = await stage.run(stage.nodeArgs('a', 'protect'));
    expectError(ended, 'ERR_[A-Z_]+');
    expect(ended.stderr).toContain('/dev/shm');
    const user = await stage.userMonitor();
    expect(await user.command('query-status')).toMatchObject({ status: 'running' });
  });
});

describe.runIf(hasQemu)('a backup that cannot hold the copy', { timeout: 3 * WAIT_MS }, () => {
  let stage: LuckStage;
  beforeEach(async () => {
    stage = await LuckStage.open();
  });
  afterEach(() => stage.close());

  /** Both sides must say why, the machine runs on, and it is tried again, but not at once. */
  async function expectRefusal(extra: readonly string[], said: RegExp): Promise<void> {
    const a = stage.startNode('a', 'protect');
    const b = stage.startNode('b', 'backup', { extra });
    const tries = (): number =>
      stage
        .logOf(b.child)
        .split('\n')
        .filter((line) => line.endsWith('"msg":"this host cannot hold the image"}')).length;
    await until(
      'a refusal',
      () => tries() > 0,
      () => stage.logOf(b.child).slice(-1000),
    );
    expect(stage.logOf(b.child)).toMatch(said);
    await untilStatus(a, 'the reason', ({ why }) => said.test(why));
    expect(a.progress).toMatchObject({ state: 'unprotected' });
    await untilStatus(b, 'the reason', ({ why }) => said.test(why));
    const [before, startedMs] = [tries(), performance.now()];
    await until('another try', () => tries() > before);
    expect(tries() - before).toBeLessThanOrEqual(1 + (performance.now() - startedMs) / REST_MS);
    const user = await stage.userMonitor();
    expect(await user.command('query-status')).toMatchObject({ status: 'running' });
  }

  it('has no QEMU at all', async () => {
    await stage.startMachine(BARE);
    await expectRefusal(['--qemu', stage.path('no-such-qemu')], /no-such-qemu/);
  });

  it.skipIf(newer === undefined)('lacks the machine type', async () => {
    const { version = '', binary = '' } = newer ?? {};
    await stage.startMachine({ ...BARE, qemu: binary, machine: `pc-q35-${version}` });
    await expectRefusal(['--qemu', system?.binary ?? ''], /older than the machine type/);
  });

  it.runIf(isRoot)('has no room for its memory', async () => {
    await stage.startMachine(BARE);
    const small = stage.path('small');
    mkdirSync(small);
    await stage.runHelper(['mount', '-t', 'tmpfs', '-o', 'size=4M', 'none', small]);
    try {
      await expectRefusal(['--ram-dir', small], /small has room for/);
      expect(readdirSync(small)).toEqual([]);
    } finally {
      await stage.runHelper(['umount', '-l', small]);
    }
  });
});

function GREETING(): string {
  const version = { qemu: { major: 7, minor: 2, micro: 0 }, package: '' };
  return `${JSON.stringify({ QMP: { version, capabilities: [] } })}\r\n`;
}

/** Somebody who listens where a QEMU should. */
async function lieAt(
  path: string,
  greeting: string,
  answer: string | null,
): Promise<{ close: () => void }> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => socket.destroy());
    socket.write(greeting);
    if (answer !== null) socket.on('data', () => socket.write(answer));
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return {
    close: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}
