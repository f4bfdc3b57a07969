/**
 * The invariants, checked at the instant each could break. It sees everything (real time, the
 * register's true word, every image); the machines under test see none of it.
 */
import { describeWord, type OnSilence } from '../../src/core/register.ts';
import type { Rules } from './rules.ts';
import type { ToyArbiter } from './toy-arbiter.ts';
import { type Frame, type GuestState, sameState } from './toy-guest.ts';
import { Violation, type World } from './world.ts';

interface HeldBoundary {
  readonly attachmentId: number;
  readonly framesSent: number;
}

/** What happened over a run, so that tests can tell whether anything did. */
export interface Tally {
  framesHeard: number;
  promotions: number;
  pairings: number;
  resumes: number;
  changedPlans: number;
  fences: number;
  restartsBesideGuest: number;
  freezes: number;
  /** Backups given up because they did not keep up. */
  leftBehind: number;
  doubleFailures: number;
}

export function emptyTally(): Tally {
  return {
    framesHeard: 0,
    promotions: 0,
    pairings: 0,
    resumes: 0,
    changedPlans: 0,
    fences: 0,
    restartsBesideGuest: 0,
    freezes: 0,
    leftBehind: 0,
    doubleFailures: 0,
  };
}

export class Checks {
  readonly tally = emptyTally();
  readonly #world: World;
  readonly #arbiter: ToyArbiter;
  readonly #rules: Rules;
  readonly #onSilence: OnSilence;
  /** Highest number heard from the guest, and from which copy. */
  #lastHeard: Frame | null = null;
  /** Per backup instance: the boundary of the last epoch it acknowledged. */
  readonly #held = new Map<string, HeldBoundary>();
  readonly #started = new Set<string>();
  /** Copies that another one has followed. */
  readonly #succeeded = new Set<string>();

  constructor(world: World, arbiter: ToyArbiter, rules: Rules, onSilence: OnSilence) {
    this.#onSilence = onSilence;
    this.#world = world;
    this.#arbiter = arbiter;
    this.#rules = rules;
  }

  /** A frame leaves a node's gate: invariants 1, 3, 4 and 5. */
  heard(instance: string, attachmentId: number, frame: Frame): void {
    this.tally.framesHeard += 1;
    const what = `frame ${frame.seq} of ${instance}`;
    if (this.#succeeded.has(frame.branch)) {
      throw new Violation(`one runner: ${what} heard after its successor`);
    }
    if (this.#onSilence === 'arbiter') this.#heardByRight(what, instance, attachmentId, frame);
    const last = this.#lastHeard;
    if (last !== null && frame.seq <= last.seq) {
      throw new Violation(
        last.branch === frame.branch
          ? `order: ${what} heard after ${last.seq}`
          : `nothing lost: ${what} (${frame.branch}) contradicts ${last.seq} of ${last.branch}`,
      );
    }
    if (last !== null && last.branch !== frame.branch) this.#succeeded.add(last.branch);
    this.#lastHeard = frame;
  }

  /** The true word decides who may be heard, and of what. */
  #heardByRight(what: string, instance: string, attachmentId: number, frame: Frame): void {
    const { word } = this.#arbiter;
    if (word === null || word.runner !== instance) {
      throw new Violation(`one runner: ${what} heard while the word is ${describeWord(word)}`);
    }
    // Hosts named in place of instances say nothing about who holds what.
    if (word.partner !== null && this.#rules.instances) {
      const held = this.#held.get(word.partner);
      const isHeld =
        held !== undefined && held.attachmentId === attachmentId && frame.index <= held.framesSent;
      if (!isHeld) {
        throw new Violation(
          `output commit: ${what} heard, ${word.partner} does not hold its epoch`,
        );
      }
    }
  }

  /** A backup says that it holds an epoch. */
  acknowledged(instance: string, boundary: HeldBoundary): void {
    this.#held.set(instance, boundary);
  }

  /** An epoch is in a backup's image: invariants 2 and 6. */
  applied(instance: string, epoch: number, image: GuestState, truth: GuestState): void {
    if (!sameState(image, truth)) {
      throw new Violation(
        `atomic epochs: ${instance} at epoch ${epoch} is ${JSON.stringify(image)}, not ${JSON.stringify(truth)}`,
      );
    }
  }

  /** A backup starts its guest: invariants 3 and 4. */
  startsGuest(instance: string, state: GuestState): void {
    this.tally.promotions += 1;
    const { word } = this.#arbiter;
    if (this.#onSilence === 'hold') {
      throw new Violation(`one runner: ${instance} starts by itself (--on-silence hold)`);
    }
    if (this.#onSilence === 'arbiter' && word?.runner !== instance) {
      throw new Violation(`one runner: ${instance} starts while the word is ${describeWord(word)}`);
    }
    if (this.#started.has(instance)) throw new Violation(`one runner: ${instance} starts twice`);
    this.#started.add(instance);
    if (this.#lastHeard !== null && state.seq < this.#lastHeard.seq) {
      throw new Violation(
        `nothing lost: ${instance} starts at ${state.seq}, ${this.#lastHeard.seq} was heard`,
      );
    }
    this.#world.trace('', () => `--- ${instance} starts from ${state.seq}`);
  }
}
