/**
 * Whether a simulated machine must track its dirty pages itself: only where this host can do it
 * neither through userfaultfd nor through soft-dirty bits, because it costs the machine a signal
 * for every page it writes.
 */
import { hostFacts } from '../native/host.ts';
import type { NodeConfig } from './config.ts';

/** The machine's `--tracker` for a node with this `tracker` setting; undefined: none. */
export function machineTracker(kind: NodeConfig['tracker']): 'mprotect' | undefined {
  if (kind === 'mprotect') return 'mprotect';
  if (kind !== 'auto') return undefined;
  const { userfaultfd, pagemapScan, softDirty } = hostFacts();
  return (userfaultfd && pagemapScan) || softDirty ? undefined : 'mprotect';
}
