/** `romulus protect`: run the node that holds the living machine. */
import type { Command } from 'commander';
import { RomulusError } from '../../base/errors.ts';
import type { NodeConfigInput } from '../../engine/config.ts';
import { findLibvirtDomain } from '../../guests/qemu/libvirt.ts';
import { endpoint, type Endpoint, wholeNumber } from '../options.ts';
import { addNodeOptions, type NodeFlags, sharedConfig } from './node-options.ts';
import { runForeground } from './node-run.ts';

/** Linux gives no higher process number (PID_MAX_LIMIT). */
const PID_MAX = 4_194_304;

interface ProtectFlags extends NodeFlags {
  readonly simSocket?: string;
  readonly qmp?: string;
  readonly libvirt?: string;
  readonly pid?: number;
  readonly peer?: Endpoint;
}

/** Adds the command to the program. */
export function addProtect(program: Command): void {
  const command = program
    .command('protect')
    .description('protect a running machine: checkpoint it and send every epoch to a backup')
    .option('--qmp <socket>', 'QMP socket of a running QEMU, of which we are the only client')
    .option('--libvirt <domain>', 'a running libvirt domain that has a QMP socket of its own')
    .option(
      '--pid <number>',
      "QEMU's process, where the socket does not tell it",
      wholeNumber('--pid', { min: 1, max: PID_MAX }),
    )
    .option('--sim-socket <path>', 'control socket of a simulated machine (see `romulus sim`)')
    .option(
      '--peer <host:port>',
      'the other node; dialled when this node finds that it is the backup now',
      endpoint('--peer'),
    )
    .addHelpText(
      'after',
      `
Examples:
  $ qemu-system-x86_64 ... -qmp unix:/run/vm.qmp,server=on,wait=off &
  $ romulus protect --qmp /run/vm.qmp --listen 192.0.2.1:7000 \\
      --state-dir /var/lib/romulus/vm --arbiter file:/shared/arbiter

  $ romulus sim --socket /tmp/m.sock --memory 256M --workload counter &
  $ romulus protect --sim-socket /tmp/m.sock --listen 127.0.0.1:7000 \\
      --net-listen 127.0.0.1:7100 --state-dir /tmp/a --arbiter file:/tmp/arbiter
`,
    );
  addNodeOptions(command, {
    name: 'a',
    guest: 'kind of machine: sim or qemu (default: what names the machine says)',
  }).action(async (flags: ProtectFlags) => {
    await runForeground(
      {
        ...sharedConfig(flags),
        role: 'protect',
        ...machineOf(flags),
        ...(flags.peer && { peer: flags.peer }),
      },
      { json: flags.json === true },
    );
  });
}

/** The machine that the flags name. */
function machineOf(
  flags: ProtectFlags,
): Pick<NodeConfigInput, 'guest' | 'simSocket' | 'qmpSocket' | 'qemuPid'> {
  const { simSocket, qmp, libvirt, pid, guest } = flags;
  const named = [simSocket, qmp, libvirt].filter((value) => value !== undefined);
  if (named.length !== 1)
    throw new RomulusError(
      'ERR_USAGE_MACHINE',
      `${named.length === 0 ? 'no machine is' : 'more than one machine is'} named`,
      { remedy: 'Give one of --qmp SOCKET, --libvirt DOMAIN and --sim-socket PATH.' },
    );
  const kind = simSocket === undefined ? 'qemu' : 'sim';
  if (guest !== undefined && guest !== kind)
    throw new RomulusError('ERR_USAGE_MACHINE', `--guest ${guest} does not fit the machine named`, {
      remedy: `Leave --guest away, or say --guest ${kind}.`,
    });
  if (simSocket !== undefined) return { guest: kind, simSocket };
  const found = libvirt === undefined ? null : findLibvirtDomain(libvirt);
  const qmpSocket = found?.qmpPath ?? qmp;
  const qemuPid = pid ?? found?.pid;
  return {
    guest: kind,
    ...(qmpSocket !== undefined && { qmpSocket }),
    ...(qemuPid !== undefined && { qemuPid }),
  };
}
