/**
 * A process that runs one engine: it has a clock of its own speed, can be frozen at any point
 * (also between a decision and its first effect, or between two effects) and can die.
 *
 * Events queue up while it is frozen. Effects of one event are carried out before the next event
 * is looked at, as the contract demands.
 */
import type { World } from './world.ts';

/** Host clocks differ in speed by up to this fraction either way. */
export const CLOCK_DRIFT_MAX = 0.03;

/** A host: its name and clock outlive every process on it. */
export class Host {
  readonly name: string;
  readonly world: World;
  readonly #rate: number;
  readonly #offsetMs: number;
  /** Probability that a freeze begins right between a decision and its effects. */
  freezeBetween = 0;

  constructor(world: World, name: string) {
    this.world = world;
    this.name = name;
    // Extremes are likelier than the middle: that is where margins matter.
    const side = world.random.pick([-1, 1]);
    this.#rate = 1 + side * CLOCK_DRIFT_MAX * Math.sqrt(world.random.nextFloat());
    this.#offsetMs = world.between(0, 1000);
  }

  localNowMs(): number {
    return this.#offsetMs + this.world.nowMs * this.#rate;
  }

  /** How long a local time span takes in real time. */
  realMs(localMs: number): number {
    return localMs / this.#rate;
  }
}

export abstract class Process<Event extends { kind: string }, Effect extends { kind: string }> {
  readonly host: Host;
  readonly world: World;
  isAlive = true;
  #frozenUntilMs = 0;
  readonly #thawed: (() => void)[] = [];
  readonly #inbox: Event[] = [];
  #effects: readonly Effect[] = [];
  #nextEffect = 0;
  #isPumping = false;
  #alarm = 0;

  constructor(host: Host) {
    this.host = host;
    this.world = host.world;
  }

  get name(): string {
    return this.host.name;
  }

  get isFrozen(): boolean {
    return this.world.nowMs < this.#frozenUntilMs;
  }

  protected abstract step(event: Event, nowMs: number): readonly Effect[];
  protected abstract carryOut(effect: Effect): void;
  protected abstract timerEvent(): Event;

  /** Runs the action in this process: after the thaw when frozen, never when dead. */
  run(action: () => void): void {
    if (!this.isAlive) return;
    // What waits since the freeze goes first.
    if (this.isFrozen || this.#thawed.length > 0) this.#thawed.push(action);
    else action();
  }

  /** The same, after a delay by this process's own clock. */
  later(localMs: number, action: () => void): void {
    this.world.after(this.host.realMs(localMs), () => this.run(action));
  }

  dispatch(event: Event): void {
    this.run(() => {
      this.#inbox.push(event);
      this.#pump();
    });
  }

  freeze(durationMs: number): void {
    if (!this.isAlive || this.isFrozen) return;
    this.world.trace(this.name, () => `*** frozen for ${durationMs.toFixed(1)} ms`);
    this.#frozenUntilMs = this.world.nowMs + durationMs;
    this.world.after(durationMs, () => this.#thaw());
  }

  die(): void {
    this.isAlive = false;
  }

  protected setAlarm(atMs: number | null): void {
    this.#alarm += 1;
    if (atMs === null) return;
    const alarm = this.#alarm;
    this.later(atMs - this.host.localNowMs(), () => {
      if (alarm === this.#alarm) this.dispatch(this.timerEvent());
    });
  }

  #thaw(): void {
    if (!this.isAlive) return;
    this.world.trace(this.name, () => '*** thawed');
    this.#pump();
    while (this.isAlive && !this.isFrozen) {
      const action = this.#thawed[0];
      if (action === undefined) return;
      action();
      this.#thawed.shift();
    }
  }

  #pump(): void {
    if (this.#isPumping) return;
    this.#isPumping = true;
    try {
      while (this.isAlive && !this.isFrozen) {
        const effect = this.#effects[this.#nextEffect];
        if (effect !== undefined) {
          this.#nextEffect += 1;
          if (this.world.isTraced && effect.kind !== 'wakeAt') {
            this.world.trace(this.name, () => `    ${JSON.stringify(effect)}`);
          }
          this.carryOut(effect);
          continue;
        }
        const event = this.#inbox.shift();
        if (event === undefined) return;
        if (this.world.isTraced && event.kind !== 'timer' && event.kind !== 'promised') {
          this.world.trace(this.name, () => JSON.stringify(event));
        }
        this.#effects = this.step(event, this.host.localNowMs());
        this.#nextEffect = 0;
        const { freezeBetween } = this.host;
        if (
          freezeBetween > 0 &&
          this.#effects.length > 0 &&
          this.world.random.chance(freezeBetween)
        ) {
          this.freeze(this.world.between(1, 200));
        }
      }
    } finally {
      this.#isPumping = false;
    }
  }
}
