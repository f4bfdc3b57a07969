/**
 * Goal: the two hearts judge each other and exchange promises as promised. Method: real threads
 * and sockets on loopback, a real process to kill and freeze. How fast is measured in
 * bench/detector.bench.ts, not here.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { asGeneration } from '../../src/base/units.ts';
import { encodeMessage } from '../../src/codec/messages.ts';
import type { Signal, Verdict } from '../../src/core/verdict.ts';
import {
  type Heartbeat,
  type HeartbeatOptions,
  startHeartbeat,
} from '../../src/signals/heartbeat.ts';
import { monotonicNs } from '../../src/signals/promise-words.ts';
import { HeartbeatChild } from './heartbeat-child.ts';

const HOST = '127.0.0.1';
const generation = asGeneration(1);
/** Never suspicious of silence: connections and what is said must be what tells. */
const DEAF_TO_SILENCE = { phiDead: 1e9 };
/** With it silence is death after some 830 ms. */
const SLOW = { intervalMs: 100 };
/** A silence on the link that is still far from death by that. */
const LINK_SILENT_MS_MAX = 500;
/** Attempts at traffic without such a silence. */
const ATTEMPTS_MAX = 5;

interface Node {
  readonly heartbeat: Heartbeat;
  readonly verdicts: Verdict[];
  readonly signals: Signal[];
  readonly newer: number[];
  readonly promised: string[];
}

async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = Date.now() + 15_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

async function pause(ms: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, ms));
}

/** Is heard on the link for so long, and gives the longest time for which it was not. */
async function linkTraffic(heartbeat: Heartbeat, forMs: number): Promise<number> {
  let heardMs = performance.now();
  let longestMs = 0;
  const hear = (): void => {
    longestMs = Math.max(longestMs, performance.now() - heardMs);
    heartbeat.noteLinkHeard();
    heardMs = performance.now();
  };
  hear();
  const timer = setInterval(hear, 5);
  await pause(forMs);
  clearInterval(timer);
  return Math.max(longestMs, performance.now() - heardMs);
}

describe('heartbeats', () => {
  const nodes: Node[] = [];
  const children: HeartbeatChild[] = [];
  afterEach(async () => {
    for (const { heartbeat } of nodes.splice(0)) await heartbeat.stop();
    for (const child of children.splice(0)) await child.kill();
  });

  async function start(
    options: Pick<HeartbeatOptions, 'role'> & Partial<HeartbeatOptions>,
    port = 0,
  ): Promise<Node> {
    const verdicts: Verdict[] = [];
    const signals: Signal[] = [];
    const newer: number[] = [];
    const promised: string[] = [];
    const heartbeat = await startHeartbeat({
      endpoint: { host: HOST, port },
      generation,
      onVerdict: (verdict) => verdicts.push(verdict),
      onSignal: (signal) => signals.push(signal),
      onNewerGeneration: (value) => newer.push(value),
      onPromised: (instance) => promised.push(instance),
      onFailed: (error) => {
        throw error;
      },
      ...options,
    });
    const node = { heartbeat, verdicts, signals, newer, promised };
    nodes.push(node);
    return node;
  }

  async function startPair(
    primaryOptions: Partial<HeartbeatOptions> = {},
    backupOptions: Partial<HeartbeatOptions> = {},
  ): Promise<{ primary: Node; backup: Node }> {
    const primary = await start({ role: 'primary', partner: 'b#1', ...primaryOptions });
    const backup = await start(
      { role: 'backup', instance: 'b#1', ...backupOptions },
      primary.heartbeat.port,
    );
    return { primary, backup };
  }

  const stateOf = (node: Node): string => node.verdicts.at(-1)?.state ?? 'unknown';

  function startChild(options: object): HeartbeatChild {
    const child = new HeartbeatChild(options);
    children.push(child);
    return child;
  }

  it('makes each find the other alive, and the primary hold a promise', async () => {
    const { primary, backup } = await startPair();
    await until(() => stateOf(primary) === 'alive' && stateOf(backup) === 'alive', 'both alive');
    await until(() => primary.promised.length > 2, 'promises');
    expect(primary.promised[0]).toBe('b#1');
    expect(primary.heartbeat.words.heldUntilNs()).toBeGreaterThan(monotonicNs() - 1_000_000_000n);
    // What is held must end before what was promised does.
    expect(primary.heartbeat.words.heldUntilNs()).toBeLessThan(backup.heartbeat.words.seal());
  });

  it('promises nothing while sealed', async () => {
    const { primary, backup } = await startPair();
    await until(() => primary.promised.length > 0, 'a promise');
    const promisedUntilNs = backup.heartbeat.words.seal();
    await pause(100);
    // An answer from before the seal may still have to be read. None from after it ends so early.
    await until(() => monotonicNs() > promisedUntilNs, 'the end of the promise');
    expect(primary.heartbeat.words.heldUntilNs()).toBeLessThan(promisedUntilNs);
    await pause(50);
    const heldUntilNs = primary.heartbeat.words.heldUntilNs();
    expect(heldUntilNs).toBeLessThan(promisedUntilNs);
    await until(() => stateOf(primary) === 'alive', 'alive');
    backup.heartbeat.words.unseal();
    await until(() => primary.heartbeat.words.heldUntilNs() > heldUntilNs, 'promises again');
  });

  it('counts promises of the partner only', async () => {
    const { primary } = await startPair({ partner: null });
    await until(() => stateOf(primary) === 'alive', 'alive');
    await pause(30);
    expect(primary.heartbeat.words.heldUntilNs()).toBe(0n);
    await primary.heartbeat.setPartner('b#1');
    await until(() => primary.heartbeat.words.heldUntilNs() > 0n, 'a promise');
    await primary.heartbeat.setPartner('b#2');
    expect(primary.heartbeat.words.heldUntilNs()).toBe(0n);
    await pause(50);
    expect(primary.heartbeat.words.heldUntilNs()).toBe(0n);
    await primary.heartbeat.setPartner(null);
    expect(primary.heartbeat.words.heldUntilNs()).toBe(0n);
  });

  it('gives no promise while the backup holds no image', async () => {
    const { primary, backup } = await startPair({}, { instance: null });
    await primary.heartbeat.setPartner(null);
    await until(() => stateOf(primary) === 'alive', 'alive');
    expect(backup.heartbeat.words.seal()).toBe(0n);
    backup.heartbeat.words.unseal();
    backup.heartbeat.setInstance('b#7');
    await primary.heartbeat.setPartner('b#7');
    await until(() => primary.heartbeat.words.heldUntilNs() > 0n, 'a promise');
    expect(backup.heartbeat.words.seal()).toBeGreaterThan(0n);
  });

  it('finds a killed primary dead by its connection and its port', async () => {
    const child = startChild({
      role: 'primary',
      endpoint: { host: HOST, port: 0 },
      partner: 'b#1',
    });
    const { port = 0 } = await child.ready();
    const backup = await start({ role: 'backup', instance: 'b#1', tuning: DEAF_TO_SILENCE }, port);
    await until(() => stateOf(backup) === 'alive', 'alive');
    await child.kill();
    await until(() => stateOf(backup) === 'dead', 'dead');
    expect(backup.verdicts.at(-1)?.why).toMatch(
      /^heartbeat connection (reset|closed) and .*redial refused/,
    );
  });

  it('finds a frozen primary dead by its silence, and alive when it thaws', async () => {
    const child = startChild({
      role: 'primary',
      endpoint: { host: HOST, port: 0 },
      partner: 'b#1',
    });
    const { port = 0 } = await child.ready();
    const backup = await start({ role: 'backup', instance: 'b#1' }, port);
    await until(() => stateOf(backup) === 'alive', 'alive');
    child.process.kill('SIGSTOP');
    await until(() => stateOf(backup) === 'dead', 'dead');
    expect(backup.verdicts.at(-1)?.why).toMatch(/^no heartbeat for \d+ ms, phi/);
    child.process.kill('SIGCONT');
    await until(() => stateOf(backup) === 'alive', 'alive again');
  });

  it('finds a killed backup dead once the link is closed too', async () => {
    const primary = await start({ role: 'primary', partner: 'b#1', tuning: DEAF_TO_SILENCE });
    const child = startChild({
      role: 'backup',
      endpoint: { host: HOST, port: primary.heartbeat.port },
      instance: 'b#1',
    });
    await until(() => stateOf(primary) === 'alive', 'alive');
    primary.heartbeat.noteLink('open', 'made');
    await child.kill();
    await until(() => stateOf(primary) === 'suspect', 'suspect');
    primary.heartbeat.noteLink('closed', 'reset');
    await until(() => stateOf(primary) === 'dead', 'dead');
    expect(primary.verdicts.at(-1)?.why).toMatch(/heartbeat connection .* and link reset/);
  });

  it('takes traffic on the link as life', async () => {
    const child = startChild({
      role: 'primary',
      endpoint: { host: HOST, port: 0 },
      tuning: SLOW,
    });
    const { port = 0 } = await child.ready();
    const backup = await start({ role: 'backup', instance: 'b#1', tuning: SLOW }, port);
    const wasDead = (): boolean => backup.verdicts.some(({ state }) => state === 'dead');
    let longestMs = 0;
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt += 1) {
      child.process.kill('SIGCONT');
      await until(() => stateOf(backup) === 'alive', 'alive');
      backup.verdicts.length = 0;
      child.process.kill('SIGSTOP');
      longestMs = await linkTraffic(backup.heartbeat, 3000);
      // A host that stood still let the link fall silent, too: that shows nothing.
      if (!wasDead() || longestMs < LINK_SILENT_MS_MAX) break;
    }
    expect({ wasDead: wasDead(), longestMs }).toMatchObject({ wasDead: false });
    await until(() => stateOf(backup) === 'dead', 'dead');
    expect(backup.verdicts.at(-1)?.why).toMatch(/link silent/);
  });

  it('does not suspect a primary that said goodbye of being dead', async () => {
    const { primary, backup } = await startPair();
    await until(() => stateOf(backup) === 'alive', 'alive');
    await primary.heartbeat.stop({ reason: 'shutdown', text: 'maintenance' });
    const goodbye = 'it said goodbye (shutdown: maintenance)';
    // Of its verdict the reason may be another: a silence before it.
    await until(() => backup.signals.some(({ text }) => text === goodbye), 'the goodbye');
    await until(() => stateOf(backup) === 'suspect', 'suspect');
    await pause(300);
    expect(stateOf(backup)).toBe('suspect');
  });

  it('takes the loss of the machine, said in a goodbye, as death', async () => {
    const { primary, backup } = await startPair({}, { tuning: DEAF_TO_SILENCE });
    await until(() => stateOf(backup) === 'alive', 'alive');
    await primary.heartbeat.stop({ reason: 'guest-lost', text: 'the machine ended' });
    await until(() => stateOf(backup) === 'dead', 'dead');
    expect(backup.verdicts.at(-1)?.why).toBe('it said goodbye (guest-lost: the machine ended)');
  });

  it('refuses an older generation, and tells it of the newer one', async () => {
    const { primary, backup } = await startPair();
    await until(() => primary.promised.length > 0, 'a promise');
    backup.heartbeat.setGeneration(asGeneration(5));
    await until(() => primary.newer.length > 0, 'the news');
    expect(primary.newer[0]).toBe(5);
    primary.heartbeat.setGeneration(asGeneration(5));
    const { length } = primary.promised;
    await until(() => primary.promised.length > length, 'promises again');
  });

  it('falls silent when the main thread hangs for long', async () => {
    const { backup } = await startPair({ tuning: { mainStallMsMax: 300 } });
    await until(() => stateOf(backup) === 'alive', 'alive');
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 900);
    await until(() => backup.verdicts.some(({ state }) => state === 'dead'), 'dead meanwhile');
    await until(() => stateOf(backup) === 'alive', 'alive again');
  });

  it('takes a probe through the same door', async () => {
    const { backup } = await startPair();
    await until(() => stateOf(backup) === 'alive', 'alive');
    backup.heartbeat.addSignal({
      source: 'probe',
      channel: 'gateway',
      kind: 'unreachable',
      strength: 0.5,
      atMs: Number(monotonicNs()) / 1e6 + 60_000,
      text: 'the gateway cannot reach it',
    });
    await until(() => stateOf(backup) === 'suspect', 'suspect');
  });

  it('survives nonsense and too many connections on its port', async () => {
    const tuning = DEAF_TO_SILENCE;
    const { primary, backup } = await startPair({ tuning }, { tuning });
    await until(() => stateOf(primary) === 'alive' && stateOf(backup) === 'alive', 'both alive');
    const wrongKind = Buffer.concat(
      encodeMessage({ kind: 'heartbeat', seq: 1, sentAtNs: 1n }, { generation }),
    );
    for (const bytes of [
      Buffer.from('GET / HTTP/1.1\r\n\r\n'),
      Buffer.alloc(100, 0xff),
      wrongKind,
    ]) {
      const socket = connect(primary.heartbeat.port, HOST);
      socket.on('error', () => {});
      socket.resume();
      socket.write(bytes);
      await once(socket, 'close');
    }
    const crowd = Array.from({ length: 30 }, () => {
      const socket = connect(primary.heartbeat.port, HOST);
      socket.on('error', () => {});
      return socket;
    });
    await pause(200);
    expect(stateOf(primary)).toBe('alive');
    expect(stateOf(backup)).toBe('alive');
    expect(backup.verdicts).toHaveLength(1);
    for (const socket of crowd) socket.destroy();
  });

  it('does not believe answers to heartbeats it never sent', async () => {
    const primary = await start({ role: 'primary', partner: 'b#1' });
    const socket = connect(primary.heartbeat.port, HOST);
    await once(socket, 'data');
    const forged = { kind: 'heartbeatReply', sentAtNs: monotonicNs() + 10n ** 12n } as const;
    for (const seq of [1, 2, 3, 1_000_000]) {
      const reply = { ...forged, seq, promiseUs: 1_000_000, instance: 'b#1' };
      socket.write(Buffer.concat(encodeMessage(reply, { generation })));
    }
    await pause(50);
    expect(primary.heartbeat.words.heldUntilNs()).toBe(0n);
    expect(stateOf(primary)).toBe('unknown');
    socket.destroy();
  });

  it('says that its address is in use, and leaves no thread', async () => {
    const primary = await start({ role: 'primary' });
    const second = start({ role: 'primary' }, primary.heartbeat.port);
    await expect(second).rejects.toMatchObject({ code: 'ERR_TRANSPORT_ADDRESS_IN_USE' });
  });

  it('leaves no socket when stopped', async () => {
    const { primary, backup } = await startPair();
    await until(() => stateOf(primary) === 'alive', 'alive');
    const { port } = primary.heartbeat;
    await backup.heartbeat.stop();
    await primary.heartbeat.stop();
    await primary.heartbeat.stop();
    await primary.heartbeat.setPartner('b#9');
    const socket = connect(port, HOST);
    const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException];
    expect(error.code).toBe('ECONNREFUSED');
  });
});
