/** What a node's sessions share: made once, handed from role to role. */
import type { Logger } from 'pino';
import type { Arbiter } from '../arbiters/arbiter.ts';
import type { MachineSocket } from '../nets/machine-socket.ts';
import type { OutletSwitch } from '../nets/outlet-switch.ts';
import type { OutputGate } from '../nets/output-gate.ts';
import type { Audit } from './audit.ts';
import type { NodeConfig } from './config.ts';
import type { SavedMachine } from './node-state.ts';
import type { PromoteHook } from './promote-hook.ts';
import type { NodeEvent } from './status.ts';

export interface NodeParts {
  readonly config: NodeConfig;
  readonly log: Logger;
  readonly audit: Audit;
  readonly arbiter: Arbiter;
  readonly gate: OutputGate;
  /** What is behind the gate. */
  readonly outlet: OutletSwitch;
  /** The operator's command that follows a promotion. */
  readonly promoteHook: PromoteHook;
  readonly emit: (event: NodeEvent) => void;
  /** Notes which machine this node runs, for an engine that is started again beside it. */
  readonly saveMachine: (machine: SavedMachine) => void;
  /** Where frames from outside go from now on; null: nowhere. */
  readonly setMachine: (machine: MachineSocket | null) => void;
  /** Port of the outside line, if there is one. */
  readonly netPort: number | null;
  /** Tells of a change of state: log, event and status in one. */
  readonly report: (change: {
    role: 'primary' | 'backup';
    state: string;
    why: string;
    epoch: number;
    generation: number;
  }) => void;
}
