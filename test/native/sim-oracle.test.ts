import { afterEach, describe, expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { MIB } from '../../src/base/units.ts';
import { decodeMachineFrame } from '../../src/guests/sim/port.ts';
import { SimOracle, type SimOracleOptions } from '../../src/native/sim-oracle.ts';
import { type ReferenceOptions, SimReference } from './sim-reference.ts';

const open: SimOracle[] = [];
function makeOracle(options: SimOracleOptions): SimOracle {
  const oracle = new SimOracle(options);
  open.push(oracle);
  return oracle;
}
afterEach(() => {
  for (const oracle of open.splice(0)) oracle.close();
});

/** The code that the call fails with. */
function codeOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    if (error instanceof RomulusError) return error.code;
    throw error;
  }
  return 'no error';
}

const CASES: readonly (Omit<ReferenceOptions, 'diskBytes'> & { readonly steps: number[] })[] = [
  { workload: 'idle', memoryBytes: 16 * MIB, seed: 3n, beacons: 1_000_000, steps: [1, 50, 400] },
  { workload: 'counter', memoryBytes: 16 * MIB, seed: 1n, beacons: 20_000, steps: [7, 3_000] },
  {
    workload: 'random',
    memoryBytes: 24 * MIB,
    seed: 0xffff_ffff_ffff_ffffn,
    beacons: 25_000,
    steps: [1, 777, 4_000],
  },
  {
    workload: 'hotspot',
    memoryBytes: 20 * MIB + 4096,
    seed: 42n,
    beacons: 25_000,
    steps: [100, 20_000],
  },
  { workload: 'stream', memoryBytes: 16 * MIB, seed: 9n, beacons: 50_000, steps: [3, 120, 200] },
];

describe('SimOracle', () => {
  for (const { steps, ...options } of CASES) {
    it(`computes ${options.workload} as the independent reference does`, () => {
      const machine = { ...options, diskBytes: 256 * 1024 };
      const oracle = makeOracle(machine);
      const reference = new SimReference(machine);
      for (const step of steps) {
        reference.runTo(step);
        expect(oracle.runTo(step)).toBe(step);
        const ram = Buffer.from(reference.image(reference.ram, machine.memoryBytes));
        expect(ram.equals(oracle.ram.read(0, machine.memoryBytes)), `RAM at ${step}`).toBe(true);
        const disk = Buffer.from(reference.image(reference.disk, machine.diskBytes));
        expect(disk.equals(oracle.disk.read(0, machine.diskBytes)), `disk at ${step}`).toBe(true);
        expect(oracle.registers.hash).toBe(reference.hash);
        const frames = oracle.frames().map((payload) => {
          const frame = decodeMachineFrame(payload);
          if (frame.kind !== 'emit') throw new Error('not an emit');
          expect(frame.op).toBe('beacon');
          return {
            seq: frame.seq,
            step: frame.step,
            hash: Buffer.from(frame.data).readBigUInt64LE(),
          };
        });
        expect(frames).toEqual(reference.beacons);
      }
      expect(reference.beacons.length).toBeGreaterThan(0);
    });
  }

  it('goes on in slices as in one go', () => {
    const options = {
      workload: 'random',
      memoryBytes: 16 * MIB,
      diskBytes: 64 * 1024,
      seed: 5n,
      beacons: 25_000,
    };
    const whole = makeOracle(options);
    const sliced = makeOracle(options);
    whole.runTo(10_000);
    for (let at = 0; at < 10_000; ) at = sliced.runTo(10_000, 999);
    expect(sliced.ram.compare(whole.ram)).toBe(-1);
    expect(sliced.registers).toEqual(whole.registers);
    expect(sliced.ram.populatedBytes()).toBeLessThanOrEqual(16 * MIB);
  });

  it('consumes inputs at their steps and shows each in the output', () => {
    const oracle = makeOracle({
      workload: 'counter',
      memoryBytes: 16 * MIB,
      diskBytes: 64 * 1024,
      seed: 5n,
      beacons: 0,
    });
    oracle.input(10, { op: 'open', stream: 4, seq: 1, data: new Uint8Array(0) });
    oracle.input(12, { op: 'data', stream: 4, seq: 2, data: Buffer.from('x') });
    oracle.input(13, { op: 'close', stream: 4, seq: 3, data: new Uint8Array(0) });
    oracle.runTo(20);
    const seen = oracle.frames().map((payload) => decodeMachineFrame(payload));
    expect(seen).toMatchObject([
      { op: 'data', stream: 4, seq: 1, step: 10, inputSeq: 1 },
      { op: 'data', stream: 4, seq: 2, step: 12, inputSeq: 2 },
      { op: 'close', stream: 4, seq: 3, step: 13, inputSeq: 3 },
    ]);
    oracle.forget(2);
    expect(oracle.frames(3)).toHaveLength(1);
    expect(codeOf(() => oracle.frames(1))).toBe('ERR_USAGE_ORACLE_FRAMES');
  });

  it('refuses what no machine can be or do', () => {
    const sound = {
      workload: 'random',
      memoryBytes: 16 * MIB,
      diskBytes: 64 * 1024,
      seed: 5n,
      beacons: 25_000,
    };
    expect(codeOf(() => makeOracle({ ...sound, workload: 'sleep' }))).toBe('ERR_USAGE_WORKLOAD');
    expect(codeOf(() => makeOracle({ ...sound, memoryBytes: MIB }))).toBe('ERR_USAGE_MACHINE');
    expect(codeOf(() => makeOracle({ ...sound, beacons: 1e7 }))).toBe('ERR_USAGE_MACHINE');
    expect(codeOf(() => makeOracle({ ...sound, seed: -1n }))).toBe('ERR_USAGE_SEED');
    const oracle = makeOracle(sound);
    oracle.runTo(10);
    const input = { op: 'data', stream: 1, seq: 1, data: new Uint8Array(0) } as const;
    expect(codeOf(() => oracle.input(10, input))).toBe('ERR_USAGE_ORACLE_INPUT');
    expect(codeOf(() => oracle.input(11, { ...input, seq: 2 }))).toBe('ERR_USAGE_ORACLE_INPUT');
    const long = { ...input, data: new Uint8Array(16_385) };
    expect(codeOf(() => oracle.input(11, long))).toBe('ERR_USAGE_ORACLE_INPUT');
  });
});
