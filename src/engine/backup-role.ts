/** The term of a node as backup: dials the primary, follows it, and takes over when it must. */
import { randomInt } from 'node:crypto';
import { Prng } from '../base/prng.ts';
import { Backup } from '../core/backup.ts';
import { DEFAULT_BACKUP_LIMITS } from '../core/backup-types.ts';
import { assert } from '../base/assert.ts';
import { type Backoff, Redialer } from '../links/redialer.ts';
import { dialWs } from '../links/ws.ts';
import { BackupSession } from './backup-session.ts';
import type { NodeParts } from './node-parts.ts';
import { onSilenceOf, type Role, type RoleOutcome } from './role.ts';
import type { NodeStatus } from './status.ts';
import { blankStatus, heartbeatStatus } from './status-of.ts';

/** One whose link broke waits for us for 200 ms (`reconnectGraceMs`), and one that comes back should be found at once. */
const REDIAL_BACKOFF: Backoff = { firstMs: 10, maxMs: 150 };

export class BackupRole implements Role {
  readonly #parts: NodeParts;
  #session: BackupSession | null = null;
  #stopAsked = false;

  constructor(parts: NodeParts) {
    this.#parts = parts;
  }

  async run(): Promise<RoleOutcome> {
    const { config } = this.#parts;
    const { peer } = config;
    assert(peer !== undefined, 'a backup has a peer');
    this.#parts.gate.close();
    const session = new BackupSession({
      parts: this.#parts,
      core: new Backup({
        node: config.node,
        promiseMs: config.promiseMs,
        onSilence: onSilenceOf(config),
        limits: DEFAULT_BACKUP_LIMITS,
      }),
    });
    this.#session = session;
    const redialer = new Redialer({
      dial: (signal) => dialWs({ url: `ws://${peer.host}:${peer.port}`, signal }),
      prng: new Prng(randomInt(2 ** 32)),
      backoff: REDIAL_BACKOFF,
      delayMsMin: () => session.restMs,
      onLink: (link) => session.connected(link),
      onDown: (down) => {
        session.linkDown(down.text);
        // The first failure and then ever fewer: an absent primary must not fill the log.
        if (Math.log2(down.failures) % 1 === 0) this.#parts.log.info(down.text);
      },
    });
    this.#parts.emit({
      event: 'listening',
      linkPort: null,
      netPort: this.#parts.netPort,
      heartbeatPort: null,
    });
    session.start();
    redialer.redialNow();
    if (this.#stopAsked) session.shutdown();
    try {
      const outcome = await session.outcome;
      if (outcome.kind === 'finished') return outcome;
      // The capture thread attaches anew; this connection has done its work.
      await outcome.guest.detach();
      const { instance, word, epoch, standby } = outcome;
      return {
        kind: 'promoted',
        machine: { address: standby.address, instance, word, epoch, net: standby.net },
      };
    } finally {
      redialer.stop();
      await session.close();
    }
  }

  stop(): void {
    this.#stopAsked = true;
    this.#session?.shutdown();
  }

  /** Begins the spreads of status anew: a backup has the heartbeats'. */
  resetSpreads(): void {
    this.#session?.words.resetBeatGap();
  }

  /** Promotes by hand; without force only what the register would allow anyway. */
  promote(options: { force: boolean }): void {
    this.#session?.promote(options);
  }

  status(): NodeStatus {
    const blank = blankStatus(this.#parts, 'backup');
    const session = this.#session;
    if (session === null) return { ...blank, state: 'starting', why: 'starting' };
    const core = session.core.status;
    return {
      ...blank,
      instance: core.instance,
      state: core.state,
      why: core.why,
      guest: session.descriptor?.name ?? null,
      generation: core.generation,
      epoch: core.receivedEpoch,
      ackedEpoch: core.acknowledgedEpoch,
      appliedEpoch: core.appliedEpoch,
      bytesSent: session.bytesReceived,
      peer: session.peer,
      ...heartbeatStatus(session.words),
    };
  }
}
