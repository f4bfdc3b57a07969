/**
 * One host with whatever runs on it: at most one guest, at most one engine. It outlives both, and
 * starts what died again, in the role that an operator's service manager would.
 */
import type { RegisterAnswer, RegisterRequest } from '../../src/core/register-client.ts';
import type { RegisterWord } from '../../src/core/register.ts';
import { BackupProcess } from './backup-process.ts';
import type { Cluster } from './cluster.ts';
import { NamedByHost } from './named-by-host.ts';
import { OwnWord } from './own-word.ts';
import { PrimaryProcess } from './primary-process.ts';
import { Host } from './process.ts';
import { ToyGate } from './toy-gate.ts';
import { EMPTY_STATE, type Frame, ToyGuest } from './toy-guest.ts';
import type { Endpoint, Message } from './toy-network.ts';

export class Site implements Endpoint {
  readonly cluster: Cluster;
  readonly host: Host;
  engine: PrimaryProcess | BackupProcess | null = null;
  guest: ToyGuest | null = null;
  /** Longest time a dead engine stays down, in milliseconds. */
  downMsMax = 60;
  #nextInstance = 1;
  readonly #byHost = new NamedByHost(this);
  readonly #ownWord: OwnWord;
  readonly #clocks = new Map<ToyGate, (untilMs: number) => boolean>();

  constructor(cluster: Cluster, name: string) {
    this.cluster = cluster;
    this.host = new Host(cluster.world, name);
    this.#ownWord = new OwnWord(cluster.world);
  }

  get name(): string {
    return this.host.name;
  }

  get peer(): Site {
    return this.cluster.peerOf(this);
  }

  newInstance(): string {
    const instance = `${this.name}#${this.#nextInstance}`;
    this.#nextInstance += 1;
    return instance;
  }

  newGate(instance: string): ToyGate {
    const gate: ToyGate = new ToyGate({
      attachmentId: this.cluster.nextAttachmentId(),
      instance,
      checks: this.cluster.checks,
      mayWrite: (untilMs) => this.#clocks.get(gate)?.(untilMs) ?? false,
    });
    return gate;
  }

  /** From now on this engine's clock and promises decide for the gate. */
  useGate(gate: ToyGate, mayWrite: (untilMs: number) => boolean): void {
    this.#clocks.set(gate, mayWrite);
  }

  /** A frame of a promoted guest, whichever machine drives its engine by now. */
  frame(gate: ToyGate, frame: Frame): void {
    this.engine?.run(() => gate.frame(frame));
  }

  startGuestAndPrimary(): void {
    const instance = this.newInstance();
    this.guest = new ToyGuest(this.cluster.world, instance, instance, EMPTY_STATE);
    this.guest.run();
    this.startEngine();
  }

  /** Beside a living guest the engine protects it; otherwise it waits to be given an image. */
  startEngine(): void {
    if (this.guest?.isAlive === true) {
      this.cluster.world.trace(this.name, () => '*** engine starts beside its guest');
      this.engine = new PrimaryProcess(this, this.guest, null, null);
    } else {
      this.cluster.world.trace(this.name, () => '*** engine starts as a backup');
      this.guest = null;
      this.engine = new BackupProcess(this);
    }
  }

  adoptGuest(guest: ToyGuest): void {
    this.guest = guest;
  }

  becomePrimary(guest: ToyGuest, gate: ToyGate, word: RegisterWord, epoch: number): void {
    this.engine?.die();
    this.cluster.network.died(this);
    this.engine = new PrimaryProcess(this, guest, gate, { word, epoch });
  }

  // ---- ends and beginnings

  crash(what: 'engine' | 'both'): void {
    const { world, network } = this.cluster;
    if (this.engine === null) return;
    world.trace(this.name, () => `*** crash: ${what}`);
    this.engine.die();
    this.engine = null;
    this.guest?.detach();
    if (what === 'both') this.guest?.kill();
    network.died(this);
    // The peer's heartbeat connection is reset.
    network.ping(this.name, this.peer.name, () => this.peer.engine?.accuse('connection reset', 0));
    this.#startAgainSoon();
  }

  loseGuest(): void {
    const { engine, guest } = this;
    if (!(engine instanceof PrimaryProcess) || guest === null || !guest.isAlive) return;
    this.cluster.world.trace(this.name, () => '*** guest dies');
    guest.kill();
    engine.dispatch({ kind: 'guestLost', why: 'killed' });
    this.#replaceSoon(engine);
  }

  primaryFenced(): void {
    if (this.engine !== null) this.#replaceSoon(this.engine);
  }

  /** A clean shutdown is over: the guest stays, an operator starts the engine again. */
  primaryFinished(): void {
    if (this.engine !== null) this.#replaceSoon(this.engine);
  }

  #replaceSoon(engine: PrimaryProcess | BackupProcess): void {
    this.cluster.world.after(this.cluster.world.between(1, this.downMsMax), () => {
      if (this.engine !== engine) return;
      engine.die();
      this.cluster.network.died(this);
      this.guest?.detach();
      this.engine = null;
      this.startEngine();
    });
  }

  #startAgainSoon(): void {
    this.cluster.world.after(this.cluster.world.between(1, this.downMsMax), () => {
      if (this.engine !== null) return;
      if (this.guest?.isAlive === true) this.cluster.checks.tally.restartsBesideGuest += 1;
      this.startEngine();
    });
  }

  // ---- what the engines do to the world

  dial(): number | null {
    const { network } = this.cluster;
    const { peer } = this;
    if (network.isBlocked(this.name, peer.name) || network.isBlocked(peer.name, this.name)) {
      return null;
    }
    return peer.engine instanceof PrimaryProcess ? network.connect(this, peer) : null;
  }

  receive(linkId: number, message: Message): void {
    this.engine?.receive(linkId, message);
  }

  closed(linkId: number, why: string): void {
    this.engine?.closed(linkId, why);
  }

  sendHeartbeat(sentAtMs: number): void {
    const { network } = this.cluster;
    const sender = this.engine;
    const { peer } = this;
    network.ping(this.name, peer.name, () => {
      if (!(peer.engine instanceof BackupProcess)) return;
      peer.engine.ping((instance, promiseMs) => {
        network.ping(peer.name, this.name, () => {
          if (sender instanceof PrimaryProcess && this.engine === sender) {
            sender.pong(sentAtMs, instance, promiseMs);
          }
        });
      });
    });
  }

  askRegister(request: RegisterRequest, answer: (answer: RegisterAnswer) => void): void {
    const { arbiter, rules, onSilence } = this.cluster;
    if (onSilence !== 'arbiter') this.#ownWord.ask(request, answer);
    else if (rules.instances) arbiter.ask(this.name, request, answer);
    else this.#byHost.ask(request, answer);
  }
}
