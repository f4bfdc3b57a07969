/**
 * The primary's hand on the output gate: holds, releases, opens and closes it as the core says,
 * and keeps the books of it: the audit and how long an epoch took from its stop to its release.
 */
import type { Epoch } from '../base/units.ts';
import type { PrimaryEffect } from '../core/primary-types.ts';
import type { Heartbeat } from '../signals/heartbeat.ts';
import { nowMs } from './clock.ts';
import type { EpochMeters } from './meters.ts';
import type { NodeParts } from './node-parts.ts';

export class PrimaryOutput {
  readonly #parts: NodeParts;
  readonly #heartbeat: Heartbeat;
  readonly #meters: EpochMeters;
  /** When the checkpoint of each epoch not yet released was begun. */
  readonly #startedAtMs = new Map<number, number>();
  #framesThrough = 0;

  constructor(parts: NodeParts, heartbeat: Heartbeat, meters: EpochMeters) {
    this.#parts = parts;
    this.#heartbeat = heartbeat;
    this.#meters = meters;
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
    this.#parts.audit.record('hold', {});
    this.#parts.gate.hold();
  }

  /** Alone by right of the register, whose word has this generation. */
  open(generation: number): void {
    this.#parts.audit.record('open', { generation });
    this.#parts.gate.open();
  }

  close(): void {
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
