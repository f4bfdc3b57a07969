/**
 * What this host can do, found out by trying rather than by asking versions, and what a timing
 * thread needs of it. Reads only; the exceptions are `boost...`, which change the scheduling of
 * threads, and what gives a thread a table of descriptors.
 */
import { loadNative } from './load.ts';
import { callNative } from './native-error.ts';

/** Abilities of this host that decide how well a machine can be protected. */
export interface HostFacts {
  /** As `uname -r` says it. */
  readonly kernelRelease: string;
  /** CPU architecture, as `uname -m` says it. */
  readonly machine: string;
  /** The widest vector form of the page kernels that this CPU runs. */
  readonly simd: 'scalar' | 'avx2' | 'avx512';
  /** CPUs that this process may use. */
  readonly cores: number;
  readonly memoryBytes: number;
  /** A userfaultfd with asynchronous write protection could be made. */
  readonly userfaultfd: boolean;
  /** PAGEMAP_SCAN answered. With `userfaultfd`, the tracker `uffd-wp` works. */
  readonly pagemapScan: boolean;
  /** A written page showed its soft-dirty bit. */
  readonly softDirty: boolean;
  /** This process holds CAP_SYS_PTRACE, so it may attach to machines of other users. */
  readonly ptraceCapability: boolean;
  /** kernel.yama.ptrace_scope, -1 where yama is absent. */
  readonly yamaScope: number;
  /** vm.max_map_count: bounds the scattered dirty pages of the tracker `mprotect`. */
  readonly mapCountMax: number;
}

interface HostNative {
  hostFacts(): HostFacts;
  monotonicNs(): bigint;
  boostThread(): 'rr' | 'nice' | 'none';
  easeThread(): boolean;
  wasCalledUp(): boolean;
  becomeProgram(path: string, words: readonly string[]): string;
  learnPool(): number;
  boostMain(isBoosted: boolean): boolean;
  socketPeer(fd: number): { readonly pid: number; readonly uid: number };
  learnPipes(): void;
  isolateDescriptors(): number[];
  closeLoopDescriptors(descriptors: readonly number[]): void;
}

/** Tries out what this host can do; takes about a millisecond. */
export function hostFacts(): HostFacts {
  return callNative(() => loadNative<HostNative>().hostFacts());
}

/** CLOCK_MONOTONIC in nanoseconds: the same clock in every thread and process of this host. */
export function monotonicNs(): bigint {
  return loadNative<HostNative>().monotonicNs();
}

/**
 * Puts the calling thread ahead of ordinary threads: real-time round robin (`rr`) where this user
 * may, else a better niceness (`nice`), else nothing (`none`). For the heartbeat thread.
 */
export function boostThread(): 'rr' | 'nice' | 'none' {
  return loadNative<HostNative>().boostThread();
}

/**
 * Puts the calling thread, which is the heartbeat thread, among ordinary ones again, at the best
 * niceness there is: still ahead of nearly all, and Linux looks for an idle CPU for it whenever it wakes.
 * A real-time thread it wakes on the CPU of last time, whoever runs there and however idle the others are.
 * A capture that will take long makes it a real-time thread again (`wasCalledUp`).
 * @returns false, and nothing is changed, when that niceness is not allowed, or with one CPU only.
 */
export function easeThread(): boolean {
  return loadNative<HostNative>().easeThread();
}

/** Whether a capture made the heartbeat thread a real-time one since this was asked last. */
export function wasCalledUp(): boolean {
  return loadNative<HostNative>().wasCalledUp();
}

/**
 * Finds out which threads are Node's pool for file operations, so that `boostMain` can put them
 * ahead too; takes a moment after the call. The register is a file: on a saturated host a change of
 * it waited up to 240 ms for them.
 * @returns how many are known so far.
 */
export function learnPool(): number {
  return callNative(() => loadNative<HostNative>().learnPool());
}

/**
 * Puts the process's main thread, and its pool for file operations once `learnPool` found it, ahead
 * of ordinary threads for the time of a failover, or back among them. Called by the heartbeat thread: on a saturated host the main thread would get to
 * hear of a death late, and to act on it later.
 * @returns false when that is not allowed.
 */
export function boostMain(isBoosted: boolean): boolean {
  return loadNative<HostNative>().boostMain(isBoosted);
}

/**
 * Who made the listening socket at the other end of a connected unix socket; pid 0 when that
 * process lives in a pid namespace that we cannot see.
 * @throws {RomulusError} ERR_HOST_SOCKET_PEER when it is not a connected socket.
 */
export function socketPeer(fd: number): { readonly pid: number; readonly uid: number } {
  return callNative(() => loadNative<HostNative>().socketPeer(fd));
}

/**
 * Remembers which pipes are open, for `isolateDescriptors` in a thread that is started next. To be
 * called by the thread that starts child processes: a pipe that it opens later on, and waits at for a
 * child's start, must have no copy in another thread's table, or it would wait for ever.
 */
export function learnPipes(): void {
  loadNative<HostNative>().learnPipes();
}

/**
 * Gives the calling thread a table of descriptors of its own, without what other threads own (see
 * native-sim/src/thread_files.cc for why). Sockets it opens from then on close the moment the
 * process is killed, not when its memory is torn down. Call it before the first of them, and
 * `learnPipes` before starting the thread; does nothing where the kernel refuses.
 * @returns descriptors of the thread's event loop of which the other threads' table keeps copies:
 *   for `closeLoopDescriptors` in the thread that started this one, once this one has ended.
 */
export function isolateDescriptors(): readonly number[] {
  return loadNative<HostNative>().isolateDescriptors();
}

/** Closes the copies that an ended, isolated thread's event loop left in this thread's table. */
export function closeLoopDescriptors(descriptors: readonly number[]): void {
  loadNative<HostNative>().closeLoopDescriptors(descriptors);
}

/**
 * This process goes on as another program, with its pid, its environment and its standard streams; all
 * else of it ends here (execv(2)).
 * @returns only when that cannot be done: the reason.
 */
export function becomeProgram(path: string, words: readonly string[]): string {
  return loadNative<HostNative>().becomeProgram(path, words);
}
