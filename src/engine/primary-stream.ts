/**
 * What the primary sends, on the one link there is: checks it, collects it into whole epochs, hands
 * the base image on, and turns messages into the core's events. A primary is not trusted either:
 * what breaks the protocol ends the link.
 */
import type { Logger } from 'pino';
import { assert } from '../base/assert.ts';
import { RomulusError, toRomulusError } from '../base/errors.ts';
import { type Epoch, NO_GENERATION } from '../base/units.ts';
import { PayloadDigest } from '../codec/checksum.ts';
import type { Frame } from '../codec/frame.ts';
import {
  type BaseEndMessage,
  decodeMessage,
  encodeMessage,
  type Message,
  type WelcomeMessage,
} from '../codec/messages.ts';
import type { Backup } from '../core/backup.ts';
import type { BackupEvent } from '../core/backup-types.ts';
import type { Link } from '../links/link.ts';
import type { BackupImage } from './backup-image.ts';
import { nowNs } from './clock.ts';
import { EpochAssembler, type WholeEpoch } from './epoch-assembler.ts';
import type { NodeParts } from './node-parts.ts';
import type { PrimaryWatch } from './primary-watch.ts';
import type { PeerStatus } from './status.ts';

export interface PrimaryStreamOptions {
  readonly parts: NodeParts;
  readonly core: Backup;
  readonly image: BackupImage;
  readonly watch: PrimaryWatch;
  /** Hands an event to the core and carries out what it answers. */
  readonly step: (event: BackupEvent) => void;
}

export class PrimaryStream {
  readonly #options: PrimaryStreamOptions;
  readonly #log: Logger;
  readonly #assembler = new EpochAssembler();
  #link: { readonly id: number; readonly link: Link } | null = null;
  #nextLinkId = 1;
  #welcome: WelcomeMessage | null = null;
  readonly #received = new Map<number, WholeEpoch>();
  #scrubAsked: { readonly linkId: number; readonly epoch: Epoch } | null = null;
  /** The machine stands since this epoch, because its user paused it; null: it runs. */
  #pausedSince: Epoch | null = null;
  /** What came of the base image. */
  #base = { frames: 0, digest: new PayloadDigest() };
  #bytesReceived = 0;
  /** Too much waits to be applied: nothing but a welcome is read. */
  #isPaused = false;

  constructor(options: PrimaryStreamOptions) {
    this.#options = options;
    this.#log = options.parts.log;
  }

  get bytesReceived(): number {
    return this.#bytesReceived;
  }

  get peer(): PeerStatus | null {
    if (this.#welcome === null) return null;
    const { node, instance } = this.#welcome;
    return { node, instance, connected: this.#link !== null };
  }

  /** Its user had paused the machine when we last heard. */
  get isMachinePaused(): boolean {
    return this.#pausedSince !== null;
  }

  /** The primary answered the dial. */
  connected(link: Link): void {
    const { watch, step } = this.#options;
    const id = this.#nextLinkId;
    this.#nextLinkId += 1;
    this.#link = { id, link };
    this.#assembler.discard();
    link.onMessage((frame) => {
      if (this.#link?.id !== id) return;
      try {
        this.#onFrame(id, frame);
      } catch (error) {
        const known = toRomulusError(error);
        this.#log.error({ error: known.toJSON() }, 'the primary broke the protocol');
        link.close(known);
      }
    });
    link.onClose((reason) => {
      if (this.#link?.id === id) this.#link = null;
      watch.noteLink('closed', reason.text);
      this.#assembler.discard();
      step({ kind: 'linkClosed', linkId: id, why: reason.text });
    });
    watch.noteLink('open', 'open');
    step({ kind: 'linkUp', linkId: id });
  }

  /** Reads the link no further, or goes on. */
  setPaused(isPaused: boolean): void {
    this.#isPaused = isPaused;
    if (isPaused) this.#link?.link.pause();
    else this.#link?.link.resume();
  }

  /** Sends on this link, if it is still the one. */
  send(linkId: number, message: Message): void {
    const generation = this.#options.core.status.generation ?? NO_GENERATION;
    this.#linkOf(linkId)?.send(encodeMessage(message, { generation }));
  }

  /** Sends on whatever link there is. */
  sendNow(message: Message): void {
    if (this.#link !== null) this.send(this.#link.id, message);
  }

  drop(linkId: number, error: RomulusError): void {
    this.#linkOf(linkId)?.close(error);
  }

  /** Throws away what came of an epoch that is not whole. */
  discardPartialEpoch(): void {
    this.#assembler.discard();
  }

  /** A base image begins on this link; gives the welcome that announced it. */
  beginBase(): WelcomeMessage {
    assert(this.#welcome !== null, 'an image is prepared for a welcome');
    this.#base = { frames: 0, digest: new PayloadDigest() };
    return this.#welcome;
  }

  /** The received epoch that the core hands on, once; with the comparison asked for at it, if any. */
  takeReceived(epoch: Epoch): {
    whole: WholeEpoch;
    digestWanted: ((digest: string) => void) | null;
  } {
    const whole = this.#received.get(epoch);
    assert(whole !== undefined, `epoch ${epoch} is applied but was not received`);
    this.#received.delete(epoch);
    const asked = this.#scrubAsked;
    if (asked === null || epoch < asked.epoch) return { whole, digestWanted: null };
    this.#scrubAsked = null;
    const digestWanted = (digest: string): void =>
      this.send(asked.linkId, { kind: 'scrubReply', epoch, digest });
    return { whole, digestWanted };
  }

  /** Ends the link, if there is one, and hears nothing more. */
  close(): void {
    this.#link?.link.close();
    this.#link = null;
  }

  #linkOf(linkId: number): Link | null {
    return this.#link?.id === linkId ? this.#link.link : null;
  }

  #onFrame(linkId: number, frame: Frame): void {
    this.#bytesReceived += frame.payload.byteLength;
    this.#options.watch.words.noteLinkHeard(nowNs());
    switch (frame.kind) {
      case 'baseImage':
      case 'baseDisk':
        this.#base.frames += 1;
        this.#base.digest.add(frame.payloadCrc);
        return this.#options.image.base(frame);
      case 'pages':
      case 'disk':
      case 'deviceState':
      case 'outputMark':
        return this.#assembler.add(frame);
      default:
        this.#onMessage(linkId, frame, decodeMessage(frame));
    }
  }

  #onMessage(linkId: number, frame: Frame, message: Message): void {
    const { step } = this.#options;
    switch (message.kind) {
      case 'welcome':
        return this.#onWelcome(linkId, frame, message);
      case 'epochBegin':
        return this.#assembler.begin(message.epoch);
      case 'epochEnd': {
        const whole = this.#assembler.end(message);
        if (whole !== null) this.#received.set(whole.epoch, whole);
        this.#pausedSince = null;
        const { epoch } = message;
        const bytes = whole?.bytes ?? 0;
        step({ kind: 'epochReceived', linkId, epoch, intact: whole !== null, bytes });
        // What the core did not hand on is not wanted: late, repeated, or not whole.
        this.#received.delete(epoch);
        return;
      }
      case 'baseEnd':
        return this.#onBaseEnd(linkId, message);
      case 'paired': {
        const { generation, instance } = message;
        return step({ kind: 'paired', linkId, generation, instance });
      }
      case 'scrubRequest':
        this.#scrubAsked = { linkId, epoch: message.epoch };
        return;
      case 'machinePaused':
        this.#pausedSince = message.epoch;
        this.#log.info({ epoch: message.epoch }, 'the machine was paused by its user');
        return;
      case 'goodbye': {
        const { reason, text } = message;
        this.#log.info({ reason }, text);
        if (reason === 'shutdown' || reason === 'guest-lost' || reason === 'fenced')
          step({ kind: 'goodbye', linkId, reason, text });
        return;
      }
      case 'error':
        return this.#onComplaint(message);
      default:
        throw new RomulusError('ERR_PROTOCOL_ROLE', `a primary may not send ${message.kind}`, {
          remedy: 'Check that the peer address is that of a primary.',
        });
    }
  }

  #onComplaint({ code, message, remedy }: Message & { kind: 'error' }): void {
    const { core, image, parts } = this.#options;
    // It cannot give the image, and will not be able to in a moment.
    if (core.status.state === 'syncing') image.rest();
    this.#log.warn({ code, remedy }, message);
    parts.emit({ event: 'error', code, message, remedy });
  }

  #onWelcome(linkId: number, frame: Frame, message: WelcomeMessage): void {
    const { parts, watch, step } = this.#options;
    const { config } = parts;
    this.#welcome = message;
    const linkHost = config.peer;
    assert(linkHost !== undefined, 'a backup has a peer');
    watch.watch(config.peerHeartbeat ?? { host: linkHost.host, port: message.heartbeatPort });
    step({
      kind: 'welcome',
      linkId,
      generation: frame.generation,
      runner: message.instance,
      plan: message.plan,
      fromEpoch: message.fromEpoch,
    });
    // A link made while the old one was paused: what follows would find no room either.
    if (this.#isPaused) this.setPaused(true);
  }

  /** Whole as it came; whether it can be applied as well is told by the apply thread, later. */
  #onBaseEnd(linkId: number, end: BaseEndMessage): void {
    const { frames, digest } = this.#base;
    const complete = end.batches <= frames && end.digest === digest.value;
    this.#options.step({ kind: 'baseEnd', linkId, complete });
  }
}
