/** Ends a QEMU that must not run any more, in whatever state it is. */
import { readFileSync } from 'node:fs';
import { RomulusError } from '../../base/errors.ts';
import { endProcess, processStartTime } from '../process.ts';
import { QmpClient } from './qmp/qmp-client.ts';

/** How long its monitor may take to answer before its process is looked for. */
const CONNECT_TIMEOUT_MS = 1000;

/**
 * Kills the QEMU behind a QMP socket. A monitor that does not answer (a hung QEMU, or another client
 * on the socket) does not save it: then the process noted before is ended, if its command line still
 * names the socket.
 * @throws {RomulusError} ERR_GUEST_UNREACHABLE when there is none; ERR_GUEST_FENCE when it stays.
 */
export async function endQemu(options: {
  readonly qmpPath: string;
  readonly pid?: number;
}): Promise<void> {
  const { qmpPath, pid } = options;
  let found: number | null = null;
  try {
    const qmp = await QmpClient.connect(qmpPath, { timeoutMs: CONNECT_TIMEOUT_MS });
    found = pid ?? qmp.peerPid;
    qmp.close();
  } catch (error) {
    if (pid === undefined || !commandLineNames(pid, qmpPath)) throw error;
    found = pid;
  }
  if (found <= 0)
    throw new RomulusError('ERR_GUEST_PID', `the process behind ${qmpPath} is not known`, {
      remedy: 'End it by hand.',
    });
  await endProcess(found, processStartTime(found));
}

function commandLineNames(pid: number, qmpPath: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(qmpPath);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH') return false;
    throw error;
  }
}
