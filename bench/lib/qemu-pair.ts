/**
 * A protected QEMU machine as a user has it: a stock QEMU with the test guest, `romulus protect --qmp`
 * and `romulus backup` in processes of their own on this host. However a bench ends, nothing of it is
 * left running.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { callControl } from '../../src/cli/control-client.ts';
import { Stage } from '../../src/drill/children.ts';
import { NodeProcess } from '../../src/drill/node-process.ts';
import { freePorts } from '../../src/drill/ports.ts';
import { CONSOLE_ID, CONTROL_ID } from '../../src/drill/qemu/machine.ts';
import type { NodeStatus } from '../../src/engine/status.ts';
import {
  type GuestOptions,
  type RunningGuest,
  startGuest,
} from '../../test/support/qemu/start-guest.ts';
import { processUse } from './process-use.ts';

const HOST = '127.0.0.1';
const PROTECT_WAIT_MS = 120_000;
/** Stretches begin after the change that they are to show has passed through the pipeline. */
const SETTLE_MS = 500;

/** What happened in one measured stretch. */
export interface QemuStretch {
  readonly seconds: number;
  readonly epochs: number;
  /** With the spreads of this stretch alone. */
  readonly status: NodeStatus;
  readonly bytesSent: number;
  readonly primaryCpuMs: number;
  readonly backupCpuMs: number;
  readonly queueBytesMax: number;
  /** Times at which the primary was anything but protected. */
  readonly unprotected: number;
}

/** One machine and, once protected, its two nodes. */
export class QemuPair {
  readonly machine: RunningGuest;
  readonly #stage: Stage;
  #primary: NodeProcess | null = null;
  #backup: NodeProcess | null = null;
  #queueBytesMax = 0;

  private constructor(machine: RunningGuest, stage: Stage) {
    this.machine = machine;
    this.#stage = stage;
  }

  /** Starts the machine alone, and waits until its programs run. */
  static async start(options: GuestOptions): Promise<QemuPair> {
    const stage = new Stage();
    process.once('exit', () => stage.closeNow());
    try {
      return new QemuPair(await startGuest(options), stage);
    } catch (error) {
      await stage.close({ keepFiles: false });
      throw error;
    }
  }

  /** Starts both nodes; resolves when the machine is protected. */
  async protect(intervalMs: number): Promise<void> {
    const [linkA = 0, linkB = 0] = await freePorts(2);
    mkdirSync(this.#stage.path('arbiter'), { mode: 0o750 });
    const mapping = this.#stage.path('map.json');
    writeFileSync(
      mapping,
      JSON.stringify({ chardevs: { [CONSOLE_ID]: 'null', [CONTROL_ID]: 'null' } }),
    );
    const shared = (name: string, link: number): string[] => [
      '--name',
      name,
      '--listen',
      `${HOST}:${link}`,
      '--state-dir',
      this.#stage.path(name),
      '--arbiter',
      `file:${this.#stage.path('arbiter')}`,
      '--interval',
      `${intervalMs}ms`,
    ];
    this.#primary = this.#startNode('node-a', [
      'protect',
      ...shared('a', linkA),
      '--qmp',
      this.machine.qmpPath,
    ]);
    this.#backup = this.#startNode('node-b', [
      'backup',
      ...shared('b', linkB),
      '--peer',
      `${HOST}:${linkA}`,
      '--map',
      mapping,
    ]);
    await this.#primary.waitForState(['protected'], { withinMs: PROTECT_WAIT_MS });
  }

  /** Changes the length of an epoch. */
  async setInterval(intervalMs: number): Promise<void> {
    await this.#post('/v1/adjust', { intervalMs });
  }

  /** Measures a stretch of this length; the pair must be protected. */
  async measure(durationMs: number): Promise<QemuStretch> {
    await sleep(SETTLE_MS);
    const primary = this.#running(this.#primary);
    const backup = this.#running(this.#backup);
    const before = (await this.#post('/v1/reset-spreads', {})) as NodeStatus;
    const eventsBefore = primary.events.length;
    this.#queueBytesMax = before.queueBytes;
    const cpuBefore = [primary, backup].map(({ child }) => processUse(child.pid).cpuMs);
    const startMs = performance.now();
    await sleep(durationMs);
    const status = (await callControl({
      stateDirectory: this.#stage.path('a'),
      method: 'GET',
      path: '/v1/status',
    })) as NodeStatus;
    const cpu = [primary, backup].map(
      ({ child }, index) => processUse(child.pid).cpuMs - (cpuBefore[index] ?? 0),
    );
    const lapses = primary.events
      .slice(eventsBefore)
      .filter(({ event }) => event.event === 'state' && event.state !== 'protected');
    return {
      seconds: (performance.now() - startMs) / 1000,
      epochs: status.epoch - before.epoch,
      status,
      bytesSent: status.bytesSent - before.bytesSent,
      primaryCpuMs: cpu[0] ?? 0,
      backupCpuMs: cpu[1] ?? 0,
      queueBytesMax: this.#queueBytesMax,
      unprotected: lapses.length,
    };
  }

  /** Ends protection in order; the machine runs on. */
  async unprotect(): Promise<void> {
    for (const node of [this.#primary, this.#backup])
      if (node !== null) {
        node.child.process.kill('SIGTERM');
        await node.child.gone;
      }
  }

  /** Ends everything. */
  async close(): Promise<void> {
    await this.#stage.close({ keepFiles: false });
    await this.machine.stop();
  }

  #startNode(name: string, args: readonly string[]): NodeProcess {
    return new NodeProcess(this.#stage, {
      name,
      args,
      onProgress: ({ queueBytes }) => {
        if (name === 'node-a') this.#queueBytesMax = Math.max(this.#queueBytesMax, queueBytes);
      },
    });
  }

  #post(path: string, body: Readonly<Record<string, unknown>>): Promise<unknown> {
    return callControl({ stateDirectory: this.#stage.path('a'), method: 'POST', path, body });
  }

  #running(node: NodeProcess | null): NodeProcess {
    if (node === null) throw new Error('the machine is not protected yet');
    return node;
  }
}
