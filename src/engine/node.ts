/**
 * A node: plays the roles that the register gives it, one after the other, until it is told to stop.
 *
 *     protect ──► primary ──► fenced ──► backup ──► primary ...
 *     backup  ──► backup  ──► primary ──► ...
 *
 * The output gate and the outside line live as long as the node; link, heartbeats and threads as
 * long as a role.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { openArbiter } from '../arbiters/index.ts';
import { RomulusError, toRomulusError } from '../base/errors.ts';
import { describeWord, force, type Instance, type RegisterWord } from '../core/register.ts';
import { endGuest, type MachineAddress } from '../guests/index.ts';
import { type Line, listenLine } from '../nets/line.ts';
import type { MachineSocket } from '../nets/machine-socket.ts';
import type { NetOutlet } from '../nets/net.ts';
import { OutletSwitch } from '../nets/outlet-switch.ts';
import { OutputGate } from '../nets/output-gate.ts';
import { Audit } from './audit.ts';
import { BackupRole } from './backup-role.ts';
import { nowMs } from './clock.ts';
import type { NodeConfig } from './config.ts';
import { HeartbeatAlarm } from './heartbeat-alarm.ts';
import type { NodeParts } from './node-parts.ts';
import { NodeState, type SavedMachine } from './node-state.ts';
import { PrimaryRole } from './primary-role.ts';
import type { PaceChanges } from './primary-session.ts';
import { PromoteHook } from './promote-hook.ts';
import type { Role, RoleOutcome, RunningMachine } from './role.ts';
import type { NodeEvent, NodeStatus } from './status.ts';

/** How long a partner may take, besides its promises, to take over from an engine that died. */
const PARTNER_WAIT_MS = 3000;
const PARTNER_POLL_MS = 100;
/** How often `progress` is told. */
const PROGRESS_MS = 200;
/** How often a promoted machine is attached to that cannot be at first, and how long after another. */
const ATTACH_TRIES_MAX = 10;
const ATTACH_AGAIN_MS = 1000;

/** One node, for one guest. */
export class Node {
  readonly #config: NodeConfig;
  readonly #log: Logger;
  readonly #audit: Audit;
  readonly #state: NodeState;
  readonly #listeners = new Set<(event: NodeEvent) => void>();
  #role: Role | null = null;
  #line: Line | null = null;
  /** Where frames from outside go: the machine of the present role, if it has one. */
  #machine: MachineSocket | null = null;
  #stopping = false;

  /** Takes a checked configuration; nothing happens before `run`. */
  constructor(config: NodeConfig, log: Logger) {
    this.#config = config;
    this.#log = log.child({ node: config.node });
    this.#state = new NodeState(config.stateDirectory);
    this.#audit = new Audit(config.auditFile ?? null);
  }

  /** Tells of all that happens; gives the way to stop being told. */
  onEvent(listener: (event: NodeEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** @throws {RomulusError} ERR_INTERNAL_NOT_STARTED before the first role. */
  status(): NodeStatus {
    return this.#current().status();
  }

  /** Changes what may be changed while running. */
  adjust(changes: PaceChanges): void {
    this.#primary('adjust').adjust(changes);
  }

  /** Begins the spreads of status anew, to see one stretch of time alone. */
  resetSpreads(): void {
    this.#current().resetSpreads();
  }

  /** Compares both images at the same epoch. */
  scrub(): Promise<{ epoch: number; primary: string; backup: string; match: boolean }> {
    return this.#primary('scrub').scrub();
  }

  /** Promotes a backup by hand. */
  async promote(options: { force: boolean }): Promise<{ started: boolean }> {
    const role = this.#current();
    if (!(role instanceof BackupRole))
      throw new RomulusError('ERR_USAGE_ROLE', 'this node is the primary already', {
        remedy: 'Ask the backup to promote.',
      });
    role.promote(options);
    return await Promise.resolve({ started: true });
  }

  /**
   * Plays roles until stopped.
   * @throws {RomulusError} when it cannot start, or was fenced and has no peer to follow.
   */
  async run(): Promise<void> {
    const arbiter = openArbiter(this.#config.arbiter, {
      ownWordPath: join(this.#config.stateDirectory, 'own-word.json'),
    });
    const outlet = new OutletSwitch(await this.#openLine());
    const gate = new OutputGate({ outlet, nowMs, mode: 'closed' });
    const emit = (event: NodeEvent): void => this.#emit(event);
    const promoteHook = new PromoteHook({
      command: this.#config.promoteHook ?? null,
      node: this.#config.node,
      log: this.#log,
      emit,
    });
    const parts: NodeParts = {
      config: this.#config,
      log: this.#log,
      audit: this.#audit,
      arbiter,
      gate,
      outlet,
      promoteHook,
      emit,
      saveMachine: (machine) => this.#state.save(machine),
      setMachine: (machine) => {
        this.#machine = machine;
      },
      netPort: this.#line?.port ?? null,
      report: (change) => {
        this.#log.info(change, `${change.role} ${change.state}: ${change.why}`);
        this.#emit({ event: 'state', ...change });
      },
    };
    const alarm = new HeartbeatAlarm(this.#config.heartbeatMs);
    const progress = setInterval(() => {
      if (this.#role === null) return;
      const status = this.#role.status();
      this.#emit({ event: 'progress', ...status });
      this.#tellAlarm(alarm.note(status, nowMs()));
    }, PROGRESS_MS);
    try {
      await this.#play(parts);
    } finally {
      clearInterval(progress);
      await promoteHook.settled();
      await this.#line?.close();
      await arbiter.close();
      this.#audit.close();
    }
  }

  /** Asks the present role to end cleanly; `run` then returns. Idempotent. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#role?.stop();
    await Promise.resolve();
  }

  async #play(parts: NodeParts): Promise<void> {
    let machine = await this.#machineToRun(parts);
    while (!this.#stopping) {
      const outcome =
        machine === null ? await this.#follow(parts) : await this.#protect(parts, machine);
      switch (outcome.kind) {
        case 'finished':
          this.#log.info(outcome.why);
          return;
        case 'guestLost':
        case 'fenced':
          this.#state.clear();
          this.#mustHavePeer(outcome.why);
          machine = null;
          break;
        case 'guestChanged':
          this.#log.warn(`${outcome.why}: protecting it anew`);
          machine = machine === null ? null : { ...machine, promoted: null, epoch: outcome.epoch };
          break;
        case 'promoted': {
          const { machine: promoted } = outcome;
          const { address, instance, epoch } = promoted;
          machine = { address, instance, promoted, epoch };
          break;
        }
      }
    }
  }

  #tellAlarm(alarm: ReturnType<HeartbeatAlarm['note']>): void {
    if (alarm === 'back') this.#log.info('heartbeats come through again');
    else if (alarm !== null) {
      const { code, message, remedy } = alarm;
      this.#log.warn({ code, remedy }, message);
      this.#emit({ event: 'error', code, message, remedy });
    }
  }

  async #follow(parts: NodeParts): Promise<RoleOutcome> {
    const role = new BackupRole(parts);
    this.#role = role;
    return await role.run();
  }

  /**
   * The term as primary of a machine. One that was just promoted runs already, by the register and in this
   * node's care: that it cannot be attached to, on a host that is busy with the failover, is no reason to
   * leave it unprotected for good.
   */
  async #protect(parts: NodeParts, machine: RunningMachine): Promise<RoleOutcome> {
    for (let attempt = 1, next = machine; ; attempt += 1) {
      const role = new PrimaryRole(parts, next);
      this.#role = role;
      try {
        return await role.run();
      } catch (error) {
        const { promoted } = next;
        if (promoted === null || role.hasRun || attempt === ATTACH_TRIES_MAX) throw error;
        const { message } = toRomulusError(error);
        if (this.#state.living() === null)
          return {
            kind: 'guestLost',
            why: `the machine ended before it was attached to: ${message}`,
          };
        this.#log.error(
          { error: toRomulusError(error).toJSON(), attempt },
          'cannot attach; again soon',
        );
        await sleep(ATTACH_AGAIN_MS);
        if (this.#stopping) return { kind: 'finished', why: 'stopped; the machine runs on' };
        next = { ...next, promoted: { ...promoted, net: null } };
      }
    }
  }

  /** The machine this node should run now, or null when it should follow another. */
  async #machineToRun(parts: NodeParts): Promise<RunningMachine | null> {
    const living = this.#state.living();
    const word = await parts.arbiter.read();
    if (living !== null) {
      const machine = {
        address: addressOf(living),
        instance: living.instance,
        promoted: null,
        epoch: 0,
      };
      if (word?.runner === living.instance) return machine;
      if (word !== null) {
        await this.#fenceOff(addressOf(living), word);
        return null;
      }
      // Nothing was asked of the register in its name yet.
      if (this.#config.role === 'protect') return machine;
    }
    if (this.#config.role === 'backup') return null;
    const address = this.#configured();
    if (address === null) return null;
    const instance = `${this.#config.node}#${randomBytes(4).toString('hex')}`;
    if (word !== null && !(await this.#takeOver(parts, word, instance))) {
      if (this.#stopping) return null;
      await this.#fenceOff(address, word);
      return null;
    }
    return { address, instance, promoted: null, epoch: 0 };
  }

  /**
   * A word left by this very node, whose notes of its machine are gone: the machine that it was told
   * to protect may take the place, unless the partner named in the word takes over meanwhile.
   */
  async #takeOver(parts: NodeParts, word: RegisterWord, instance: Instance): Promise<boolean> {
    const current = await this.#afterPartner(parts, word);
    if (current === null || !this.#isOurs(current)) return false;
    const { won } = await parts.arbiter.compareAndSet(current, force(current, instance));
    return won;
  }

  #isOurs(word: RegisterWord): boolean {
    return word.runner.startsWith(`${this.#config.node}#`);
  }

  /** The word once its partner took over, or had the time to: it does as soon as it misses us. */
  async #afterPartner(
    { arbiter, config }: NodeParts,
    word: RegisterWord,
  ): Promise<RegisterWord | null> {
    let current: RegisterWord | null = word;
    const untilMs = nowMs() + PARTNER_WAIT_MS + 2 * config.promiseMs;
    if (word.partner !== null && this.#isOurs(word))
      this.#log.warn(
        `the register names ${describeWord(word)}: waiting for the partner to take over`,
      );
    while (current !== null && this.#isOurs(current) && current.partner !== null) {
      if (this.#stopping) return null;
      if (nowMs() > untilMs) break;
      await sleep(PARTNER_POLL_MS);
      current = await arbiter.read();
    }
    return current;
  }

  /** A machine is here, and another has the right to run: said aloud, since its owner may not expect it. */
  async #fenceOff(address: MachineAddress, word: RegisterWord): Promise<void> {
    const why = `the register names ${describeWord(word)}; the machine at ${address.controlPath} is ended`;
    this.#log.error(why);
    this.#audit.record('fenced', { why });
    this.#emit({ event: 'fenced', why });
    await this.#endMachine(address);
    this.#state.clear();
    this.#mustHavePeer(why);
  }

  /** The machine that the configuration names. */
  #configured(): MachineAddress | null {
    const { guest: kind, simSocket, qmpSocket, qemuPid } = this.#config;
    const controlPath = kind === 'sim' ? simSocket : qmpSocket;
    if (controlPath === undefined) return null;
    return { kind, controlPath, ...(qemuPid !== undefined && { pid: qemuPid }) };
  }

  async #endMachine(address: MachineAddress): Promise<void> {
    try {
      await endGuest(address);
    } catch (error) {
      // A machine that is gone already needs no ending.
      this.#log.info({ machine: address.controlPath, error }, 'no machine to end');
    }
  }

  #mustHavePeer(why: string): void {
    if (this.#config.peer !== undefined) return;
    throw new RomulusError('ERR_FENCED_NO_PEER', `this node may not run its machine: ${why}`, {
      remedy: 'Start it again with --peer, and it follows the other node as its backup.',
    });
  }

  async #openLine(): Promise<NetOutlet> {
    const { netListen } = this.#config;
    if (netListen === undefined) return NO_LINE;
    this.#line = await listenLine({
      host: netListen.host,
      port: netListen.port,
      onFrame: (frame) => {
        this.#machine?.send(frame);
      },
      onDropped: (why) => this.#log.warn({ why }, 'a listener was dropped'),
    });
    return this.#line;
  }

  #current(): Role {
    if (this.#role === null)
      throw new RomulusError('ERR_INTERNAL_NOT_STARTED', 'the node is starting', {
        remedy: 'Ask again in a moment.',
      });
    return this.#role;
  }

  #primary(verb: string): PrimaryRole {
    const role = this.#current();
    if (role instanceof PrimaryRole) return role;
    throw new RomulusError('ERR_USAGE_ROLE', `a backup cannot ${verb}`, {
      remedy: 'Ask the primary.',
    });
  }

  #emit(event: NodeEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}

function addressOf(saved: SavedMachine): MachineAddress {
  return { kind: saved.kind, controlPath: saved.socketPath, pid: saved.pid };
}

/** Without an outside line, what leaves goes nowhere. */
const NO_LINE: NetOutlet = {
  ready: true,
  write: (): void => undefined,
  onReady: (): void => undefined,
};
