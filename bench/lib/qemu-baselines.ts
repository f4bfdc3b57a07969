/**
 * What stands beside protection in the benches of a QEMU's disk and network: QEMU's own means, driven
 * by hand and with nothing of ours behind them. Their cost is QEMU's share of ours.
 */
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { removeMirrors, startMirror } from '../../src/disks/qemu-mirror.ts';
import type { Child, Stage } from '../../src/drill/children.ts';
import { QmpClient } from '../../src/guests/qemu/qmp/qmp-client.ts';

const WAIT_MS = 30_000;
const POLL_MS = 5;

/** Waits until the test is true. */
async function until(what: string, test: () => boolean | Promise<boolean>): Promise<void> {
  const deadlineMs = performance.now() + WAIT_MS;
  while (!(await test())) {
    if (performance.now() > deadlineMs) throw new Error(`waited in vain for ${what}`);
    await sleep(POLL_MS);
  }
}

/** An NBD server of QEMU's (`qemu-nbd`) on a raw file of this size, for as long as `act` takes. */
export async function withNbdServer<Outcome>(
  stage: Stage,
  target: { readonly path: string; readonly bytes: number },
  act: (socketPath: string) => Promise<Outcome>,
): Promise<Outcome> {
  const socketPath = stage.path('nbd.sock');
  writeFileSync(target.path, '');
  const server: Child = stage.start({
    name: 'qemu-nbd',
    command: 'sh',
    args: [
      '-c',
      'truncate -s "$1" "$2" && exec qemu-nbd -f raw -t --discard=unmap -k "$3" "$2"',
      'sh',
      String(target.bytes),
      target.path,
      socketPath,
    ],
    output: 'log',
  });
  try {
    await until('qemu-nbd', () => existsSync(socketPath) || server.isGone());
    return await act(socketPath);
  } finally {
    server.process.kill('SIGTERM');
    await server.gone;
    rmSync(socketPath, { force: true });
    rmSync(target.path, { force: true });
  }
}

/** A machine's monitor, which serves one client at a time, for as long as `act` takes. */
export async function withMonitor<Outcome>(
  qmpPath: string,
  act: (monitor: QmpClient) => Promise<Outcome>,
): Promise<Outcome> {
  const monitor = await QmpClient.connect(qmpPath);
  try {
    return await act(monitor);
  } finally {
    monitor.close();
  }
}

/** A disk mirrored by QEMU alone, to an NBD server, as we have it mirrored to ours. */
export async function withPlainMirror<Outcome>(
  monitor: QmpClient,
  options: { readonly device: string; readonly socketPath: string },
  act: () => Promise<Outcome>,
): Promise<Outcome> {
  await startMirror(monitor, { disk: 0, exportName: '', copiesAll: true, ...options });
  await until('the mirror', async () => {
    const jobs = (await monitor.command('query-block-jobs')) as { ready: boolean }[];
    if (jobs.length === 0) throw new Error('the mirror ended');
    return jobs.every(({ ready }) => ready);
  });
  const outcome = await act();
  await removeMirrors(monitor);
  return outcome;
}

interface Listening {
  readonly server: Server;
  readonly path: string;
  readonly socket: Promise<Socket>;
}

async function listen(path: string): Promise<Listening> {
  const server = createServer();
  const socket = new Promise<Socket>((resolve) => {
    server.once('connection', (open) => {
      // QEMU resets what it closes with frames in it: the last of a download, mostly.
      open.on('error', () => open.destroy());
      resolve(open);
    });
  });
  await new Promise<void>((resolve) => {
    server.listen(path, resolve);
  });
  return { server, path, socket };
}

/**
 * A NIC behind a `filter-redirector` whose frames are sent back at once: what the filter costs by
 * itself. Both ways carry the same bytes, so nothing is looked at.
 */
export async function withPassingFilter<Outcome>(
  monitor: QmpClient,
  options: { readonly netdev: string; readonly stage: Stage },
  act: () => Promise<Outcome>,
): Promise<Outcome> {
  const ends: Listening[] = [];
  try {
    for (const name of ['capture', 'inject']) {
      const end = await listen(options.stage.path(`${name}.sock`));
      ends.push(end);
      const addr = { type: 'unix', data: { path: end.path } };
      await monitor.command('chardev-add', {
        id: `bench-${name}`,
        backend: { type: 'socket', data: { addr, server: false } },
      });
    }
    const [capture, inject] = await Promise.all(ends.map(({ socket }) => socket));
    // Read always, whatever QEMU takes back: it waits for us while it writes.
    capture?.on('data', (frames: Buffer) => inject?.write(frames));
    await monitor.command('object-add', {
      'qom-type': 'filter-redirector',
      id: 'bench-filter',
      netdev: options.netdev,
      queue: 'rx',
      outdev: 'bench-capture',
      indev: 'bench-inject',
    });
    const outcome = await act();
    await monitor.command('object-del', { id: 'bench-filter' });
    for (const name of ['capture', 'inject'])
      await monitor.command('chardev-remove', { id: `bench-${name}` });
    return outcome;
  } finally {
    for (const { server, socket } of ends) {
      server.close();
      void socket.then((open) => open.destroy());
    }
  }
}
