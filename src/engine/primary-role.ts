/** The term of a node as primary: makes the parts that live as long as it does, and ends them. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RomulusError } from '../base/errors.ts';
import { Primary } from '../core/primary.ts';
import { DEFAULT_PRIMARY_LIMITS } from '../core/primary-types.ts';
import { DEFAULT_PROMISE_MARGIN } from '../core/promise.ts';
import { connectSimDisk } from '../disks/sim-disk.ts';
import type { SourceDisk } from '../disks/disk.ts';
import { asEpoch, NO_GENERATION } from '../base/units.ts';
import { endProcess, ownerOf, processStartTime } from '../guests/process.ts';
import type { LinkListener } from '../links/ws.ts';
import { listenWs } from '../links/ws.ts';
import { GuardianLink } from '../native/guardian-link.ts';
import { workerUrl } from '../native/worker-url.ts';
import type { MachineSocket } from '../nets/machine-socket.ts';
import { type Goodbye, type Heartbeat, startHeartbeat } from '../signals/heartbeat.ts';
import type { AttachResult, CaptureEvent } from './capture-types.ts';
import type { CaptureMethods } from './capture-worker.ts';
import { HeldNet, type HeldNetOptions } from './held-net.ts';
import { connectMachineNet } from './machine-net.ts';
import { MirroredDisks } from './mirrored-disks.ts';
import type { NodeParts } from './node-parts.ts';
import { type PaceChanges, PrimarySession } from './primary-session.ts';
import { onSilenceOf, type Role, type RoleOutcome, type RunningMachine } from './role.ts';
import type { NodeStatus } from './status.ts';
import { blankStatus, heartbeatStatus } from './status-of.ts';
import { Teardown } from './teardown.ts';
import { ThreadClient } from './thread-rpc.ts';

/**
 * How long a QEMU that was just promoted runs before it is attached to, milliseconds. Attaching keeps
 * its main loop and a core busy, while its clients have waited for an answer long enough; nobody is there
 * yet whom it could be protected with.
 */
const PROMOTED_REST_MS = 300;

/** Where QEMU mirrors its disks to, in the state directory. */
const DISK_SOCKET = 'disks.sock';
const EXPORT_SOCKET = 'disks-export.sock';

interface Running {
  readonly session: PrimarySession;
  readonly attached: AttachResult;
  readonly mirrored: MirroredDisks | null;
  readonly listener: LinkListener;
  readonly heartbeat: Heartbeat;
}

export class PrimaryRole implements Role {
  readonly #parts: NodeParts;
  readonly #machine: RunningMachine;
  #running: Running | null = null;
  #stopAsked = false;
  #hasRun = false;

  constructor(parts: NodeParts, machine: RunningMachine) {
    this.#parts = parts;
    this.#machine = machine;
  }

  /** Whether the machine was attached to, and all else was in place. */
  get hasRun(): boolean {
    return this.#hasRun;
  }

  /** @throws {RomulusError} when the machine cannot be attached to or an address is taken. */
  async run(): Promise<RoleOutcome> {
    const teardown = new Teardown(this.#parts.log);
    try {
      const outcome = await this.#play(teardown);
      const failure = await teardown.run();
      // Where there is more to do for this node than to end, it is done all the same.
      if (failure !== null && outcome.kind === 'finished') throw failure;
      return outcome;
    } finally {
      await teardown.run();
      this.#running = null;
    }
  }

  async #play(teardown: Teardown): Promise<RoleOutcome> {
    const { address, instance, promoted } = this.#machine;
    const { config } = this.#parts;
    let session: PrimarySession | null = null;
    if (promoted !== null && address.kind === 'qemu') await sleep(PROMOTED_REST_MS);
    const capture = new ThreadClient<CaptureMethods, CaptureEvent>(
      workerUrl('./capture-worker', import.meta.url),
      {
        name: 'capture',
        onEvent: ({ loss }) => session?.guestLost(loss),
        onDeath: (error) => session?.threadLost(error),
      },
    );
    teardown.push('the capture thread', () => capture.close());
    const attached = await capture.call('attach', {
      address,
      tracker: config.tracker,
      diskMode: config.disk,
      holdsOutput: config.netHold === 'all',
    });
    const startTime = processStartTime(attached.pid);
    teardown.push('the hold on the machine', () => capture.call('detach', undefined));
    const guardian = attached.guardian === null ? null : new GuardianLink(attached.guardian);
    teardown.push('the connection to the guardian', () => guardian?.close());
    this.#parts.saveMachine({
      instance,
      kind: address.kind,
      socketPath: address.controlPath,
      pid: attached.pid,
    });
    const onDiskLost = (error: RomulusError): void => session?.diskLost(error);
    const mirrored = this.#mirroredDisks(attached, capture, onDiskLost);
    teardown.push('the mirrors of the disks', () => mirrored?.close());
    mirrored?.prepare();
    const net = promoted?.net ?? (await this.#connectNet(attached.netSocketPath));
    this.#parts.setMachine(net);
    teardown.push('the connection to the network', () => {
      this.#parts.setMachine(null);
      net?.close();
    });
    const lostBefore: RomulusError[] = [];
    const onNetLost = (error: RomulusError): void => {
      if (session === null) lostBefore.push(error);
      else session.netLost(error);
    };
    const held = await this.#holdNet(capture, attached, { guardian, onLost: onNetLost });
    guardian?.setFilterCount(held === null ? 0 : attached.heldNics);
    // Whose name the register never heard has changed nothing that the backup could rely on.
    teardown.push('the hold on the network', () =>
      held?.detach((session?.core.status.word ?? null) === null),
    );
    const heartbeat = await startHeartbeat({
      role: 'primary',
      endpoint: config.heartbeatListen ?? { host: config.listen.host, port: 0 },
      generation: NO_GENERATION,
      tuning: { intervalMs: config.heartbeatMs, promiseMs: config.promiseMs },
      onVerdict: (verdict) => session?.peerVerdict(verdict),
      onPromised: (by, promiseMs, sentAtMs) => session?.promised(by, promiseMs, sentAtMs),
      onFailed: (error) => session?.threadLost(error),
    });
    let farewell: Goodbye = { reason: 'shutdown', text: 'stopped' };
    teardown.push('the heartbeats', () => heartbeat.stop(farewell));
    session = new PrimarySession({
      parts: this.#parts,
      capture,
      heartbeat,
      core: this.#core(),
      instance,
      machinePid: attached.pid,
      guardian,
      descriptor: attached.descriptor,
      openDisk: async (target) =>
        mirrored === null
          ? await this.#openSocketDisk(attached, onDiskLost)
          : await mirrored.open(target),
    });
    const current = session;
    const listener = await listenWs({
      host: config.listen.host,
      port: config.listen.port,
      onLink: (link) => current.accept(link),
    });
    teardown.push('the listener for backups', () => listener.close());
    this.#running = { session, attached, mirrored, listener, heartbeat };
    this.#hasRun = true;
    this.#parts.emit({
      event: 'listening',
      linkPort: listener.port,
      netPort: this.#parts.netPort,
      heartbeatPort: heartbeat.port,
    });
    if (promoted === null) session.start();
    else session.startPromoted(promoted.word);
    for (const error of lostBefore) session.netLost(error);
    if (this.#stopAsked) session.shutdown();
    const outcome = await session.outcome;
    // Who lost its link before it could be told learns it from the heartbeats.
    if (outcome.kind === 'failed') throw outcome.error;
    if (outcome.kind === 'guestLost') farewell = { reason: 'guest-lost', text: outcome.why };
    if ('mustEnd' in outcome && outcome.mustEnd) await endProcess(attached.pid, startTime);
    return outcome;
  }

  async #openSocketDisk(
    { disks }: AttachResult,
    onLost: (error: RomulusError) => void,
  ): Promise<SourceDisk | null> {
    if (disks.kind !== 'socket') return null;
    const { socketPath: path, imagePath, bytes: diskBytes } = disks;
    return await connectSimDisk({ path, imagePath, diskBytes, onLost });
  }

  #mirroredDisks(
    { disks, guardian, pid }: AttachResult,
    capture: ThreadClient<CaptureMethods, CaptureEvent>,
    onLost: (error: RomulusError) => void,
  ): MirroredDisks | null {
    if (disks.kind !== 'mirror') return null;
    const { syncBytesPerSecond, stateDirectory } = this.#parts.config;
    const mirrored: MirroredDisks = new MirroredDisks({
      disks: disks.disks,
      socketPath: join(stateDirectory, DISK_SOCKET),
      exportPath: join(stateDirectory, EXPORT_SOCKET),
      owner: ownerOf(pid),
      guardian,
      ...(syncBytesPerSecond !== undefined && { bytesPerSecondMax: syncBytesPerSecond }),
      serveMonitor: (monitor) =>
        capture.call('followDisks', { monitor, counter: mirrored.counter }, [monitor]),
      onOpened: ({ since }, { totalBytes, wholeBecause }) => {
        const { log } = this.#parts;
        if (wholeBecause !== null)
          log.warn(
            { err: wholeBecause },
            'the backup has most of the disks, but is sent all: what was written since cannot be read',
          );
        log.info({ since, totalBytes }, 'the disks are sent');
      },
      onLost,
    });
    return mirrored;
  }

  async #connectNet(path: string | null): Promise<MachineSocket | null> {
    if (path === null) return null;
    const { gate, log } = this.#parts;
    return await connectMachineNet({ path, gate, log });
  }

  async #holdNet(
    capture: ThreadClient<CaptureMethods, CaptureEvent>,
    attached: AttachResult,
    ends: Pick<HeldNetOptions, 'guardian' | 'onLost'>,
  ): Promise<HeldNet | null> {
    const { gate, outlet, log, config } = this.#parts;
    if (config.netHold === 'none')
      log.warn(
        '--net hold=none: what the machine says leaves before it is safe; after a failover connections may have seen output that is lost',
      );
    const { heldNics: nicCount } = attached;
    if (nicCount === 0) return null;
    return await HeldNet.attach({ capture, gate, outlet, log, nicCount, ...ends });
  }

  stop(): void {
    this.#stopAsked = true;
    this.#running?.session.shutdown();
  }

  adjust(changes: PaceChanges): void {
    this.#running?.session.adjust(changes);
  }

  /** Begins the spreads of status anew, those of the output gate too. */
  resetSpreads(): void {
    const { session, heartbeat } = this.#mustRun();
    session.meters.resetSpreads();
    heartbeat.words.resetBeatGap();
    this.#parts.gate.delayMs.reset();
  }

  async scrub(): Promise<{ epoch: number; primary: string; backup: string; match: boolean }> {
    const { session } = this.#mustRun();
    return await session.scrub();
  }

  status(): NodeStatus {
    const blank = blankStatus(this.#parts, 'primary');
    const running = this.#running;
    if (running === null)
      return { ...blank, instance: this.#machine.instance, state: 'starting', why: 'attaching' };
    const { session, attached, mirrored, listener, heartbeat } = running;
    const core = session.core.status;
    const { meters } = session;
    return {
      ...blank,
      instance: this.#machine.instance,
      state: core.state,
      why: core.why,
      guest: attached.descriptor.name,
      generation: core.generation,
      epoch: core.takenEpoch,
      ackedEpoch: core.acknowledgedEpoch,
      appliedEpoch: core.appliedEpoch,
      releasedEpoch: core.releasedEpoch,
      intervalMs: core.effectiveIntervalMs,
      minIntervalMs: core.minIntervalMs,
      earlyCheckpoints: core.earlyCheckpoints,
      dirtyPages: meters.dirtyPages.spread,
      pauseMs: meters.pauseMs.spread,
      stopMs: meters.stopMs.spread,
      scanMs: meters.scanMs.spread,
      copyMs: meters.copyMs.spread,
      stateMs: meters.stateMs.spread,
      resumeMs: meters.resumeMs.spread,
      encodeMs: meters.encodeMs.spread,
      commitMs: meters.commitMs.spread,
      bytesRaw: meters.bytesRaw,
      bytesSent: meters.bytesSent,
      epochsSkipped: meters.epochsSkipped,
      queueBytes: session.queueBytes,
      sync: session.syncProgress,
      diskMode: attached.descriptor.diskMode,
      diskCount: attached.descriptor.disks.length,
      diskWaitingBytes: mirrored?.waitingBytes ?? 0,
      peer: session.peer,
      tracker: attached.trackerKind,
      linkPort: listener.port,
      heartbeatPort: heartbeat.port,
      ...heartbeatStatus(heartbeat.words),
    };
  }

  #mustRun(): Running {
    if (this.#running === null) throw new Error('the primary is starting');
    return this.#running;
  }

  #core(): Primary {
    const { config } = this.#parts;
    const { instance, epoch } = this.#machine;
    return new Primary({
      instance,
      firstEpoch: asEpoch(epoch + 1),
      intervalMs: config.intervalMs,
      minIntervalMs: config.minIntervalMs,
      promiseMargin: DEFAULT_PROMISE_MARGIN,
      onSilence: onSilenceOf(this.#parts.config),
      watermarks: {
        lowBytes: config.queueLowBytes,
        highBytes: config.queueHighBytes,
        limitBytes: 2 * config.queueHighBytes,
      },
      limits: { ...DEFAULT_PRIMARY_LIMITS, backlogMs: config.backlogLimitMs },
    });
  }
}
