/**
 * The primary's hand on the output gate: holds, releases, opens and closes it as the core says,
 * and keeps the books of it: the audit and how long an epoch took from its stop to its release.
 *
 * What is open by right of the register may stay so when this process dies: the machine's guardian
 * is told, after the gate is opened and before it is held again, so that what it believes is never
 * more than what is true.
 */
import type { Epoch } from '../base/units.ts';
import type { PrimaryEffect } from '../core/primary-types.ts';
import type { GuardianLink } from '../native/guardian-link.ts';
import type { Heartbeat } from '../signals/heartbeat.ts';
import { nowMs } from './clock.ts';
import type { EpochMeters } from './meters.ts';
import type { NodeParts } from './node-parts.ts';

export interface PrimaryOutputOptions {
  readonly parts: NodeParts;
  readonly heartbeat: Heartbeat;
  readonly meters: EpochMeters;
  readonly guardian: GuardianLink | null;
}

export class PrimaryOutput {
  readonly #parts: NodeParts;
  readonly #heartbeat: Heartbeat;
  readonly #meters: EpochMeters;
  readonly #guardian: GuardianLink | null;
  /** When the checkpoint of each epoch not yet released was begun. */
  readonly #startedAtMs = new Map<number, number>();
  #framesThrough = 0;

  constructor({ parts, heartbeat, meters, guardian }: PrimaryOutputOptions) {
    this.#parts = parts;
    this.#heartbeat = heartbeat;
    this.#meters = meters;
    this.#guardian = guardian;
  }

  /** The checkpoint of this epoch was taken; it was begun at this time, milliseconds. */
  taken(epoch: Epoch, startedMs: number): void {
    this.#startedAtMs.set(epoch, startedMs);
  }

  /** Whether output is held that no checkpoint taken so far covers. */
  get isWaiting(): boolean {
    return this.#parts.gate.isWaiting;
  }

  hold(): void {
    this.#guardian?.setRunsAlone(false);
    this.#parts.audit.record('hold', {});
    this.#parts.gate.hold();
  }

  /** Alone by right of the register, whose word has this generation. */
  open(generation: number): void {
    this.#parts.audit.record('open', { generation });
    this.#parts.gate.open();
    this.#guardian?.setRunsAlone(true);
  }

  close(): void {
    this.#guardian?.setRunsAlone(false);
    this.#parts.gate.close();
  }

  release(effect: PrimaryEffect & { kind: 'releaseOutput' }): void {
    const mayWrite = (): boolean => {
      const now = nowMs();
      return now < effect.untilMs || now < Number(this.#heartbeat.words.heldUntilNs()) / 1e6;
    };
    this.#parts.gate.release(effect.throughEpoch, mayWrite);
    if (effect.framesThrough !== this.#framesThrough) {
      this.#framesThrough = effect.framesThrough;
      this.#parts.audit.record('release', {
        epoch: effect.throughEpoch,
        framesThrough: effect.framesThrough,
      });
    }
    for (const [epoch, startedMs] of this.#startedAtMs) {
      if (epoch > effect.throughEpoch) break;
      this.#meters.commitMs.record(nowMs() - startedMs);
      this.#startedAtMs.delete(epoch);
    }
  }
}
