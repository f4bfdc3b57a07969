/**
 * A protected QEMU machine as a user has it: a stock QEMU with the test guest, `romulus protect --qmp`
 * and `romulus backup` in processes of their own on this host, or, where the machine has a card, on two
 * hosts of namespaces. However a bench ends, nothing of it is left running.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { callControl, SCRUB_WAIT_MS } from '../../src/cli/control-client.ts';
import { Stage } from '../../src/drill/children.ts';
import { NodeProcess } from '../../src/drill/node-process.ts';
import { freePorts } from '../../src/drill/ports.ts';
import { guestImage } from '../../src/drill/qemu/guest-image.ts';
import { CONSOLE_ID, CONTROL_ID } from '../../src/drill/qemu/machine.ts';
import { servicesImage } from '../../src/drill/qemu/services-image.ts';
import { Surroundings } from '../../src/drill/qemu/surroundings.ts';
import type { QemuMappingInput } from '../../src/guests/qemu/profile/mapping.ts';
import type { ScrubResult } from '../../src/engine/scrub.ts';
import type { NodeStatus } from '../../src/engine/status.ts';
import {
  type GuestOptions,
  type RunningGuest,
  startGuest,
} from '../../test/support/qemu/start-guest.ts';
import { type ProcessUse, processUse } from './process-use.ts';

const HOST = '127.0.0.1';
const NS_PER_MS = 1e6;
const PROTECT_WAIT_MS = 120_000;
/** A node takes leave of the machine and of its partner. */
const LEAVE_WAIT_MS = 20_000;
/** Of the log of a node that ended. */
const LOG_LINES = 12;
/** Stretches begin after the change that they are to show has passed through the pipeline. */
const SETTLE_MS = 500;

/** The primary is `a`. */
type NodeName = 'a' | 'b';

/** What happened in one measured stretch. */
export interface QemuStretch {
  readonly seconds: number;
  readonly epochs: number;
  /** Of these, taken because output waited. */
  readonly earlyCheckpoints: number;
  /** With the spreads of this stretch alone. */
  readonly status: NodeStatus;
  readonly bytesSent: number;
  readonly primaryCpuMs: number;
  readonly backupCpuMs: number;
  readonly queueBytesMax: number;
  readonly heldFramesMax: number;
  /** Times at which the primary was anything but protected. */
  readonly unprotected: number;
  /** The longest time between two heartbeats, as either node heard the other's. */
  readonly heartbeatGapMsMax: number;
  /** Of both nodes: heartbeats that came so late that they could make suspect. */
  readonly heartbeatsLate: number;
}

/** What a node uses at an instant. */
export interface NodeUse extends ProcessUse {
  readonly descriptors: number;
}

export interface PairOptions extends GuestOptions {
  /** The disk and the card of a drill's machine, with its servers; a card needs root. */
  readonly parts?: { readonly disk: boolean; readonly net: boolean };
}

export interface ProtectOptions {
  /** More words for both nodes. */
  readonly words?: readonly string[];
  /** A module that is loaded into every thread of both nodes first. */
  readonly preload?: URL;
  /** The replicas of disks that are not the parts' own. */
  readonly drives?: NonNullable<QemuMappingInput>['drives'];
}

/** One machine and, once protected, its two nodes. */
export class QemuPair {
  readonly machine: RunningGuest;
  readonly stage: Stage;
  readonly #around: Surroundings;
  #folder = '';
  #protections = 0;
  #primary: NodeProcess | null = null;
  #backup: NodeProcess | null = null;
  #queueBytesMax = 0;
  #heldFramesMax = 0;

  private constructor(machine: RunningGuest, stage: Stage, around: Surroundings) {
    this.machine = machine;
    this.stage = stage;
    this.#around = around;
  }

  /** Starts the machine alone, and waits until its programs run. */
  static async start(options: PairOptions): Promise<QemuPair> {
    const stage = new Stage();
    let around: Surroundings | null = null;
    process.once('exit', () => {
      stage.closeNow();
      around?.hosts?.removeNow();
    });
    try {
      around = await Surroundings.make(options.parts ?? { disk: false, net: false }, stage, say);
      const { run = [], kernelArgs = [], extraArgs = [], parts } = options;
      const machine = await startGuest({
        ...options,
        run: [...around.programs, ...run],
        // Of two like words the guest heeds the last.
        kernelArgs: [...around.kernelArgs(), ...kernelArgs],
        extraArgs: [...around.machineArgs(), ...extraArgs],
        launcher: around.launcherOf(0),
        ...(parts && { image: await servicesImage(await guestImage(say), say) }),
      });
      return new QemuPair(machine, stage, around);
    } catch (error) {
      await stage.close({ keepFiles: false });
      await around?.hosts?.remove();
      throw error;
    }
  }

  /** What a client of the machine is run by. */
  get clientLauncher(): readonly string[] {
    return this.#around.hosts?.enter('client') ?? [];
  }

  /** The files of the disk on either host, where the parts brought one. */
  get disks(): readonly [string, string] | null {
    const [source, replica] = [this.#around.diskOf(0), this.#around.diskOf(1)];
    return source === null || replica === null ? null : [source, replica];
  }

  /** Starts both nodes; resolves when the machine is protected. */
  async protect(intervalMs: number, options: ProtectOptions = {}): Promise<void> {
    const [linkA = 0, linkB = 0] = await freePorts(2);
    this.#protections += 1;
    this.#folder = this.stage.path(`nodes-${this.#protections}`);
    mkdirSync(this.#path('arbiter'), { mode: 0o750, recursive: true });
    const mapping = this.#path('map.json');
    writeFileSync(
      mapping,
      JSON.stringify({
        chardevs: { [CONSOLE_ID]: 'null', [CONTROL_ID]: 'null' },
        ...this.#around.mappingOf(1),
        ...(options.drives && { drives: options.drives }),
      }),
    );
    const hosts = [this.#around.addressOf(0) ?? HOST, this.#around.addressOf(1) ?? HOST] as const;
    const shared = (name: string, listen: string): string[] => [
      '--name',
      name,
      '--listen',
      listen,
      '--state-dir',
      this.#path(name),
      '--arbiter',
      `file:${this.#path('arbiter')}`,
      '--interval',
      `${intervalMs}ms`,
      ...(options.words ?? []),
    ];
    const primary = ['protect', ...shared('a', `${hosts[0]}:${linkA}`)];
    this.#primary = this.#startNode(
      0,
      [...primary, '--qmp', this.machine.qmpPath],
      options.preload,
    );
    const backup = ['backup', ...shared('b', `${hosts[1]}:${linkB}`)];
    this.#backup = this.#startNode(
      1,
      [...backup, '--peer', `${hosts[0]}:${linkA}`, '--map', mapping],
      options.preload,
    );
    await this.#primary.waitForState(['protected'], { withinMs: PROTECT_WAIT_MS });
  }

  /** Changes the length of an epoch. */
  async setInterval(intervalMs: number): Promise<void> {
    await this.#post('/v1/adjust', { intervalMs });
  }

  /** What the primary says of itself now. */
  async status(): Promise<NodeStatus> {
    return await this.#statusOf('a');
  }

  /** Compares both images. */
  async scrub(): Promise<ScrubResult> {
    return (await this.#post('/v1/scrub', {}, { waitMs: SCRUB_WAIT_MS })) as ScrubResult;
  }

  /** What primary and backup use. */
  uses(): readonly [NodeUse, NodeUse] {
    const of = (node: NodeProcess | null): NodeUse => {
      const { pid } = this.#running(node).child;
      return { ...processUse(pid), descriptors: readdirSync(`/proc/${pid}/fd`).length };
    };
    return [of(this.#primary), of(this.#backup)];
  }

  /** Times at which the primary was anything but protected since it first was. */
  get lapses(): number {
    const { events } = this.#running(this.#primary);
    const states = events.flatMap(({ event }) => (event.event === 'state' ? [event.state] : []));
    return states.slice(states.indexOf('protected')).filter((state) => state !== 'protected')
      .length;
  }

  /** How long the first image took: from when it was begun until the machine was protected. */
  get syncMs(): number {
    const { events } = this.#running(this.#primary);
    const when = (wanted: string): number => {
      const seen = events.find(({ event }) => event.event === 'state' && event.state === wanted);
      return Number(seen?.readAtNs ?? Number.NaN) / NS_PER_MS;
    };
    return when('protected') - when('syncing');
  }

  /** Measures a stretch of this length; the pair must be protected. */
  async measure(durationMs: number): Promise<QemuStretch> {
    return (await this.measureDuring(() => sleep(durationMs))).stretch;
  }

  /** Measures the stretch that this takes; the pair must be protected. */
  async measureDuring<Outcome>(
    act: () => Promise<Outcome>,
  ): Promise<{ readonly stretch: QemuStretch; readonly outcome: Outcome }> {
    await sleep(SETTLE_MS);
    // A node that is gone says why in its log alone.
    for (const node of [this.#primary, this.#backup]) this.#running(node);
    const backupBefore = await this.#resetSpreads('b');
    const before = await this.#resetSpreads('a');
    const lapsesBefore = this.lapses;
    this.#queueBytesMax = before.queueBytes;
    this.#heldFramesMax = before.outputHeldFrames;
    const cpuBefore = this.uses().map(({ cpuMs }) => cpuMs);
    const startMs = performance.now();
    const outcome = await act();
    const status = await this.status();
    const backup = await this.#statusOf('b');
    const late = (of: NodeStatus, since: NodeStatus): number =>
      of.heartbeatsLate - since.heartbeatsLate;
    const cpu = this.uses().map(({ cpuMs }, index) => cpuMs - (cpuBefore[index] ?? 0));
    const stretch: QemuStretch = {
      seconds: (performance.now() - startMs) / 1000,
      epochs: status.epoch - before.epoch,
      earlyCheckpoints: status.earlyCheckpoints - before.earlyCheckpoints,
      status,
      bytesSent: status.bytesSent - before.bytesSent,
      primaryCpuMs: cpu[0] ?? 0,
      backupCpuMs: cpu[1] ?? 0,
      queueBytesMax: this.#queueBytesMax,
      heldFramesMax: this.#heldFramesMax,
      unprotected: this.lapses - lapsesBefore,
      heartbeatGapMsMax: Math.max(status.heartbeatGapMsMax, backup.heartbeatGapMsMax),
      heartbeatsLate: late(status, before) + late(backup, backupBefore),
    };
    return { stretch, outcome };
  }

  /** Ends protection in order; the machine runs on. */
  async unprotect(): Promise<void> {
    for (const node of [this.#primary, this.#backup])
      if (node !== null) {
        node.child.process.kill('SIGTERM');
        const late = sleep(LEAVE_WAIT_MS, 'late', { ref: false });
        if ((await Promise.race([node.child.gone, late])) === 'late')
          throw new Error(`${node.child.name} did not end within ${LEAVE_WAIT_MS} ms`);
      }
  }

  /** Ends everything. */
  async close(): Promise<void> {
    await this.stage.close({ keepFiles: false });
    await this.machine.stop();
    await this.#around.hosts?.remove();
  }

  #startNode(side: 0 | 1, args: readonly string[], preload?: URL): NodeProcess {
    const loading = preload === undefined ? [] : ['env', `NODE_OPTIONS=--import=${preload.href}`];
    return new NodeProcess(this.stage, {
      name: `node-${side === 0 ? 'a' : 'b'}-${this.#protections}`,
      args,
      launcher: [...this.#around.launcherOf(side), ...loading],
      onProgress: ({ queueBytes, outputHeldFrames }) => {
        if (side === 1) return;
        this.#queueBytesMax = Math.max(this.#queueBytesMax, queueBytes);
        this.#heldFramesMax = Math.max(this.#heldFramesMax, outputHeldFrames);
      },
    });
  }

  #path(name: string): string {
    return `${this.#folder}/${name}`;
  }

  async #statusOf(name: NodeName): Promise<NodeStatus> {
    const stateDirectory = this.#path(name);
    return (await callControl({
      stateDirectory,
      method: 'GET',
      path: '/v1/status',
    })) as NodeStatus;
  }

  async #resetSpreads(of: NodeName): Promise<NodeStatus> {
    return (await this.#post('/v1/reset-spreads', {}, { of })) as NodeStatus;
  }

  #post(
    path: string,
    body: Readonly<Record<string, unknown>>,
    options: { readonly waitMs?: number; readonly of?: NodeName } = {},
  ): Promise<unknown> {
    const { waitMs, of = 'a' } = options;
    return callControl({
      stateDirectory: this.#path(of),
      method: 'POST',
      path,
      body,
      ...(waitMs !== undefined && { waitMs }),
    });
  }

  #running(node: NodeProcess | null): NodeProcess {
    if (node === null) throw new Error('the machine is not protected yet');
    if (!node.child.isGone()) return node;
    const lines = readFileSync(node.child.logFile, 'utf8').trim().split('\n');
    throw new Error(`${node.child.name} is gone:\n${lines.slice(-LOG_LINES).join('\n')}`);
  }
}

/** Guests and packages are made before anything is measured; that may take a while. */
function say(text: string): void {
  process.stdout.write(`  ${text}\n`);
}
