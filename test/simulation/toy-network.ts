/**
 * What is between the two nodes: connections that keep order until they are cut, and single
 * messages (heartbeats) that may get lost. A partition may be one-way; what a connection carried
 * into a partition arrives when it heals, or never. `hostile` seeds lose, repeat and re-order even
 * on connections: the machines must then be safe, if not quick.
 */
import type { RegisterWord } from '../../src/core/register.ts';
import type { SyncPlan } from '../../src/core/primary-types.ts';
import type { GuestState } from './toy-guest.ts';
import type { World } from './world.ts';

export interface EpochMessage {
  readonly kind: 'epoch';
  readonly epoch: number;
  readonly pages: readonly { readonly index: number; readonly value: number }[];
  readonly seq: number;
  readonly attachmentId: number;
  readonly framesSent: number;
  /** What the primary's state was at this boundary; only the checks look at it. */
  readonly truth: GuestState;
}

export type Message =
  | { readonly kind: 'hello'; readonly holds: { instance: string; epoch: number } | null }
  | {
      readonly kind: 'welcome';
      readonly plan: SyncPlan;
      readonly fromEpoch: number;
      readonly generation: RegisterWord['generation'];
      readonly runner: string;
    }
  | { readonly kind: 'refused'; readonly text: string }
  | { readonly kind: 'ready'; readonly instance: string }
  | { readonly kind: 'base'; readonly batch: number; readonly pages: EpochMessage['pages'] }
  /** The digest covers the batches in the order they were sent, as on the real link. */
  | { readonly kind: 'baseEnd'; readonly digest: number }
  | EpochMessage
  | {
      readonly kind: 'ack';
      readonly instance: string;
      readonly epoch: number;
      readonly promiseMs: number;
    }
  | { readonly kind: 'applied'; readonly instance: string; readonly epoch: number }
  | {
      readonly kind: 'paired';
      readonly generation: RegisterWord['generation'];
      readonly instance: string;
    }
  | { readonly kind: 'goodbye'; readonly reason: 'shutdown' | 'guest-lost' | 'fenced' };

/** The digest of a base image after one more batch. */
export function digestBatch(digest: number, batch: number): number {
  return (Math.imul(digest, 31) + batch) | 0;
}

export interface Endpoint {
  readonly name: string;
  receive(linkId: number, message: Message): void;
  closed(linkId: number, why: string): void;
}

interface Connection {
  readonly linkId: number;
  readonly primary: Endpoint;
  readonly backup: Endpoint;
  /** Ends that have not closed, or heard of the close, yet. */
  readonly open: Set<Endpoint>;
  /** When the last message each way arrives: later ones come after. */
  readonly arrivalMs: Map<Endpoint, number>;
}

export class ToyNetwork {
  /** Directions that carry nothing now, as `from>to`. */
  readonly blocked = new Set<string>();
  latencyMsMax = 1;
  /** Connections, not heartbeats, are this much slower at most. */
  bulkDelayMsMax = 0;
  heartbeatLoss = 0;
  /** Probability that a connection loses, repeats or re-orders a message. */
  hostility = 0;
  readonly #world: World;
  readonly #connections = new Map<number, Connection>();
  #parked: { connection: Connection; to: Endpoint; message: Message; direction: string }[] = [];
  #nextLinkId = 1;

  constructor(world: World) {
    this.#world = world;
  }

  isBlocked(from: string, to: string): boolean {
    return this.blocked.has(`${from}>${to}`);
  }

  connect(backup: Endpoint, primary: Endpoint): number {
    const linkId = this.#nextLinkId;
    this.#nextLinkId += 1;
    this.#connections.set(linkId, {
      linkId,
      primary,
      backup,
      open: new Set([primary, backup]),
      arrivalMs: new Map(),
    });
    return linkId;
  }

  send(linkId: number, from: Endpoint, message: Message): void {
    const connection = this.#connections.get(linkId);
    if (connection === undefined || !connection.open.has(from)) return;
    const to = from === connection.primary ? connection.backup : connection.primary;
    const direction = `${from.name}>${to.name}`;
    if (this.blocked.has(direction)) {
      this.#parked.push({ connection, to, message, direction });
      return;
    }
    const { random } = this.#world;
    if (this.hostility > 0 && random.chance(this.hostility)) {
      const fate = random.nextBelow(3);
      if (fate === 0) return;
      if (fate === 1) this.#deliver(connection, to, message, false);
    }
    const isOrderly = this.hostility === 0 || !random.chance(this.hostility);
    this.#deliver(connection, to, message, isOrderly);
  }

  #deliver(connection: Connection, to: Endpoint, message: Message, isOrderly: boolean): void {
    const bulkDelayMs = this.bulkDelayMsMax * this.#world.random.nextFloat();
    const soonestMs = this.#world.nowMs + this.#latencyMs() + bulkDelayMs;
    let atMs = soonestMs;
    if (isOrderly) {
      atMs = Math.max(soonestMs, connection.arrivalMs.get(to) ?? 0);
      connection.arrivalMs.set(to, atMs);
    } else {
      atMs += this.#world.between(0, 5);
    }
    this.#world.after(atMs - this.#world.nowMs, () => {
      if (connection.open.has(to)) to.receive(connection.linkId, message);
    });
  }

  /** One end lets go; the other hears of it, unless the way is blocked. */
  close(linkId: number, by: Endpoint, why: string): void {
    const connection = this.#connections.get(linkId);
    if (connection === undefined || !connection.open.delete(by)) return;
    const other = by === connection.primary ? connection.backup : connection.primary;
    if (!connection.open.has(other)) this.#connections.delete(linkId);
    else if (!this.isBlocked(by.name, other.name)) this.#tellClosed(connection, other, why);
  }

  #tellClosed(connection: Connection, end: Endpoint, why: string): void {
    const atMs = Math.max(
      this.#world.nowMs + this.#latencyMs(),
      connection.arrivalMs.get(end) ?? 0,
    );
    this.#world.after(atMs - this.#world.nowMs, () => {
      if (!connection.open.delete(end)) return;
      if (connection.open.size === 0) this.#connections.delete(connection.linkId);
      end.closed(connection.linkId, why);
    });
  }

  /** Every connection of a process that died is reset. */
  died(endpoint: Endpoint): void {
    for (const connection of this.#connections.values()) {
      if (connection.open.has(endpoint)) this.close(connection.linkId, endpoint, 'reset');
    }
  }

  /** Cuts every connection, both ends told. */
  cutAll(): void {
    for (const connection of this.#connections.values()) {
      for (const end of connection.open) this.#tellClosed(connection, end, 'cut');
    }
  }

  /** A heartbeat or its answer: one message, no connection. */
  ping(from: string, to: string, arrive: () => void): void {
    if (this.isBlocked(from, to) || this.#world.random.chance(this.heartbeatLoss)) return;
    this.#world.after(this.#latencyMs(), arrive);
  }

  unblock(direction: string): void {
    if (!this.blocked.delete(direction)) return;
    const arrives = this.#world.random.chance(0.5);
    const parked = this.#parked.filter((item) => item.direction === direction);
    this.#parked = this.#parked.filter((item) => item.direction !== direction);
    for (const { connection, to, message } of parked) {
      if (arrives) this.#deliver(connection, to, message, true);
    }
    // Ends that closed behind the partition are heard of now.
    const [from] = direction.split('>');
    for (const connection of this.#connections.values()) {
      const sender = connection.primary.name === from ? connection.primary : connection.backup;
      const other = sender === connection.primary ? connection.backup : connection.primary;
      if (!connection.open.has(sender) || (!arrives && parked.length > 0)) {
        this.#tellClosed(connection, other, 'reset after a partition');
        if (connection.open.has(sender))
          this.#tellClosed(connection, sender, 'reset after a partition');
      }
    }
  }

  #latencyMs(): number {
    const { random } = this.#world;
    return random.chance(0.1)
      ? this.#world.between(0.05, this.latencyMsMax)
      : this.#world.between(0.05, 0.4);
  }
}
