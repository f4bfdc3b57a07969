/** Fences by a command of the operator's: a power switch, a storage controller, a cluster manager. */
import { RomulusError } from '../base/errors.ts';
import type { Fencer, FenceRequest } from './fencer.ts';
import { runCommand } from './run-command.ts';

/** How long a fence may take, milliseconds: power switches are slow. */
export const FENCE_TIMEOUT_MS = 60_000;

/** The fence that a shell command is; exit code 0 means that the other side is fenced. */
export function commandFencer(command: string, timeoutMs: number = FENCE_TIMEOUT_MS): Fencer {
  return {
    fence: async ({ guest, generation, peer }: FenceRequest): Promise<void> => {
      const environment = {
        ROMULUS_GUEST: guest,
        ROMULUS_GENERATION: String(generation),
        ROMULUS_PEER: peer,
      };
      const { how, isSuccess, isLate, said } = await runCommand(command, {
        environment,
        timeoutMs,
      });
      if (isSuccess) return;
      const remedy =
        'Make sure by hand that the other side is off, mend the command, then `romulus promote --force`.';
      const details = { command, said };
      if (isLate)
        throw new RomulusError(
          'ERR_TIMEOUT_FENCE',
          `the fence did not end within ${timeoutMs} ms: ${said}`,
          { remedy, details },
        );
      throw new RomulusError('ERR_FENCED_FENCE', `the fence failed (${how}): ${said}`, {
        remedy,
        details,
      });
    },
  };
}
