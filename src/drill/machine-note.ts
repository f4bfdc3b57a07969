/** Which machine a node runs: the note in its state directory, read from outside. */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { RomulusError } from '../base/errors.ts';

const savedMachine = z.object({ socketPath: z.string(), pid: z.number().int().positive() });

/**
 * Which machine a node runs, as it notes in its state directory.
 * @throws {RomulusError} ERR_GUEST_UNKNOWN when it noted none.
 */
export function machineOf(stateDirectory: string): { socketPath: string; pid: number } {
  const path = `${stateDirectory}/machine.json`;
  try {
    return savedMachine.parse(JSON.parse(readFileSync(path, 'utf8')));
  } catch (cause) {
    throw new RomulusError('ERR_GUEST_UNKNOWN', `${path} names no machine`, {
      remedy: "Read the node's log: it should run one.",
      cause,
    });
  }
}
