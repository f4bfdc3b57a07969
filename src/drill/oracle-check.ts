/**
 * Is the machine what it should be? The oracle runs the same program from the seed alone, consumes
 * every input at the step at which the outputs say it was consumed, and is then compared bit for
 * bit: RAM, disk, and every frame that the world ever heard.
 */
import { RomulusError } from '../base/errors.ts';
import { crc32c } from '../codec/checksum.ts';
import { SimOracle } from '../native/sim-oracle.ts';
import type { Check } from './checks.ts';
import type { RecordedInput } from './world.ts';
import type { WorldRecord } from './world-record.ts';

/** Steps between two breaths, so that an interrupt is heard. */
const SLICE_STEPS = 200_000;
/** Frames fetched from the oracle at once. */
const FETCH_FRAMES = 10_000;

/** A stopped machine, as its `info` describes it. */
export interface StoppedMachine {
  readonly workload: string;
  readonly seed: bigint;
  readonly memoryBytes: number;
  readonly diskBytes: number;
  readonly beacons: number;
  /** Instructions executed when it stopped. */
  readonly step: number;
  readonly ramPath: string;
  readonly diskPath: string;
}

/** At which step each input was consumed, read off the emits: the first that covers it says so. */
export function inputSteps(
  record: WorldRecord,
  inputs: readonly RecordedInput[],
): { readonly step: number; readonly input: RecordedInput }[] {
  const schedule: { step: number; input: RecordedInput }[] = [];
  let previousSeq = 0;
  for (const frame of record) {
    if (frame.lineOpen || frame.seq <= previousSeq) continue;
    previousSeq = frame.seq;
    while (schedule.length < frame.inputSeq) {
      const input = inputs[schedule.length];
      if (input === undefined)
        throw new RomulusError(
          'ERR_INTEGRITY_INPUT_RECORD',
          `the machine consumed input ${frame.inputSeq}, the world sent ${inputs.length}`,
          { remedy: 'Keep the evidence of this drill and report it.' },
        );
      schedule.push({ step: frame.step, input });
    }
  }
  return schedule;
}

function framesUnlike(oracle: SimOracle, record: WorldRecord): { unlike: number; judged: number } {
  const { emitSeq } = oracle.registers;
  const expected = new Uint32Array(emitSeq + 1);
  for (let seq = 1; seq <= emitSeq; seq += FETCH_FRAMES)
    for (const [index, frame] of oracle.frames(seq, FETCH_FRAMES).entries())
      expected[seq + index] = crc32c(frame);
  let unlike = 0;
  let judged = 0;
  for (const frame of record) {
    if (frame.lineOpen) continue;
    judged += 1;
    if (frame.seq > emitSeq || expected[frame.seq] !== frame.crc) unlike += 1;
  }
  return { unlike, judged };
}

function pageCheck(name: string, firstDifferent: number, bytes: number, step: number): Check {
  return {
    name,
    ok: firstDifferent === -1,
    text:
      firstDifferent === -1
        ? `all ${bytes / 4096} pages are what the oracle computes for step ${step}`
        : `page ${firstDifferent} is not what the oracle computes for step ${step}`,
  };
}

/**
 * Runs the oracle up to the machine's step and compares.
 * @throws {RomulusError} ERR_USAGE_ORACLE_INPUT when the record of inputs contradicts itself.
 */
export async function compareWithOracle(
  machine: StoppedMachine,
  record: WorldRecord,
  inputs: readonly RecordedInput[],
): Promise<Check[]> {
  const oracle = new SimOracle(machine);
  try {
    for (const { step, input } of inputSteps(record, inputs)) oracle.input(step, input);
    while (oracle.runTo(machine.step, SLICE_STEPS) < machine.step)
      await new Promise((resolve) => setImmediate(resolve));
    const { unlike, judged } = framesUnlike(oracle, record);
    return [
      pageCheck('same RAM', oracle.ramCompare(machine.ramPath), machine.memoryBytes, machine.step),
      pageCheck('same disk', oracle.diskCompare(machine.diskPath), machine.diskBytes, machine.step),
      {
        name: 'same output',
        ok: unlike === 0 && judged > 0,
        text:
          unlike === 0
            ? `all ${judged} frames heard are, byte for byte, what the oracle emits`
            : `${unlike} of ${judged} frames heard are not what the oracle emits`,
      },
    ];
  } finally {
    oracle.close();
  }
}
