/**
 * The monitor as other rooms use it: while they have the machine stopped, its guardian knows, and
 * sends `cont` should this process die meanwhile.
 */
import { toRomulusError } from '../../base/errors.ts';
import type { OwnMonitor } from '../guest.ts';
import type { Guardian } from './guardian.ts';
import type { QmpClient } from './qmp/qmp-client.ts';

/** Passes everything on to the machine's one monitor. */
export function guardedMonitor(qmp: QmpClient, guardian: Guardian): OwnMonitor {
  return {
    command: async (name, args, options) => {
      if (name !== 'stop' && name !== 'cont') return qmp.command(name, args, options);
      guardian.noteStopped(true);
      let isLate = false;
      try {
        return await qmp.command(name, args, options);
      } catch (error) {
        isLate = toRomulusError(error).code === 'ERR_TIMEOUT_GUEST_CONTROL';
        throw error;
      } finally {
        // A late `cont` will be carried out, and is noted when the machine says that it runs.
        const isDone = name === 'cont' && !isLate;
        if (isDone || qmp.ended !== null) guardian.noteStopped(false);
      }
    },
    commandWithDescriptor: (name, args, descriptor, options) =>
      qmp.commandWithDescriptor(name, args, descriptor, options),
    onEvent: (listener) => qmp.onEvent(listener),
    onEnd: (listener) => {
      qmp.onEnd(listener);
    },
  };
}
