/**
 * A machine small enough to compare whole: a few pages, a step counter, numbered output.
 *
 * Every step writes one page and puts one frame into the net socket. A frame's content depends on
 * the guest's own history (its `branch`), so that two copies which both emit number n are told
 * apart. It lives beside the engine: neither an engine's crash nor its freeze stops it.
 */
import { type World } from './world.ts';

export const TOY_PAGES = 6;

export interface Frame {
  /** Position in the guest's whole history of output. */
  readonly seq: number;
  /** Position since the engine attached: what the gate counts. */
  readonly index: number;
  /** Which copy made it. */
  readonly branch: string;
}

/** The whole state at one instant: what a checkpoint must capture and an image must equal. */
export interface GuestState {
  readonly pages: readonly number[];
  readonly seq: number;
}

/** What an engine that is attached to the guest receives from it. */
export interface Attachment {
  readonly attachmentId: number;
  frame(frame: Frame): void;
}

export const EMPTY_STATE: GuestState = {
  pages: Array.from({ length: TOY_PAGES }, () => 0),
  seq: 0,
};

export class ToyGuest {
  readonly branch: string;
  readonly instance: string;
  readonly pages: number[];
  /** Step at which each page was written last. */
  readonly writtenAt: number[];
  seq: number;
  steps = 0;
  framesSent = 0;
  isAlive = true;
  #attachment: Attachment | null = null;
  readonly #world: World;

  constructor(world: World, branch: string, instance: string, state: GuestState) {
    this.#world = world;
    this.branch = branch;
    this.instance = instance;
    this.pages = [...state.pages];
    this.writtenAt = state.pages.map(() => 0);
    this.seq = state.seq;
  }

  run(): void {
    this.#world.after(this.#world.between(1, 9), () => {
      if (!this.isAlive) return;
      this.#step();
      this.run();
    });
  }

  attach(attachment: Attachment): void {
    this.#attachment = attachment;
    this.framesSent = 0;
  }

  detach(): void {
    this.#attachment = null;
  }

  kill(): void {
    this.isAlive = false;
    this.#attachment = null;
  }

  state(): GuestState {
    return { pages: [...this.pages], seq: this.seq };
  }

  changedSince(step: number): { index: number; value: number }[] {
    const changed: { index: number; value: number }[] = [];
    for (let index = 0; index < TOY_PAGES; index += 1) {
      if ((this.writtenAt[index] ?? 0) > step) {
        changed.push({ index, value: this.pages[index] ?? 0 });
      }
    }
    return changed;
  }

  #step(): void {
    this.steps += 1;
    this.seq += 1;
    const index = this.#world.random.nextBelow(TOY_PAGES);
    // Read, modify, write: a page that is stale or torn stays wrong for ever.
    this.pages[index] = (Math.imul(this.pages[index] ?? 0, 31) + this.seq) | 0;
    this.writtenAt[index] = this.steps;
    this.framesSent += 1;
    this.#attachment?.frame({ seq: this.seq, index: this.framesSent, branch: this.branch });
  }
}

export function sameState(left: GuestState, right: GuestState): boolean {
  return left.seq === right.seq && left.pages.every((page, index) => page === right.pages[index]);
}
