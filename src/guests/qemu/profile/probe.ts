/**
 * A QEMU started for a moment to ask it something: no machine worth the name, no vCPU running. Used
 * by a backup to learn what its own QEMU can do before anything depends on it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { RomulusError } from '../../../base/errors.ts';
import { QmpClient } from '../qmp/qmp-client.ts';

/** How long a probe may take to come up, milliseconds. */
export const PROBE_START_TIMEOUT_MS = 10_000;
/** How much of what a probe says is kept, characters. */
const SAID_MAX = 16_384;
const STREAM_DESCRIPTOR = 3;
const POLL_MS = 20;
/** Longest wait for a killed probe to end, milliseconds. */
const END_TIMEOUT_MS = 5000;

/** What came of a probe. */
export type ProbeResult<T> =
  | { readonly kind: 'answered'; readonly value: T }
  /** It did not come up, or did not stay; what it said. */
  | { readonly kind: 'failed'; readonly said: string };

/** Starts a QEMU, asks it, ends it. Leaves nothing behind; a caller that is killed does not either. */
export async function probeQemu<T>(
  launcher: readonly string[],
  args: readonly string[],
  question: (client: QmpClient) => Promise<T>,
): Promise<ProbeResult<T>> {
  const directory = await mkdtemp(join(tmpdir(), 'romulus-probe-'));
  const socket = join(directory, 'qmp');
  const [command = '', ...launch] = launcher;
  const monitor = `unix:${socket.replaceAll(',', ',,')},server=on,wait=off`;
  // It waits for a stream that never comes; where that ends, so does it: also when we are killed.
  const own = ['-nodefaults', '-display', 'none', '-S', '-incoming', `fd:${STREAM_DESCRIPTOR}`];
  const qemu = spawn(command, [...launch, ...args, ...own, '-qmp', monitor], {
    cwd: '/',
    stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
  });
  // A QEMU that ends first breaks it; how it ended is told by what it said.
  qemu.stdio[STREAM_DESCRIPTOR]?.on('error', () => undefined);
  let said = '';
  qemu.stderr?.on('data', (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-SAID_MAX);
  });
  const ended = new Promise<void>((resolve) => {
    qemu.once('exit', () => {
      resolve();
    });
    qemu.once('error', (error) => {
      said += error.message;
      resolve();
    });
  });
  let client: QmpClient | null = null;
  try {
    client = await connect(socket, qemu);
    if (client === null) return { kind: 'failed', said: said.trim() || 'it said nothing' };
    // Connected, nobody needs it any more.
    await rm(directory, { recursive: true, force: true });
    return { kind: 'answered', value: await question(client) };
  } catch (error) {
    // It ended over the question: a defect of that QEMU, such as modules of another build.
    if (!(error instanceof RomulusError) || error.code !== 'ERR_GUEST_LOST') throw error;
    return { kind: 'failed', said: said.trim() || error.message };
  } finally {
    client?.close();
    qemu.kill('SIGKILL');
    await Promise.race([ended, delay(END_TIMEOUT_MS, undefined, { ref: false })]);
    await rm(directory, { recursive: true, force: true });
  }
}

async function connect(socket: string, qemu: ChildProcess): Promise<QmpClient | null> {
  const deadlineMs = performance.now() + PROBE_START_TIMEOUT_MS;
  for (;;) {
    try {
      return await QmpClient.connect(socket);
    } catch (error) {
      // A program that cannot be started never gets a pid, one that gave up has a code.
      if (qemu.pid === undefined || qemu.exitCode !== null || qemu.signalCode !== null) return null;
      if (performance.now() > deadlineMs) throw error;
      await delay(POLL_MS);
    }
  }
}
