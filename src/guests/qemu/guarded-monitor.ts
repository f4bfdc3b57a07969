/**
 * The monitor as other rooms use it: while they have the machine stopped, its guardian knows, and
 * sends `cont` should this process die meanwhile.
 */
import type { OwnMonitor } from '../guest.ts';
import type { Guardian } from './guardian.ts';
import type { QmpClient } from './qmp/qmp-client.ts';

/** Passes everything on to the machine's one monitor. */
export function guardedMonitor(qmp: QmpClient, guardian: Guardian): OwnMonitor {
  return {
    command: async (name, args, options) => {
      if (name !== 'stop' && name !== 'cont') return qmp.command(name, args, options);
      guardian.noteStopped(true);
      try {
        return await qmp.command(name, args, options);
      } finally {
        // A `stop` that was refused or never answered has no `cont` of ours to come.
        if (name === 'cont' || qmp.ended !== null) guardian.noteStopped(false);
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
