/**
 * Starts a stock QEMU with the test guest in it: as a user would, without a thought of replication.
 * Its RAM is ordinary, it has a QMP socket, two serial ports and nothing else unless asked for.
 */
import type { GuestImage } from './guest-image.ts';

/** What the machine is like. */
export interface MachineOptions {
  readonly memoryMib: number;
  /** Programs of the test guest to run, as in `test-guest/README.md`. */
  readonly run: readonly string[];
  /** More words for the kernel, such as `romulus.dirty=4000/25ms`. */
  readonly kernelArgs?: readonly string[];
  /** QEMU's machine type; `q35` by default. */
  readonly machine?: string;
  readonly accelerator?: 'tcg' | 'kvm';
  /** CPU model; by default `max`, which only migrates between QEMUs of one version, or `kvm64` under KVM. */
  readonly cpu?: string;
  readonly cpuCount?: number;
  /** Instead of the Linux guest, the one without any system. */
  readonly bare?: boolean;
  readonly extraArgs?: readonly string[];
}

/** Where the machine's sockets are. */
export interface MachinePaths {
  readonly qmp: string;
  readonly console: string;
  readonly control: string;
}

/** Names of the machine's character devices, for a mapping. */
export const CONSOLE_ID = 'console';
export const CONTROL_ID = 'control';

const ACCELERATORS = { tcg: 'tcg,thread=multi', kvm: 'kvm' } as const;
/** A nested KVM may lack registers that `max` has, and QEMU then ends as it starts the machine. */
const CPUS = { tcg: 'max', kvm: 'kvm64' } as const;

/** The arguments of QEMU for such a machine. Both serial sockets must be listened on already. */
export function machineArguments(
  image: GuestImage,
  paths: MachinePaths,
  options: MachineOptions,
): string[] {
  const kernelArgs = [
    'console=ttyS0',
    'loglevel=5',
    'panic=-1',
    `romulus.run=${options.run.join(',')}`,
    ...(options.kernelArgs ?? []),
  ];
  const system: [string, string][] = options.bare
    ? [['-kernel', image.bare]]
    : [
        ['-kernel', image.kernel],
        ['-initrd', image.initrd],
        ['-append', kernelArgs.join(' ')],
      ];
  const accelerator = options.accelerator ?? 'tcg';
  const pairs: [string, string][] = [
    ['-machine', options.machine ?? 'q35'],
    ['-accel', ACCELERATORS[accelerator]],
    ['-cpu', options.cpu ?? CPUS[accelerator]],
    ['-smp', String(options.cpuCount ?? 1)],
    ['-m', String(options.memoryMib)],
    ['-display', 'none'],
    ...system,
    ['-chardev', `socket,id=${CONSOLE_ID},path=${paths.console},server=off`],
    ['-serial', `chardev:${CONSOLE_ID}`],
    ['-chardev', `socket,id=${CONTROL_ID},path=${paths.control},server=off`],
    ['-serial', `chardev:${CONTROL_ID}`],
    ['-qmp', `unix:${paths.qmp},server=on,wait=off`],
  ];
  return ['-nodefaults', ...pairs.flat(), ...(options.extraArgs ?? [])];
}
