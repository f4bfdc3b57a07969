/**
 * The primary's links with backups: takes them as they dial, turns what they say into the core's
 * events, and gives them messages and epochs in order. A peer is not trusted: what breaks the
 * protocol ends its link, and what does not fit what it was sent proves nothing.
 */
import type { Logger } from 'pino';
import { RomulusError, toRomulusError } from '../base/errors.ts';
import { type Epoch, type Generation, NO_EPOCH } from '../base/units.ts';
import type { Frame } from '../codec/frame.ts';
import { type AckMessage, decodeMessage, encodeMessage, type Message } from '../codec/messages.ts';
import type { Primary } from '../core/primary.ts';
import type { PrimaryEvent } from '../core/primary-types.ts';
import type { GuestDescriptor } from '../guests/guest.ts';
import type { Link } from '../links/link.ts';
import type { Heartbeat } from '../signals/heartbeat.ts';
import type { CheckpointPipeline } from './checkpoint-pipeline.ts';
import { nowMs } from './clock.ts';
import type { QueuedEpoch } from './epoch-queue.ts';
import type { NodeParts } from './node-parts.ts';
import { Outbox } from './outbox.ts';
import { noBackup, type Peer, sameMachine } from './primary-peer.ts';
import type { Scrub } from './scrub.ts';
import type { PeerStatus } from './status.ts';

export interface BackupLinksOptions {
  readonly parts: NodeParts;
  readonly heartbeat: Heartbeat;
  readonly core: Primary;
  readonly descriptor: GuestDescriptor;
  readonly pipeline: CheckpointPipeline;
  readonly scrub: Scrub;
  /** Hands an event to the core and carries out what it answers. */
  readonly step: (event: PrimaryEvent) => void;
}

/** All backups that dialled this primary and have not gone. */
export class BackupLinks {
  readonly #options: BackupLinksOptions;
  readonly #log: Logger;
  readonly #peers = new Map<number, Peer>();
  #nextLinkId = 1;

  constructor(options: BackupLinksOptions) {
    this.#options = options;
    this.#log = options.parts.log;
  }

  /** Who has introduced itself, for status. */
  get known(): PeerStatus | null {
    const peer = [...this.#peers.values()].find((candidate) => candidate.node !== '');
    if (peer === undefined) return null;
    return { node: peer.node, instance: peer.instance ?? '', connected: true };
  }

  /** The backup that is paired or about to be. */
  get partner(): Peer | null {
    const { state } = this.#options.core.status;
    if (state !== 'protected' && state !== 'backlogged') return null;
    return [...this.#peers.values()].find(({ instance }) => instance !== null) ?? null;
  }

  get(linkId: number): Peer | undefined {
    return this.#peers.get(linkId);
  }

  /** A backup dialled. */
  accept(link: Link): void {
    const linkId = this.#nextLinkId;
    this.#nextLinkId += 1;
    const peer: Peer = {
      linkId,
      link,
      outbox: new Outbox(link),
      node: '',
      held: null,
      instance: null,
      since: NO_EPOCH,
      sentAtMs: new Map(),
      knowsPaused: false,
      complaint: null,
    };
    this.#peers.set(linkId, peer);
    link.onMessage((frame) => {
      try {
        this.#onMessage(peer, this.#decode(frame));
      } catch (error) {
        const known = toRomulusError(error);
        this.#log.error({ error: known.toJSON(), linkId }, 'the backup broke the protocol');
        link.close(known);
      }
    });
    link.onClose((reason) => this.#onClose(peer, reason.text));
  }

  send(peer: Peer, message: Message): void {
    const { generation } = this.#options.core.status;
    peer.outbox.send(encodeMessage(message, { generation }));
  }

  /** Sends to whoever is on this link; nobody may be there any more. */
  sendTo(linkId: number, message: Message): void {
    const peer = this.#peers.get(linkId);
    if (peer !== undefined) this.send(peer, message);
  }

  /** Whether everything for every backup has left this process. */
  get allSent(): boolean {
    return [...this.#peers.values()].every(({ outbox }) => outbox.queuedBytes === 0);
  }

  /** Sends an epoch to one backup. */
  transmit(peer: Peer, queued: QueuedEpoch): void {
    const last = queued.frames.length - 1;
    // The promise counts from here: not later than the last byte leaves.
    const note = (): void => {
      peer.sentAtMs.set(queued.epoch, nowMs());
    };
    peer.outbox.together(() => {
      queued.frames.forEach((frame, index) => {
        peer.outbox.send(frame, index === last ? note : undefined);
      });
    });
  }

  /** Sends an epoch to every backup that has an image to apply it to. The machine runs. */
  transmitToAll(queued: QueuedEpoch): void {
    for (const peer of this.#peers.values()) {
      peer.knowsPaused = false;
      if (peer.instance !== null) this.transmit(peer, queued);
    }
  }

  /** What its user paused, no copy may run: says so once to each, after this epoch. */
  tellPaused(epoch: Epoch): void {
    for (const peer of this.#peers.values()) {
      if (peer.instance === null || peer.knowsPaused || epoch < 1) continue;
      peer.knowsPaused = true;
      this.send(peer, { kind: 'machinePaused', epoch });
    }
  }

  close(linkId: number): void {
    this.#peers.get(linkId)?.link.close();
  }

  closeAll(error?: RomulusError): void {
    for (const peer of this.#peers.values()) peer.link.close(error);
  }

  #onClose(peer: Peer, text: string): void {
    const { linkId } = peer;
    const { pipeline, scrub, step } = this.#options;
    this.#peers.delete(linkId);
    pipeline.stopSync(text, linkId);
    if (peer.instance !== null) scrub.fail(noBackup(text));
    const why = peer.complaint === null ? text : `${peer.node}: ${peer.complaint}`;
    step({ kind: 'linkClosed', linkId, why });
  }

  /** @throws {RomulusError} ERR_PROTOCOL_GENERATION besides what decoding throws. */
  #decode(frame: Frame): Message {
    const generation: Generation = this.#options.core.status.generation;
    // A backup that has heard of a later word than ours knows better who runs.
    if (frame.generation > generation && frame.kind !== 'hello')
      throw new RomulusError(
        'ERR_PROTOCOL_GENERATION',
        `a frame of generation ${frame.generation}, ours is ${generation}`,
        { remedy: 'The link is dropped; the register says who runs.' },
      );
    return decodeMessage(frame);
  }

  #onMessage(peer: Peer, message: Message): void {
    const { linkId } = peer;
    const { heartbeat, pipeline, scrub, descriptor, step } = this.#options;
    heartbeat.noteLinkHeard();
    switch (message.kind) {
      case 'hello': {
        peer.node = message.node;
        peer.held = message.lastApplied?.instance ?? null;
        const { lastApplied } = message;
        const { lineageIntact, ...kept } = pipeline.proofs;
        return step({
          kind: 'backupHello',
          linkId,
          node: message.node,
          holds: lineageIntact ? lastApplied : null,
          descriptorMatches: sameMachine(message.guest, descriptor),
          ...kept,
        });
      }
      case 'ready':
        peer.instance = message.instance;
        return step({ kind: 'backupReady', linkId, instance: message.instance });
      case 'ack':
        return this.#onAcknowledgement(peer, message);
      case 'applied': {
        const { instance, epoch } = message;
        return step({ kind: 'applied', linkId, instance, epoch });
      }
      case 'scrubReply':
        return scrub.noteBackup(message.epoch, message.digest);
      case 'error':
        peer.complaint = `${message.message}. ${message.remedy}`;
        this.#log.warn(
          { peer: peer.node, code: message.code, remedy: message.remedy },
          message.message,
        );
        return;
      case 'goodbye':
        this.#log.info({ peer: peer.node, reason: message.reason }, message.text);
        return;
      default:
        this.#log.warn({ kind: message.kind }, 'a backup sent what only a primary may');
        peer.link.close();
    }
  }

  #onAcknowledgement(peer: Peer, message: AckMessage): void {
    const { epoch, instance, promiseUs } = message;
    const sentAtMs = peer.sentAtMs.get(epoch);
    // An acknowledgement of what was never sent here, or for another image, proves nothing.
    if (sentAtMs === undefined || instance !== peer.instance) return;
    for (const sent of peer.sentAtMs.keys()) if (sent <= epoch) peer.sentAtMs.delete(sent);
    const { parts, pipeline, step } = this.#options;
    pipeline.queue.acknowledge(epoch);
    parts.audit.record('ack-received', { epoch });
    const { linkId } = peer;
    const promiseMs = promiseUs / 1000;
    step({ kind: 'acknowledged', linkId, instance, epoch, promiseMs, sentAtMs });
    step({ kind: 'queueLevel', bytes: pipeline.queue.unackedBytes });
  }
}
