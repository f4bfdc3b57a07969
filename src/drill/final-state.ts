/**
 * The last act: the clients go and the machine's answers to the last of them are heard, the survivor's
 * engine lets go of its machine, the machine is stopped between two instructions, and everything is
 * compared with the oracle.
 */
import { SimControl } from '../guests/sim/control.ts';
import { parseSimInfo } from '../guests/sim/info.ts';
import type { Check } from './checks.ts';
import { compareWithOracle } from './oracle-check.ts';
import type { SimTheatre } from './sim-theatre.ts';
import { START_WAIT_MS, until } from './theatre.ts';
import { type RecordColumns, WorldRecord } from './world-record.ts';

/** What the comparison with the oracle found. */
export interface MachineVerdict {
  readonly checks: readonly Check[];
  /** RAM and disk are, bit for bit, what they should be. */
  readonly stateMatches: boolean;
}

/**
 * Waits until the world has heard of every input that it was consumed, and at which step. One that the
 * machine consumes while its engine lets go of it leaves a trace in its RAM, and none in the record.
 * @throws {RomulusError} ERR_TIMEOUT_DRILL when the machine does not consume what it was given.
 */
async function inputsHeard(theatre: SimTheatre): Promise<void> {
  await theatre.world.ask({ ask: 'closeGateway' });
  await until('the machine to consume all of its input', START_WAIT_MS, async () => {
    const { inputsWaiting } = await theatre.world.ask({ ask: 'status' });
    return inputsWaiting === 0;
  });
}

/** Stops the survivor's machine and judges it; nothing runs any more afterwards. */
export async function examineMachine(
  theatre: SimTheatre,
  survivor: 0 | 1,
  tell: (text: string) => void,
): Promise<{ columns: RecordColumns; overflowed: boolean; machine: MachineVerdict }> {
  const { socketPath } = theatre.machineOf(survivor);
  await inputsHeard(theatre);
  await theatre.stopNodes(survivor);
  // Kept until the end: who stopped a machine and lets go sets it free.
  const control = await SimControl.connect(socketPath);
  try {
    await control.command('stop');
    const info = parseSimInfo(await control.command('info'));
    tell(`the machine is stopped at step ${info.step}; the oracle computes what it should be`);
    const { columns, overflowed, inputs } = await theatre.world.ask({ ask: 'record' });
    const checks = await compareWithOracle(
      {
        workload: info.workload,
        seed: info.seed,
        memoryBytes: info.memoryBytes,
        diskBytes: info.diskBytes,
        beacons: info.beacons,
        step: info.step,
        ramPath: `/proc/${info.pid}/fd/${info.ramFd}`,
        diskPath: `/proc/${info.pid}/fd/${info.diskFd}`,
      },
      new WorldRecord(columns),
      inputs,
    );
    return {
      columns,
      overflowed,
      machine: { checks, stateMatches: checks.slice(0, 2).every(({ ok }) => ok) },
    };
  } finally {
    control.close();
  }
}
