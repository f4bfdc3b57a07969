/**
 * Goal: no order of frames, marks, releases, reconnects, stalls and lapsed promises lets a frame
 * out that was not released, or out of order, or without having been allowed at that very write.
 * Method: random scripts against a naive model that keeps every frame with its epoch.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { toBoundaryFrame } from '../../src/nets/boundary-frames.ts';
import type { NetOutlet } from '../../src/nets/net.ts';
import { OutputGate } from '../../src/nets/output-gate.ts';

type Step =
  | { readonly kind: 'frame' | 'checkpoint' | 'pump' | 'machineLost' }
  | { readonly kind: 'late'; readonly frames: number }
  | { readonly kind: 'release'; readonly epochsBehind: number }
  | { readonly kind: 'promise' | 'outlet'; readonly allowed: boolean }
  | { readonly kind: 'writesAllowed'; readonly writes: number };

const anyStep: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.constant<Step>({ kind: 'frame' }) },
  { weight: 3, arbitrary: fc.constant<Step>({ kind: 'checkpoint' }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('late' as const), frames: fc.nat(4) }) },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant('release' as const), epochsBehind: fc.nat(3) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constantFrom('promise' as const, 'outlet' as const),
      allowed: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('writesAllowed' as const), writes: fc.nat(3) }),
  },
  { weight: 2, arbitrary: fc.constant<Step>({ kind: 'pump' }) },
  { weight: 1, arbitrary: fc.constant<Step>({ kind: 'machineLost' }) },
);

/** Drives a gate and keeps, beside it, what each frame's epoch was. */
class Harness {
  readonly #epochOfFrame: number[] = [];
  readonly #written: number[] = [];
  readonly #gate: OutputGate;
  /** Frames that the machine has sent and that have not reached the gate. */
  #onTheWay: Buffer[] = [];
  #sentOnConnection = 0;
  #epoch = 1;
  #releasedThrough = 0;
  #promiseHolds = true;
  #writesAllowed = Number.POSITIVE_INFINITY;
  #outletReady = true;
  /** Set by a yes of mayWrite, cleared by the write: a write without it is a violation. */
  #permission = false;

  constructor() {
    const outlet = this.#outlet();
    this.#gate = new OutputGate({ outlet, nowMs: () => 0, mode: 'holding' });
  }

  step(step: Step): void {
    switch (step.kind) {
      case 'frame':
        this.#send();
        this.#deliver(1);
        break;
      case 'late':
        for (let frame = 0; frame < step.frames; frame += 1) this.#send();
        break;
      case 'checkpoint':
        this.#gate.mark(this.#epoch, this.#sentOnConnection);
        this.#epoch += 1;
        break;
      case 'release': {
        const through = this.#epoch - 1 - step.epochsBehind;
        if (through <= this.#releasedThrough) return;
        this.#releasedThrough = through;
        this.#gate.release(through, () => this.#mayWrite());
        break;
      }
      case 'promise':
        this.#promiseHolds = step.allowed;
        break;
      case 'outlet':
        this.#outletReady = step.allowed;
        break;
      case 'writesAllowed':
        this.#writesAllowed = step.writes;
        break;
      case 'pump':
        this.#deliver(this.#onTheWay.length);
        this.#gate.pump();
        break;
      case 'machineLost':
        this.#onTheWay = [];
        this.#sentOnConnection = 0;
        this.#gate.machineConnected();
        break;
    }
  }

  /** With everything allowed, all that was released must be out, in order. */
  finish(): void {
    this.#promiseHolds = true;
    this.#writesAllowed = Number.POSITIVE_INFINITY;
    this.#outletReady = true;
    this.#deliver(this.#onTheWay.length);
    this.#gate.pump();
    const expected = this.#delivered.filter(
      (frame) => (this.#epochOfFrame[frame] ?? 0) <= this.#releasedThrough,
    );
    expect(this.#written).toEqual(expected);
  }

  readonly #delivered: number[] = [];

  #send(): void {
    const frame = Buffer.alloc(4);
    frame.writeUInt32LE(this.#epochOfFrame.length);
    this.#epochOfFrame.push(this.#epoch);
    this.#sentOnConnection += 1;
    this.#onTheWay.push(frame);
  }

  #deliver(count: number): void {
    for (const frame of this.#onTheWay.splice(0, count)) {
      this.#delivered.push(frame.readUInt32LE());
      this.#gate.receive(toBoundaryFrame(frame));
    }
  }

  #mayWrite(): boolean {
    this.#permission = this.#promiseHolds && this.#writesAllowed > 0;
    return this.#permission;
  }

  #outlet(): NetOutlet {
    const isReady = (): boolean => this.#outletReady;
    return {
      get ready(): boolean {
        return isReady();
      },
      onReady: (): void => {},
      write: (frame): void => {
        expect(this.#permission, 'a write without permission').toBe(true);
        this.#permission = false;
        expect(this.#outletReady, 'a write to an outlet that is not ready').toBe(true);
        this.#writesAllowed -= 1;
        const index = frame.readUInt32LE(4);
        const epoch = this.#epochOfFrame[index] ?? Number.POSITIVE_INFINITY;
        expect(epoch, 'a frame of an epoch not released').toBeLessThanOrEqual(
          this.#releasedThrough,
        );
        expect(index, 'out of order').toBeGreaterThan(this.#written.at(-1) ?? -1);
        this.#written.push(index);
      },
    };
  }
}

describe('OutputGate', () => {
  it('lets out what is released, in order, only with permission, and all of it in the end', () => {
    fc.assert(
      fc.property(fc.array(anyStep, { maxLength: 150, size: 'max' }), (steps) => {
        const harness = new Harness();
        for (const step of steps) harness.step(step);
        harness.finish();
      }),
      { numRuns: 400 },
    );
  });
});
