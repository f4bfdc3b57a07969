/** Two sites, what is between them, and the arbiter: all that one run is made of. */
import type { OnSilence } from '../../src/core/register.ts';
import { BackupProcess } from './backup-process.ts';
import { Checks } from './checks.ts';
import { PrimaryProcess } from './primary-process.ts';
import type { Rules } from './rules.ts';
import { Site } from './site.ts';
import { ToyArbiter } from './toy-arbiter.ts';
import { ToyNetwork } from './toy-network.ts';
import { Violation, type World } from './world.ts';

export class Cluster {
  readonly world: World;
  readonly rules: Rules;
  readonly onSilence: OnSilence;
  readonly network: ToyNetwork;
  readonly arbiter: ToyArbiter;
  readonly checks: Checks;
  readonly sites: readonly [Site, Site];
  #nextAttachmentId = 1;

  constructor(world: World, rules: Rules, onSilence: OnSilence) {
    this.onSilence = onSilence;
    this.world = world;
    this.rules = rules;
    this.network = new ToyNetwork(world);
    this.arbiter = new ToyArbiter(world, rules);
    this.checks = new Checks(world, this.arbiter, rules, onSilence);
    this.sites = [new Site(this, 'a'), new Site(this, 'b')];
  }

  start(): void {
    this.sites[0].startGuestAndPrimary();
    this.sites[1].startEngine();
  }

  peerOf(site: Site): Site {
    return site === this.sites[0] ? this.sites[1] : this.sites[0];
  }

  nextAttachmentId(): number {
    const id = this.#nextAttachmentId;
    this.#nextAttachmentId += 1;
    return id;
  }

  /** True when the pair has formed again and nobody is still to wake up. */
  isAtRest(): boolean {
    if (this.sites.some(({ engine }) => engine === null || engine.isFrozen)) return false;
    try {
      return this.checkAtRest();
    } catch (error) {
      if (error instanceof Violation) return false;
      throw error;
    }
  }

  /**
   * Liveness, once nothing has gone wrong for a while: one guest runs, protected, unless a double
   * failure took every copy that had the right to run.
   * @returns false when the service is lost beyond any rule.
   */
  checkAtRest(): boolean {
    const primaries = this.sites.filter(({ engine }) => isServing(engine));
    if (primaries.length > 1) throw new Violation('liveness: two primaries at rest');
    const { word } = this.arbiter;
    if (primaries.length === 0) {
      const canBe = this.sites.find(
        ({ engine, guest }) =>
          word !== null &&
          ((guest?.isAlive === true && guest.instance === word.runner) ||
            (engine instanceof BackupProcess &&
              (engine.holds(word.partner ?? '') || engine.holds(word.runner)))),
      );
      if (canBe !== undefined) {
        throw new Violation(
          `liveness: ${canBe.name} has the right and the means to run, and does not`,
        );
      }
      return false;
    }
    const [site] = primaries;
    const engine = site?.engine;
    if (site === undefined || !(engine instanceof PrimaryProcess)) return false;
    const backup = this.peerOf(site).engine;
    const { state, why } = engine.core.status;
    if (state !== 'protected' && state !== 'backlogged') {
      throw new Violation(`liveness: ${site.name} is ${state} at rest: ${why}`);
    }
    if (!(backup instanceof BackupProcess) || backup.core.status.state !== 'following') {
      throw new Violation('liveness: the backup does not follow at rest');
    }
    return true;
  }
}

function isServing(engine: PrimaryProcess | BackupProcess | null): boolean {
  return engine instanceof PrimaryProcess && engine.isServing && engine.guest.isAlive;
}
