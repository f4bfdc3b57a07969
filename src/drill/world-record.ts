/**
 * What the outside world heard, frame by frame, in the order in which it heard it. Columns instead
 * of objects: a drill under a key-value load hears a million frames, and the record crosses a
 * process boundary at the end.
 */

/** Most frames that are recorded; beyond it the drill says that its proof has a hole. */
export const RECORDED_FRAMES_MAX = 8_000_000;
const FIRST_CAPACITY = 4096;

/** One frame as the world heard it. */
export interface HeardFrame {
  /** Index of the line it came from, in the order of the `--node` addresses. */
  readonly source: number;
  /** CLOCK_MONOTONIC, comparable across the processes of one host. */
  readonly arrivalNs: bigint;
  /** True for `line-open`, which carries no output of its own. */
  readonly lineOpen: boolean;
  /** The world had heard this seq before. */
  readonly repeated: boolean;
  readonly stream: number;
  readonly seq: number;
  readonly step: number;
  readonly inputSeq: number;
  /** CRC32C of the whole payload. */
  readonly crc: number;
}

/** The columns, as they cross to the drill. */
export interface RecordColumns {
  readonly count: number;
  readonly source: Uint8Array;
  readonly flags: Uint8Array;
  readonly arrivalNs: BigInt64Array;
  readonly stream: Uint32Array;
  readonly seq: Float64Array;
  readonly step: Float64Array;
  readonly inputSeq: Float64Array;
  readonly crc: Uint32Array;
}

const FLAG_LINE_OPEN = 1;
const FLAG_REPEATED = 2;

function emptyColumns(capacity: number): RecordColumns {
  return {
    count: 0,
    source: new Uint8Array(capacity),
    flags: new Uint8Array(capacity),
    arrivalNs: new BigInt64Array(capacity),
    stream: new Uint32Array(capacity),
    seq: new Float64Array(capacity),
    step: new Float64Array(capacity),
    inputSeq: new Float64Array(capacity),
    crc: new Uint32Array(capacity),
  };
}

/** An append-only list of heard frames. */
export class WorldRecord {
  #columns: RecordColumns;
  #count = 0;
  #overflowed = false;

  constructor(columns?: RecordColumns) {
    this.#columns = columns ?? emptyColumns(FIRST_CAPACITY);
    this.#count = columns?.count ?? 0;
  }

  get count(): number {
    return this.#count;
  }

  /** True when frames were heard that found no room: nothing can be proved then. */
  get overflowed(): boolean {
    return this.#overflowed;
  }

  append(frame: HeardFrame): void {
    if (this.#count >= RECORDED_FRAMES_MAX) {
      this.#overflowed = true;
      return;
    }
    if (this.#count === this.#columns.seq.length) this.#grow();
    const at = this.#count;
    const columns = this.#columns;
    columns.source[at] = frame.source;
    columns.flags[at] =
      (frame.lineOpen ? FLAG_LINE_OPEN : 0) | (frame.repeated ? FLAG_REPEATED : 0);
    columns.arrivalNs[at] = frame.arrivalNs;
    columns.stream[at] = frame.stream;
    columns.seq[at] = frame.seq;
    columns.step[at] = frame.step;
    columns.inputSeq[at] = frame.inputSeq;
    columns.crc[at] = frame.crc;
    this.#count += 1;
  }

  /** @throws {RangeError} when there is no such frame. */
  at(index: number): HeardFrame {
    if (!(index >= 0 && index < this.#count)) throw new RangeError(`no frame ${index}`);
    const columns = this.#columns;
    const flags = columns.flags[index] ?? 0;
    return {
      source: columns.source[index] ?? 0,
      arrivalNs: columns.arrivalNs[index] ?? 0n,
      lineOpen: (flags & FLAG_LINE_OPEN) !== 0,
      repeated: (flags & FLAG_REPEATED) !== 0,
      stream: columns.stream[index] ?? 0,
      seq: columns.seq[index] ?? 0,
      step: columns.step[index] ?? 0,
      inputSeq: columns.inputSeq[index] ?? 0,
      crc: columns.crc[index] ?? 0,
    };
  }

  *[Symbol.iterator](): Iterator<HeardFrame> {
    for (let index = 0; index < this.#count; index += 1) yield this.at(index);
  }

  /** The columns cut to size, to be sent elsewhere. */
  columns(): RecordColumns {
    const count = this.#count;
    const from = this.#columns;
    return {
      count,
      source: from.source.slice(0, count),
      flags: from.flags.slice(0, count),
      arrivalNs: from.arrivalNs.slice(0, count),
      stream: from.stream.slice(0, count),
      seq: from.seq.slice(0, count),
      step: from.step.slice(0, count),
      inputSeq: from.inputSeq.slice(0, count),
      crc: from.crc.slice(0, count),
    };
  }

  #grow(): void {
    const old = this.#columns;
    const next = emptyColumns(old.seq.length * 2);
    next.source.set(old.source);
    next.flags.set(old.flags);
    next.arrivalNs.set(old.arrivalNs);
    next.stream.set(old.stream);
    next.seq.set(old.seq);
    next.step.set(old.step);
    next.inputSeq.set(old.inputSeq);
    next.crc.set(old.crc);
    this.#columns = next;
  }
}
