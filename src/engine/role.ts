/** What a role is to the node that plays it: how it is run, what it ends with, what it is given. */
import type { Instance, OnSilence, RegisterWord } from '../core/register.ts';
import type { MachineAddress } from '../guests/index.ts';
import type { MachineSocket } from '../nets/machine-socket.ts';
import type { NodeConfig } from './config.ts';
import type { NodeStatus } from './status.ts';

/** What a role does next. */
export type RoleOutcome =
  | { readonly kind: 'finished'; readonly why: string }
  | { readonly kind: 'guestLost'; readonly why: string }
  | { readonly kind: 'guestChanged'; readonly why: string; readonly epoch: number }
  | { readonly kind: 'fenced'; readonly why: string }
  | { readonly kind: 'promoted'; readonly machine: PromotedMachine };

/** What primary and backup look like to the node. */
export interface Role {
  run(): Promise<RoleOutcome>;
  stop(): void;
  status(): NodeStatus;
  /** Begins the spreads of status anew. */
  resetSpreads(): void;
}

/** A machine that was started here by a promotion, with what already holds on to it. */
export interface PromotedMachine {
  readonly address: MachineAddress;
  readonly instance: Instance;
  readonly word: RegisterWord;
  readonly epoch: number;
  readonly net: MachineSocket | null;
}

/** A machine to be protected: found running, or just promoted. */
export interface RunningMachine {
  readonly address: MachineAddress;
  readonly instance: Instance;
  readonly promoted: PromotedMachine | null;
  /** The last epoch taken of it; the output gate has seen them all, so numbers go on. */
  readonly epoch: number;
}

/** Which rule decides when the two sides lose sight of each other. */
export function onSilenceOf({ arbiter, onSilence }: NodeConfig): OnSilence {
  return arbiter === 'none' ? (onSilence ?? 'hold') : 'arbiter';
}
