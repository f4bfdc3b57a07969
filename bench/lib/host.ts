/** The machine a bench ran on, so that a figure is never read without it. */
import { cpus, loadavg, release, totalmem } from 'node:os';
import { GIB } from '../../src/base/units.ts';

export interface HostFacts {
  readonly kernel: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGib: number;
  readonly node: string;
}

/** Facts that do not change during a run. */
export function hostFacts(): HostFacts {
  const all = cpus();
  return {
    kernel: release(),
    cpu: all[0]?.model.trim() ?? 'unknown',
    cores: all.length,
    memoryGib: Math.round(totalmem() / GIB),
    node: process.version,
  };
}

/** Load average over the last minute: processes that ran or wanted to. */
export function loadNow(): number {
  return Number((loadavg()[0] ?? 0).toFixed(2));
}
