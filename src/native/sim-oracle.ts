/**
 * The oracle of the simulated machine: computes from the seed and the record of inputs what RAM,
 * disk and every emitted frame must be at any step, on memory of its own.
 *
 * It runs the very program that the machine runs (native-sim/src/sim_program.h);
 * `test/native/sim-reference.ts` is the second, independent implementation that checks the program.
 * Synchronous: give `runTo` a bound and call it again to show progress. Not for use on a thread
 * that has something urgent to do.
 */
import { loadNative } from './load.ts';
import { Memory, type MemoryHandle } from './memory.ts';
import { callNative } from './native-error.ts';

interface OracleHandle {
  readonly oracleHandle: never;
}

interface OracleNative {
  simOracleCreate(
    workload: string,
    seed: bigint,
    beacons: number,
    ram: MemoryHandle,
    disk: MemoryHandle,
  ): OracleHandle;
  simOracleInput(
    handle: OracleHandle,
    step: number,
    seq: number,
    op: number,
    stream: number,
    data: Uint8Array,
  ): void;
  simOracleRunTo(handle: OracleHandle, step: number, stepsMax: number): void;
  simOracleRegisters(handle: OracleHandle): OracleRegisters;
  simOracleFrames(handle: OracleHandle, fromSeq: number, countMax: number): Buffer[];
  simOracleForget(handle: OracleHandle, throughSeq: number): void;
}

/** An input of the world, as the machine consumed it (`src/guests/sim/port.ts`). */
export interface OracleInput {
  readonly op: 'open' | 'data' | 'close';
  readonly stream: number;
  readonly seq: number;
  readonly data: Uint8Array;
}

export interface SimOracleOptions {
  readonly memoryBytes: number;
  readonly diskBytes: number;
  readonly workload: string;
  /** 0 to 2^64 - 1. */
  readonly seed: bigint;
  /** Output frames per million steps, as the machine's `info` says. */
  readonly beacons: number;
}

/** Where the program stands. */
export interface OracleRegisters {
  /** Instructions executed. */
  readonly step: number;
  /** Seq of the last emit. */
  readonly emitSeq: number;
  /** Last input consumed. */
  readonly inputSeq: number;
  readonly diskWrites: number;
  /** The running hash, which depends on everything the program ever read. */
  readonly hash: bigint;
}

const OP_CODES: Readonly<Record<OracleInput['op'], number>> = { open: 0, data: 1, close: 2 };
const NO_BOUND = Number.MAX_SAFE_INTEGER;

/** A run of the machine's program from step 0. */
export class SimOracle {
  readonly #native: OracleNative;
  readonly #handle: OracleHandle;
  /** RAM at `registers.step`. */
  readonly ram: Memory;
  /** The disk at `registers.step`. */
  readonly disk: Memory;

  /** @throws {RomulusError} ERR_USAGE_* when the settings are those of no machine. */
  constructor(options: SimOracleOptions) {
    this.#native = loadNative<OracleNative>();
    this.ram = Memory.create({ name: 'romulus-oracle-ram', bytes: options.memoryBytes });
    this.disk = Memory.create({ name: 'romulus-oracle-disk', bytes: options.diskBytes });
    try {
      this.#handle = callNative(() =>
        this.#native.simOracleCreate(
          options.workload,
          options.seed,
          options.beacons,
          this.ram.handle,
          this.disk.handle,
        ),
      );
    } catch (error) {
      this.close();
      throw error;
    }
  }

  get registers(): OracleRegisters {
    return callNative(() => this.#native.simOracleRegisters(this.#handle));
  }

  /**
   * Has the instruction `step` consume this input. In order of seq, at most one a step, ahead of
   * where the oracle stands.
   * @throws {RomulusError} ERR_USAGE_ORACLE_INPUT
   */
  input(step: number, frame: OracleInput): void {
    callNative(() =>
      this.#native.simOracleInput(
        this.#handle,
        step,
        frame.seq,
        OP_CODES[frame.op],
        frame.stream,
        frame.data,
      ),
    );
  }

  /**
   * Executes instructions up to and including `step`, but at most `stepsMax`; returns the step
   * reached.
   * @throws {RomulusError} ERR_USAGE_ORACLE_INPUT when a scheduled input cannot be consumed at its
   *   step, ERR_LIMIT_ORACLE_FRAMES when too many frames are kept.
   */
  runTo(step: number, stepsMax: number = NO_BOUND): number {
    callNative(() => this.#native.simOracleRunTo(this.#handle, step, stepsMax));
    return this.registers.step;
  }

  /**
   * The payloads emitted so far, as they stand on the wire, from seq `fromSeq` on.
   * @throws {RomulusError} ERR_USAGE_ORACLE_FRAMES when they were forgotten.
   */
  frames(fromSeq: number = 1, countMax: number = NO_BOUND): Buffer[] {
    return callNative(() => this.#native.simOracleFrames(this.#handle, fromSeq, countMax));
  }

  /** Lets go of frames up to `throughSeq`, in long runs. */
  forget(throughSeq: number): void {
    callNative(() => this.#native.simOracleForget(this.#handle, throughSeq));
  }

  /**
   * Compares with a machine's RAM (`/proc/PID/fd/N` while it is stopped): the first page that
   * differs, -1 when none does.
   * @throws {RomulusError} ERR_HOST_MEMORY_* when it cannot be mapped.
   */
  ramCompare(path: string): number {
    return comparePath(this.ram, path);
  }

  /** As `ramCompare`, for the disk: the first differing 4096 bytes, -1 when none differ. */
  diskCompare(path: string): number {
    return comparePath(this.disk, path);
  }

  /** Lets go of the memory. Idempotent. */
  close(): void {
    this.ram.close();
    this.disk.close();
  }
}

function comparePath(own: Memory, path: string): number {
  const other = Memory.map({ path, bytes: own.bytes, writable: false });
  try {
    return own.compare(other);
  } finally {
    other.close();
  }
}
