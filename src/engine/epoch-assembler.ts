/**
 * Collects the frames of an epoch on the backup and says when it is whole. Bulk payloads are not
 * looked into here: they are counted, their checked CRCs go into the digest, and the apply thread
 * inflates and decodes them. What is collected is bounded; an epoch beyond the bound is refused.
 */
import { RomulusError } from '../base/errors.ts';
import { PayloadDigest } from '../codec/checksum.ts';
import type { Frame } from '../codec/frame.ts';
import { EPOCH_BYTES_MAX, EPOCH_FRAMES_MAX } from '../codec/limits.ts';
import type { EpochEndMessage } from '../codec/messages.ts';

/** An epoch whose every byte is here and checked. */
export interface WholeEpoch {
  readonly epoch: number;
  readonly frames: readonly Frame[];
  readonly bytes: number;
}

function outOfPlace(text: string, details: Record<string, unknown>): RomulusError {
  return new RomulusError('ERR_PROTOCOL_EPOCH_ORDER', text, {
    remedy: 'The connection is dropped and resumed; if it recurs, compare the versions.',
    details,
  });
}

/** One epoch at a time, in the order of the protocol. */
export class EpochAssembler {
  #epoch: number | null = null;
  #frames: Frame[] = [];
  #bytes = 0;
  #batches = 0;
  #digest = new PayloadDigest();

  get isInside(): boolean {
    return this.#epoch !== null;
  }

  /** @throws {RomulusError} ERR_PROTOCOL_EPOCH_ORDER when another epoch is not finished. */
  begin(epoch: number): void {
    if (this.#epoch !== null)
      throw outOfPlace(`epoch ${epoch} begins inside epoch ${this.#epoch}`, { epoch });
    this.#epoch = epoch;
  }

  /** @throws {RomulusError} ERR_PROTOCOL_EPOCH_ORDER, ERR_LIMIT_EPOCH_BYTES. */
  add(frame: Frame): void {
    if (this.#epoch !== frame.epoch)
      throw outOfPlace(`a ${frame.kind} frame of epoch ${frame.epoch} inside ${this.#epoch}`, {
        epoch: frame.epoch,
      });
    this.#bytes += frame.payload.byteLength;
    if (this.#bytes > EPOCH_BYTES_MAX || this.#frames.length >= EPOCH_FRAMES_MAX)
      throw new RomulusError('ERR_LIMIT_EPOCH_BYTES', `epoch ${frame.epoch} is beyond its bound`, {
        remedy: 'Shorten the epoch interval.',
        details: { limitBytes: EPOCH_BYTES_MAX },
      });
    if (frame.kind === 'pages') this.#batches += 1;
    this.#digest.add(frame.payloadCrc);
    this.#frames.push(frame);
  }

  /**
   * The epoch, when the counts and the digest agree with what came; null when they do not.
   * @throws {RomulusError} ERR_PROTOCOL_EPOCH_ORDER when another epoch was under way.
   */
  end(message: EpochEndMessage): WholeEpoch | null {
    if (this.#epoch !== message.epoch)
      throw outOfPlace(`the end of epoch ${message.epoch} inside ${this.#epoch}`, {
        epoch: message.epoch,
      });
    const intact =
      message.batches === this.#batches &&
      message.bytes === this.#bytes &&
      message.digest === this.#digest.value;
    const whole = { epoch: message.epoch, frames: this.#frames, bytes: this.#bytes };
    this.discard();
    return intact ? whole : null;
  }

  /** Throws away what is here of an unfinished epoch. */
  discard(): void {
    this.#epoch = null;
    this.#frames = [];
    this.#bytes = 0;
    this.#batches = 0;
    this.#digest = new PayloadDigest();
  }
}
