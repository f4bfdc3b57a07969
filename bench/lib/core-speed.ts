/**
 * How fast the cores are that a thread runs on. The hardware threads of a virtual machine's processors are
 * often one half of a core each, whose other half runs what other tenants run: for seconds on end all work
 * then takes up to twice as long, and no counter of this host shows it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism, constants, setPriority } from 'node:os';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const WITNESS = fileURLToPath(new URL('./core-witness.mjs', import.meta.url));
const WHERE_EVERY_MS = 10;
/** Field 39 of `stat` (proc(5)), counted from the state, which is field 3. */
const PROCESSOR_INDEX = 36;
/** So that one sample that was lucky is not what all are compared with. */
const QUICKEST_SHARE = 0.02;

interface Sample {
  readonly atMs: number;
  readonly value: number;
}

/** A witness on each core. Times are of `performance.now()`'s clock, in which a monotonic clock counts. */
export class CoreSpeed {
  readonly #witnesses: readonly ChildProcess[];
  /** Of each core: how long the work took. */
  readonly #samples: readonly Sample[][];
  #where: Sample[] = [];

  private constructor(cores: number) {
    this.#samples = Array.from({ length: cores }, () => []);
    this.#witnesses = this.#samples.map((samples, core) => {
      const words = ['-c', String(core), process.execPath, WITNESS];
      const witness = spawn('taskset', words, { stdio: ['ignore', 'pipe', 'inherit'] });
      witness.on('error', () => undefined);
      prefer(witness.pid);
      const offsetMs = Number(process.hrtime.bigint()) / 1e6 - performance.now();
      createInterface({ input: witness.stdout }).on('line', (line) => {
        const [atNs = Number.NaN, tookNs = Number.NaN] = line.split(' ').map(Number);
        samples.push({ atMs: atNs / 1e6 - offsetMs, value: tookNs });
      });
      return witness;
    });
  }

  static start(): CoreSpeed {
    return new CoreSpeed(availableParallelism());
  }

  /** Notes from now on which core a thread is on; what is returned ends that. */
  follow(pid: number, thread: number): () => void {
    this.#where = [];
    const look = (): void => {
      this.#where.push({ atMs: performance.now(), value: processorOf(pid, thread) });
    };
    look();
    const timer = setInterval(look, WHERE_EVERY_MS);
    return () => clearInterval(timer);
  }

  /**
   * How slow the cores were that the followed thread was on, or all where none is followed: the mean of
   * their samples in that time, nanoseconds; null when there were none.
   */
  slowness(fromMs: number, toMs: number): number | null {
    const where = within(this.#where, fromMs - WHERE_EVERY_MS, toMs);
    const cores = new Set(where.map(({ value }) => value));
    const samples = this.#samples
      .filter((_, core) => this.#where.length === 0 || cores.has(core))
      .flatMap((ofCore) => within(ofCore, fromMs, toMs));
    if (samples.length === 0) return null;
    return samples.reduce((sum, { value }) => sum + value, 0) / samples.length;
  }

  /** Of a core that has all its units to itself, nanoseconds. */
  get quickest(): number {
    const values = this.#samples.flat().map(({ value }) => value);
    return values.sort((a, b) => a - b)[Math.floor(values.length * QUICKEST_SHARE)] ?? Number.NaN;
  }

  close(): void {
    for (const witness of this.#witnesses) witness.kill();
  }
}

/** The samples of a time; they are in its order. */
function within(samples: readonly Sample[], fromMs: number, toMs: number): readonly Sample[] {
  const firstFrom = (ms: number): number => {
    let [low, high] = [0, samples.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((samples[middle]?.atMs ?? 0) < ms) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  return samples.slice(firstFrom(fromMs), firstFrom(toMs));
}

function processorOf(pid: number, thread: number): number {
  const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'latin1');
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[PROCESSOR_INDEX]);
}

/** A witness that has to wait for a busy core says less often how fast it is, and nothing wrong. */
function prefer(pid: number | undefined): void {
  try {
    if (pid !== undefined) setPriority(pid, constants.priority.PRIORITY_HIGH);
  } catch {
    // Only root may.
  }
}
