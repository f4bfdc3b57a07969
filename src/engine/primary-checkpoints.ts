/**
 * Takes the checkpoints that the core asks for and the rounds of its synchronisations, sends what
 * came of them, and tells the core. Comparisons of the two images ride on checkpoints.
 */
import type { Logger } from 'pino';
import { type RomulusError, toRomulusError } from '../base/errors.ts';
import type { Epoch } from '../base/units.ts';
import type { Primary } from '../core/primary.ts';
import type { PrimaryEvent } from '../core/primary-types.ts';
import type { BackupLinks } from './backup-links.ts';
import type { CaptureMethods } from './capture-worker.ts';
import type { CheckpointPipeline } from './checkpoint-pipeline.ts';
import { nowMs } from './clock.ts';
import type { MachineLoss } from './machine-loss.ts';
import type { PrimaryOutput } from './primary-output.ts';
import type { Scrub } from './scrub.ts';
import type { ThreadClient } from './thread-rpc.ts';

const SETTLING = 'whether the machine is dying is being found out';

export interface PrimaryCheckpointsOptions {
  readonly core: Primary;
  readonly log: Logger;
  readonly capture: ThreadClient<CaptureMethods>;
  readonly pipeline: CheckpointPipeline;
  readonly links: BackupLinks;
  readonly output: PrimaryOutput;
  readonly loss: MachineLoss;
  readonly scrub: Scrub;
  /** Hands an event to the core and carries out what it answers. */
  readonly step: (event: PrimaryEvent) => void;
}

export class PrimaryCheckpoints {
  readonly #options: PrimaryCheckpointsOptions;
  #skipLogged = '';

  constructor(options: PrimaryCheckpointsOptions) {
    this.#options = options;
  }

  /** Round 0 of an image for the backup on this link. */
  startSync(linkId: number, plan: 'full' | 'changed'): void {
    const { core, links, pipeline } = this.#options;
    const peer = links.get(linkId);
    if (peer === undefined) return;
    const { takenEpoch, generation } = core.status;
    const sending = pipeline.startSync({
      linkId,
      outbox: peer.outbox,
      plan: plan === 'full' ? { kind: 'full' } : { kind: 'changed', since: peer.since },
      generation,
      epoch: takenEpoch + 1,
    });
    void this.#round(linkId, sending);
  }

  /** A later round: what was dirtied during the one before. */
  syncRound(linkId: number, round: number): void {
    void this.#round(linkId, this.#options.pipeline.syncRound(linkId, round));
  }

  /** Takes the checkpoint, or says that it was skipped and why. Never rejects. */
  async take(epoch: Epoch, completesBase: boolean): Promise<void> {
    const { core, links, pipeline, output, loss, scrub, step } = this.#options;
    if (loss.isSettling) return step({ kind: 'checkpointSkipped', epoch, why: SETTLING });
    const { generation } = core.status;
    const startedMs = nowMs();
    const partner = scrub.wanted ? links.partner : null;
    // Asked before the epoch is on its way: the backup must know when it has applied it.
    if (partner !== null) links.send(partner, { kind: 'scrubRequest', epoch });
    const taking = pipeline.take(epoch, {
      completesBase,
      generation,
      allSent: links.allSent,
    });
    // Called in the same turn, so that nothing comes between the two in the capture thread.
    if (partner !== null) this.#digestAt(epoch);
    const outcome = await taking;
    // Broken meanwhile: what was taken may lack what was not heard of.
    if (loss.isSettling && outcome.kind === 'taken')
      return step({ kind: 'checkpointSkipped', epoch, why: SETTLING });
    if (outcome.kind === 'skipped')
      return this.#skipped(epoch, outcome.error, outcome.lineageBroken);
    const { checkpoint, queued } = outcome;
    this.#skipLogged = '';
    output.taken(epoch, startedMs);
    links.transmitToAll(queued);
    step({
      kind: 'checkpointTaken',
      epoch,
      framesSent: checkpoint.framesSent,
      diskWrites: checkpoint.diskWrites,
      pages: checkpoint.totals.pages,
      bytes: queued.bytes,
      pauseMs: checkpoint.pauseMs,
    });
    step({ kind: 'queueLevel', bytes: pipeline.queue.unackedBytes });
    // The gate told of it while the checkpoint was taken, when that counts for nothing.
    if (output.isWaiting) step({ kind: 'outputWaiting' });
  }

  #skipped(epoch: Epoch, error: RomulusError, lineageBroken: boolean): void {
    const { core, links, loss, scrub, step } = this.#options;
    scrub.skipped(epoch);
    this.#logSkipped(epoch, error);
    if (error.details['isPaused'] === true) links.tellPaused(core.status.takenEpoch);
    // What ends on purpose needs its links to take leave.
    if (lineageBroken && !loss.isOnPurpose) void loss.settle(error);
    step({ kind: 'checkpointSkipped', epoch, why: error.message });
  }

  /** A machine that stands is skipped at every interval: each reason is logged once in a row. */
  #logSkipped(epoch: Epoch, error: RomulusError): void {
    if (error.message === this.#skipLogged) return;
    this.#skipLogged = error.message;
    this.#options.log.warn({ epoch, error: error.toJSON() }, 'checkpoint skipped');
  }

  /** Reports a round's end; what it sent is the best estimate of what was dirtied meanwhile. */
  async #round(linkId: number, sending: Promise<number | null>): Promise<void> {
    const { links, log, step } = this.#options;
    const startedMs = nowMs();
    try {
      const pages = await sending;
      if (pages === null || links.get(linkId) === undefined) return;
      const durationMs = nowMs() - startedMs;
      log.info({ linkId, pages, durationMs }, 'a round of the base image is sent');
      step({ kind: 'syncRoundDone', linkId, pages, dirtyLeft: pages, durationMs });
    } catch (error) {
      // The link is gone, and with it whoever wanted to know.
      if (links.get(linkId) === undefined) return;
      const known = toRomulusError(error);
      log.error({ error: known.toJSON() }, 'synchronisation failed');
      step({ kind: 'syncFailed', linkId, why: known.message });
    }
  }

  #digestAt(epoch: Epoch): void {
    const { capture, scrub } = this.#options;
    scrub.begin(epoch);
    capture.call('scrub', undefined).then(
      ({ digest }) => scrub.notePrimary(epoch, digest),
      (error: unknown) => scrub.fail(toRomulusError(error)),
    );
  }
}
