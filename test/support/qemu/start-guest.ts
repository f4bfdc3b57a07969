/** A real QEMU with the test guest, for tests: started, talked to, and gone without a trace. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ControlLine } from '../../../src/drill/qemu/control-line.ts';
import { type GuestImage, guestImage } from '../../../src/drill/qemu/guest-image.ts';
import { type MachineOptions, machineArguments } from '../../../src/drill/qemu/machine.ts';
import { ensureQemu } from '../../../src/drill/qemu/qemu-versions.ts';
import { SerialLine } from '../../../src/drill/qemu/serial-line.ts';

const QMP_WAIT_MS = 10_000;
const BOOT_WAIT_MS = 60_000;
const POLL_MS = 10;
const STDERR_CHARACTERS_MAX = 64 * 1024;
/** __SO_ACCEPTCON, as /proc/net/unix shows it. */
const LISTENING_FLAGS = '00010000';

export interface GuestOptions extends Partial<MachineOptions> {
  /** QEMU to run; the system's by default. */
  readonly qemu?: string;
  /** Resolve as soon as its monitors listen, without waiting for the guest to boot. */
  readonly bootWait?: boolean;
  /** The test guest without services by default. */
  readonly image?: GuestImage;
  /** Where a second monitor, its user's, listens; none by default. */
  readonly userQmp?: string;
  /** What QEMU is run by, such as `ip netns exec NAME`. */
  readonly launcher?: readonly string[];
}

/** A running machine. */
export interface RunningGuest {
  readonly pid: number;
  readonly process: ChildProcess;
  readonly directory: string;
  readonly qmpPath: string;
  /** The arguments it was started with. */
  readonly args: readonly string[];
  /** Its first serial port: what its programs say. */
  readonly serial: SerialLine;
  /** Asks its control line (second serial port): `check`, `dmesg`, `set dirty 4000/25ms`, ... */
  readonly command: (text: string) => Promise<string[]>;
  /** What QEMU itself complained about. */
  readonly stderr: () => string;
  /** Settles when QEMU is gone. */
  readonly gone: Promise<void>;
  /** Kills QEMU and removes every socket and file of it. Idempotent. */
  readonly stop: () => Promise<void>;
}

/** Whether a process's network has a listener there: a socket's file stands a moment before it listens. */
function listens(pid: number, path: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/net/unix`, 'utf8')
      .split('\n')
      .some((line) => line.endsWith(` ${path}`) && line.split(/\s+/)[3] === LISTENING_FLAGS);
  } catch {
    return false;
  }
}

/** Starts the machine and waits until its programs run (or, `bare` or without `bootWait`, until its monitors listen). */
export async function startGuest(options: GuestOptions = {}): Promise<RunningGuest> {
  const image = options.image ?? (await guestImage());
  const binary = options.qemu ?? (await ensureQemu());
  const directory = mkdtempSync(join(tmpdir(), 'romulus-guest-'));
  const paths = {
    qmp: join(directory, 'qmp.sock'),
    console: join(directory, 'console.sock'),
    control: join(directory, 'control.sock'),
  };
  const serial = await SerialLine.listen(paths.console);
  const controlPort = await SerialLine.listen(paths.control);
  const control = new ControlLine(controlPort);
  const second = options.userQmp === undefined ? [] : [options.userQmp];
  const args = [
    ...machineArguments(image, paths, { memoryMib: 256, run: ['counter'], ...options }),
    ...second.flatMap((path) => ['-qmp', `unix:${path},server=on,wait=off`]),
  ];
  const [command = binary, ...words] = [...(options.launcher ?? []), binary, ...args];
  const child = spawn(command, words, { stdio: ['ignore', 'ignore', 'pipe'], cwd: directory });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    if (stderr.length < STDERR_CHARACTERS_MAX) stderr += text;
  });
  let isGone = false;
  const gone = new Promise<void>((resolve) => {
    const finish = (): void => {
      isGone = true;
      resolve();
    };
    child.once('exit', finish);
    child.once('error', (error) => {
      stderr += error.message;
      finish();
    });
  });
  const killNow = (): void => {
    child.kill('SIGKILL');
  };
  process.once('exit', killNow);
  const stop = async (): Promise<void> => {
    process.removeListener('exit', killNow);
    if (!isGone) child.kill('SIGKILL');
    await gone;
    await serial.close();
    await controlPort.close();
    rmSync(directory, { recursive: true, force: true });
  };
  try {
    const deadlineMs = performance.now() + QMP_WAIT_MS;
    while (![paths.qmp, ...second].every((path) => listens(child.pid ?? 0, path))) {
      if (isGone || performance.now() > deadlineMs)
        throw new Error(`${binary} did not start: ${stderr}`);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    if (options.bare !== true && options.bootWait !== false)
      await serial.waitFor('ready', (text) => text.startsWith('ready'), { withinMs: BOOT_WAIT_MS });
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    pid: child.pid ?? 0,
    process: child,
    directory,
    qmpPath: paths.qmp,
    args,
    serial,
    command: (text) => control.command(text),
    stderr: () => stderr,
    gone,
    stop,
  };
}
