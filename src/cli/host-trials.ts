/**
 * What `romulus doctor` tries with a process or a thread of its own, because nothing less shows whether
 * it works. All of it is gone when the trial is over.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { RomulusError, toRomulusError } from '../base/errors.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { Tracker } from '../native/tracker.ts';
import { workerUrl } from '../native/worker-url.ts';

/** How long a process of the trial lives, should this one not live to end it, seconds. */
export const STRANGER_LIFE_S = 11;
/** How often, 10 ms apart, is looked whether it has begun. */
const STRANGER_LOOKS_MAX = 200;
const TOOL_WAIT_MS = 10_000;
const MAPPED_LINE = /^([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ 0 /m;
const CXX20 = '#include <bit>\nstatic_assert(std::popcount(7U) == 3);\n';

/** What attaching came to: how it was tried, and what was in the way. */
export interface AttachTrial {
  /** `whole`: as a machine is attached to; `rights`: no more than the right to its memory. */
  readonly tried: 'whole' | 'rights';
  readonly error: RomulusError | null;
}

/**
 * Attaches to a process of this user that, like a machine, is no child of ours: to its children
 * yama lets anybody attach.
 */
export function tryToAttach(canTrack: boolean): AttachTrial {
  let pid: number | null = null;
  try {
    pid = startStranger();
    if (canTrack) attachTo(pid);
    else openMemory(pid);
    return { tried: canTrack ? 'whole' : 'rights', error: null };
  } catch (error) {
    return { tried: canTrack ? 'whole' : 'rights', error: toRomulusError(error) };
  } finally {
    if (pid !== null) end(pid);
  }
}

/** The kernel asks for the right to ptrace before it opens this. */
function openMemory(pid: number): void {
  try {
    closeSync(openSync(`/proc/${pid}/mem`, 'r'));
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code !== 'EACCES' && code !== 'EPERM') throw cause;
    throw new RomulusError('ERR_HOST_ATTACH_PERMISSION', message, {
      remedy: 'Set kernel.yama.ptrace_scope to 0, or grant CAP_SYS_PTRACE.',
      cause,
    });
  }
}

function end(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It lived its time on a slow host, or somebody else ended it.
  }
}

/** A process that sleeps; its parent has ended, so that it is nobody's of ours. */
function startStranger(): number {
  const { stdout, error } = spawnSync(
    '/bin/sh',
    ['-c', `sleep ${STRANGER_LIFE_S} > /dev/null 2>&1 & echo $!`],
    { encoding: 'utf8' },
  );
  if (error !== undefined) throw error;
  const pid = Number(stdout.trim());
  assert(Number.isSafeInteger(pid) && pid > 0, 'a shell tells the process that it started');
  for (let look = 0; look < STRANGER_LOOKS_MAX; look += 1) {
    if (readFileSync(`/proc/${pid}/comm`, 'utf8').trim() !== 'sh') break;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
  }
  return pid;
}

function attachTo(pid: number): void {
  const found = MAPPED_LINE.exec(readFileSync(`/proc/${pid}/maps`, 'utf8'));
  assert(found !== null, 'every process has memory of its own');
  const address = BigInt(`0x${found[1]}`);
  const tracker = new Tracker({ pid, ranges: [{ address, bytes: PAGE_BYTES }], kind: 'uffd-wp' });
  try {
    tracker.scan(0);
  } finally {
    tracker.close();
  }
}

/** Which priority a heartbeat thread of this user would get. */
export async function priorityToBeHad(): Promise<'rr' | 'nice' | 'none'> {
  const worker = new Worker(workerUrl('./priority-trial-worker', import.meta.url));
  return await new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
}

/**
 * Which of the tools that build the native part are missing, or too old.
 * @param compiler as CXX has it; more than one word (`ccache g++`) is for a shell, and only its first is looked for.
 */
export function missingTools(compiler = process.env['CXX'] ?? 'g++'): string[] {
  const [program = 'g++', ...more] = compiler.split(/\s+/).filter((word) => word !== '');
  const compiling = ['-std=c++20', '-fsyntax-only', '-x', 'c++', '-'];
  const trials: readonly (readonly [string, string, readonly string[], string])[] = [
    more.length === 0
      ? [`${program} with C++20`, program, compiling, CXX20]
      : [program, program, ['--version'], ''],
    ['make', 'make', ['--version'], ''],
    ['python3', 'python3', ['--version'], ''],
  ];
  return trials.flatMap(([name, program, words, input]) => {
    const { status } = spawnSync(program, [...words], { input, timeout: TOOL_WAIT_MS });
    return status === 0 ? [] : [name];
  });
}
