/**
 * The outside world of a machine: it hears every node's line, acknowledges what the machine emits,
 * and hands streams of bytes in. It stands where clients and their TCP stand for a real machine,
 * so a stream survives a failover: the promoted copy says `line-open`, repeats what was not
 * acknowledged, and is given again what it has not consumed.
 *
 * It trusts no node: it delivers emits in order of their seq, whoever they came from, and compares
 * every repeated emit with what it heard before. It decides nothing about who may run.
 */
import { assert } from '../base/assert.ts';
import { crc32c } from '../codec/checksum.ts';
import type { Endpoint } from '../engine/config.ts';
import {
  decodeMachineFrame,
  type EmitFrame,
  encodeWorldFrame,
  INPUT_DATA_BYTES_MAX,
  INPUT_WINDOW_FRAMES,
  type InputOp,
  type LineOpenFrame,
  type MachineFrame,
} from '../guests/sim/port.ts';
import { LineClient } from './line-client.ts';
import { WorldRecord } from './world-record.ts';

/** Input handed over but not yet known to be consumed; beyond it writers are asked to wait. */
export const INPUT_BACKLOG_BYTES_MAX = 4 * 1024 * 1024;
/** Emits whose checksums are kept for comparison when nothing is recorded. */
export const REPEAT_WINDOW_FRAMES = 65_536;
/** With input outstanding and none consumed for this long, all of it is sent again. */
export const INPUT_RESEND_MS = 500;

/** What happens on one stream of bytes to the machine. */
export interface StreamHandlers {
  readonly onData: (data: Buffer) => void;
  /** The machine closed the stream; nothing follows. */
  readonly onClose: () => void;
}

/** One stream of bytes into the machine and back. */
export interface WorldStream {
  readonly id: number;
  write(data: Uint8Array): void;
  close(): void;
}

/** An input as the machine was given it, for the oracle. */
export interface RecordedInput {
  readonly seq: number;
  readonly op: InputOp;
  readonly stream: number;
  readonly data: Uint8Array;
}

/** How the world stands at this instant. */
export interface WorldStatus {
  readonly linesUp: readonly boolean[];
  readonly framesHeard: readonly number[];
  readonly lastArrivalNs: readonly (bigint | null)[];
  readonly heardLast: number | null;
  readonly seqHeard: number;
  readonly framesRepeated: number;
  readonly framesUnlike: number;
  readonly framesAhead: number;
  readonly framesGarbled: number;
  readonly inputsWaiting: number;
  readonly inputsConsumed: number;
  readonly inputBacklogBytes: number;
}

export interface WorldOptions {
  readonly lines: readonly Endpoint[];
  /** Keep everything heard and sent; a gateway that runs for months does not. */
  readonly record: boolean;
  /** Something about a line worth a log entry. */
  readonly onNotice: (line: number, text: string) => void;
}

/** Input that waits for a number, or for word that it was consumed. */
interface QueuedInput {
  readonly op: InputOp;
  readonly stream: number;
  readonly data: Uint8Array;
}

interface OpenStream {
  readonly handlers: StreamHandlers;
  /**
   * The machine consumed our opening. Until then whatever carries this number belongs to a stream
   * of an earlier world, which numbered its own alike and did not live to acknowledge it.
   */
  known: boolean;
}

/** The world outside: lines to every node, one sequence of emits, one sequence of inputs. */
export class World {
  readonly record = new WorldRecord();
  readonly inputs: RecordedInput[] = [];
  readonly #options: WorldOptions;
  readonly #lines: LineClient[];
  readonly #streams = new Map<number, OpenStream>();
  readonly #crcBySeq = new Map<number, number>();
  readonly #framesHeard: number[];
  readonly #lastArrivalNs: (bigint | null)[];
  readonly #resendTimer: NodeJS.Timeout;
  readonly #drainListeners = new Set<() => void>();
  #heardLast: number | null = null;
  #seqHeard = 0;
  #framesRepeated = 0;
  #framesUnlike = 0;
  #framesAhead = 0;
  #framesGarbled = 0;
  /** Input of ours that is not known to be consumed: first what is on its way, then what waits. */
  #queue: QueuedInput[] = [];
  #onTheWay = 0;
  #inputBacklogBytes = 0;
  #inputsConsumed = 0;
  #consumedAtLastTick = 0;
  #aheadAtLastTick = 0;
  #nextStream = 1;
  #acknowledgeTo: number | null = null;

  constructor(options: WorldOptions) {
    this.#options = options;
    this.#framesHeard = options.lines.map(() => 0);
    this.#lastArrivalNs = options.lines.map(() => null);
    this.#lines = options.lines.map(
      (line, index) =>
        new LineClient({
          ...line,
          onFrame: (payload, arrivalNs) => this.#handlePayload(index, payload, arrivalNs),
          onChunkEnd: () => this.#acknowledge(),
          onUp: () => {
            options.onNotice(index, 'line up');
            if (this.#heardLast === null) this.#sayHello();
          },
          onDown: (why) => options.onNotice(index, `line down: ${why}`),
        }),
    );
    this.#resendTimer = setInterval(() => this.#resendIfStuck(), INPUT_RESEND_MS);
  }

  status(): WorldStatus {
    return {
      linesUp: this.#lines.map((line) => line.up),
      framesHeard: [...this.#framesHeard],
      lastArrivalNs: [...this.#lastArrivalNs],
      heardLast: this.#heardLast,
      seqHeard: this.#seqHeard,
      framesRepeated: this.#framesRepeated,
      framesUnlike: this.#framesUnlike,
      framesAhead: this.#framesAhead,
      framesGarbled: this.#framesGarbled,
      inputsWaiting: this.#queue.length,
      inputsConsumed: this.#inputsConsumed,
      inputBacklogBytes: this.#inputBacklogBytes,
    };
  }

  /** True while writers should wait for `onDrain`. */
  get saturated(): boolean {
    return this.#inputBacklogBytes > INPUT_BACKLOG_BYTES_MAX;
  }

  /** Calls back once, when input may be written again. */
  onDrain(listener: () => void): void {
    this.#drainListeners.add(listener);
  }

  /** Opens a new stream of bytes into the machine. */
  openStream(handlers: StreamHandlers): WorldStream {
    const id = this.#nextStream;
    this.#nextStream += 1;
    this.#streams.set(id, { handlers, known: false });
    this.#input('open', id, new Uint8Array(0));
    return {
      id,
      write: (data) => {
        if (!this.#streams.has(id)) return;
        for (let at = 0; at < data.byteLength; at += INPUT_DATA_BYTES_MAX)
          this.#input('data', id, new Uint8Array(data.subarray(at, at + INPUT_DATA_BYTES_MAX)));
      },
      close: () => {
        if (this.#streams.delete(id)) this.#input('close', id, new Uint8Array(0));
      },
    };
  }

  /** Hangs up every line. Idempotent. */
  close(): void {
    clearInterval(this.#resendTimer);
    for (const line of this.#lines) line.close();
  }

  #handlePayload(source: number, payload: Buffer, arrivalNs: bigint): void {
    let frame: MachineFrame;
    try {
      frame = decodeMachineFrame(payload);
    } catch (error) {
      this.#framesGarbled += 1;
      this.#options.onNotice(source, error instanceof Error ? error.message : String(error));
      return;
    }
    this.#framesHeard[source] = (this.#framesHeard[source] ?? 0) + 1;
    this.#lastArrivalNs[source] = arrivalNs;
    this.#heardLast = source;
    this.#acknowledgeTo = source;
    const crc = crc32c(payload);
    const repeated = frame.kind === 'emit' && frame.seq <= this.#seqHeard;
    if (this.#options.record)
      this.record.append({
        source,
        arrivalNs,
        lineOpen: frame.kind === 'line-open',
        repeated,
        stream: frame.kind === 'emit' ? frame.stream : 0,
        seq: frame.seq,
        step: frame.step,
        inputSeq: frame.inputSeq,
        crc,
      });
    this.#consumedThrough(frame.inputSeq);
    if (frame.kind === 'line-open') this.#handleLineOpen(frame);
    else if (repeated) this.#handleRepeated(frame, crc);
    else this.#handleNew(frame, crc);
  }

  #handleLineOpen(frame: LineOpenFrame): void {
    // Joining late, we begin where the machine can still begin.
    if (this.#seqHeard === 0) this.#seqHeard = Math.max(frame.seq - 1, 0);
    this.#onTheWay = 0;
    this.#sendInputs();
  }

  #handleRepeated(frame: EmitFrame, crc: number): void {
    this.#framesRepeated += 1;
    const heard = this.#crcBySeq.get(frame.seq);
    if (heard !== undefined && heard !== crc) this.#framesUnlike += 1;
  }

  #handleNew(frame: EmitFrame, crc: number): void {
    // The first emit heard sets the count: a world that joins late did not hear what came before.
    const expected = this.#seqHeard === 0 ? frame.seq : this.#seqHeard + 1;
    if (frame.seq !== expected) {
      this.#framesAhead += 1;
      return;
    }
    this.#seqHeard = frame.seq;
    this.#crcBySeq.set(frame.seq, crc);
    if (!this.#options.record) this.#crcBySeq.delete(frame.seq - REPEAT_WINDOW_FRAMES);
    const stream = this.#streams.get(frame.stream);
    if (stream?.known !== true) return;
    if (frame.op === 'data' && frame.data.byteLength > 0)
      stream.handlers.onData(Buffer.from(frame.data));
    if (frame.op === 'close') {
      this.#streams.delete(frame.stream);
      stream.handlers.onClose();
    }
  }

  #acknowledge(): void {
    if (this.#acknowledgeTo === null) return;
    const payload = encodeWorldFrame({ kind: 'acknowledge', seq: this.#seqHeard });
    this.#lines[this.#acknowledgeTo]?.send(payload);
    this.#acknowledgeTo = null;
  }

  #input(op: InputOp, stream: number, data: Uint8Array): void {
    this.#queue.push({ op, stream, data });
    this.#inputBacklogBytes += data.byteLength;
    this.#sendInputs();
  }

  /** Sends what the machine's window has room for, to whoever was heard last. */
  #sendInputs(): void {
    const source = this.#heardLast;
    // How inputs are counted is known only from what the machine says.
    if (source === null) return;
    while (this.#onTheWay < Math.min(this.#queue.length, INPUT_WINDOW_FRAMES)) {
      const input = this.#queue[this.#onTheWay];
      assert(input !== undefined, 'the queue is as long as it says');
      this.#onTheWay += 1;
      const seq = this.#inputsConsumed + this.#onTheWay;
      if (this.#options.record && this.inputs.length < seq) this.inputs.push({ seq, ...input });
      this.#lines[source]?.send(encodeWorldFrame({ kind: 'input', seq, ...input }));
    }
  }

  #consumedThrough(inputSeq: number): void {
    if (inputSeq <= this.#inputsConsumed) return;
    const gone = inputSeq - this.#inputsConsumed;
    this.#inputsConsumed = inputSeq;
    // More than we ever sent: another world was here before us, and ours is numbered anew.
    if (gone > this.#onTheWay) {
      this.#onTheWay = 0;
      this.#sendInputs();
      return;
    }
    for (const input of this.#queue.splice(0, gone)) {
      this.#inputBacklogBytes -= input.data.byteLength;
      const stream = input.op === 'open' ? this.#streams.get(input.stream) : undefined;
      if (stream !== undefined) stream.known = true;
    }
    this.#onTheWay -= gone;
    this.#sendInputs();
    if (!this.saturated && this.#drainListeners.size > 0) {
      const listeners = [...this.#drainListeners];
      this.#drainListeners.clear();
      for (const listener of listeners) listener();
    }
  }

  /** Asks whoever runs the machine to say where it is; a node that runs none drops it. */
  #sayHello(): void {
    const payload = encodeWorldFrame({ kind: 'hello' });
    for (const line of this.#lines) line.send(payload);
  }

  #resendIfStuck(): void {
    if (this.#heardLast === null || this.#framesAhead !== this.#aheadAtLastTick) this.#sayHello();
    this.#aheadAtLastTick = this.#framesAhead;
    const stuck = this.#inputsConsumed === this.#consumedAtLastTick;
    this.#consumedAtLastTick = this.#inputsConsumed;
    if (!stuck || this.#queue.length === 0) return;
    this.#onTheWay = 0;
    this.#sendInputs();
    // Another node may run the machine by now, and its word of that be lost.
    for (const [index, line] of this.#lines.entries())
      if (index !== this.#heardLast) line.send(encodeWorldFrame({ kind: 'hello' }));
  }
}
