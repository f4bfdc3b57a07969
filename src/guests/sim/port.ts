/**
 * The simulated machine's port protocol: what the machine and the outside world say to each other
 * inside the frames that the engine carries without looking (ARCHITECTURE, "The simulated
 * machine's port protocol"). A tiny reliable transport, standing where TCP stands for a real machine.
 *
 * Pure: bytes in, values out. It keeps no sequence numbers and sends nothing; the world does that.
 *
 *     machine -> world                             world -> machine
 *      0  u8  kind  1 emit, 2 line-open             0  u8  kind  1 input, 2 acknowledge, 3 hello
 *      1  u8  op    0 beacon, 1 data, 2 close       1  u8  op    0 open, 1 data, 2 close
 *      2  u16 0                                     2  u16 0
 *      4  u32 stream                                4  u32 stream
 *      8  u64 seq                                   8  u64 seq
 *     16  u64 step                                 16  data
 *     24  u64 inputSeq
 *     32  data
 *
 * All little-endian. Invariants of the machine that readers may lean on: emit seqs grow by one;
 * consuming an input always yields at least one emit whose `step` is the step that consumed it, so
 * the emits alone tell at which step every input took effect; an emit sent again is unchanged.
 */
import { assert } from '../../base/assert.ts';
import { RomulusError } from '../../base/errors.ts';

/** Bytes before the data of a frame from the machine. */
export const MACHINE_HEADER_BYTES = 32;
/** Bytes before the data of a frame from the world. */
export const WORLD_HEADER_BYTES = 16;
/** Most data that one input may carry; the machine drops a longer one. */
export const INPUT_DATA_BYTES_MAX = 16_384;
/**
 * Most inputs that the world may have on the way, that is, sent and not yet covered by an
 * `inputSeq`. The machine queues this many; what comes beyond is dropped and asked for again by
 * another `line-open`.
 */
export const INPUT_WINDOW_FRAMES = 256;

const KIND_EMIT = 1;
const KIND_LINE_OPEN = 2;
const KIND_INPUT = 1;
const KIND_ACKNOWLEDGE = 2;
const KIND_HELLO = 3;
const EMIT_OPS = ['beacon', 'data', 'close'] as const;
const INPUT_OPS = ['open', 'data', 'close'] as const;

export type EmitOp = (typeof EMIT_OPS)[number];
export type InputOp = (typeof INPUT_OPS)[number];

/** One output of the machine. */
export interface EmitFrame {
  readonly kind: 'emit';
  readonly op: EmitOp;
  /** Connection it belongs to; 0 for beacons. */
  readonly stream: number;
  /** From 1, without gap. */
  readonly seq: number;
  /** Instruction count at emission. */
  readonly step: number;
  /** Highest input consumed at emission. */
  readonly inputSeq: number;
  readonly data: Uint8Array;
}

/** The machine's port has (re)opened: all un-acknowledged emits follow, and inputs are wanted again. */
export interface LineOpenFrame {
  readonly kind: 'line-open';
  /**
   * Seq of the first emit that will follow. Emits below it that the world never saw are gone: the
   * machine dropped its oldest beacons while nobody acknowledged any.
   */
  readonly seq: number;
  readonly step: number;
  /** Highest input consumed: the world sends again from the next. */
  readonly inputSeq: number;
}

export type MachineFrame = EmitFrame | LineOpenFrame;

/** One input of the world. */
export interface InputFrame {
  readonly kind: 'input';
  readonly op: InputOp;
  readonly stream: number;
  /** From 1, without gap. */
  readonly seq: number;
  readonly data: Uint8Array;
}

/** The world has every emit up to and including `seq`. */
export interface AcknowledgeFrame {
  readonly kind: 'acknowledge';
  readonly seq: number;
}

/** The world begins, or missed something: it asks for `line-open` and all that follows it. */
export interface HelloFrame {
  readonly kind: 'hello';
}

export type WorldFrame = InputFrame | AcknowledgeFrame | HelloFrame;

const NO_DATA = new Uint8Array(0);

/**
 * Reads one payload that came from the machine. `data` is a view into `payload`.
 * @throws {RomulusError} ERR_PROTOCOL_PORT_FRAME when it is not a frame of this protocol.
 */
export function decodeMachineFrame(payload: Uint8Array): MachineFrame {
  const view = headerOf(payload, MACHINE_HEADER_BYTES, 'from the machine');
  const kind = view.getUint8(0);
  const seq = readCount(view, 8, 'seq');
  const step = readCount(view, 16, 'step');
  const inputSeq = readCount(view, 24, 'inputSeq');
  if (kind === KIND_LINE_OPEN) {
    if (payload.length > MACHINE_HEADER_BYTES) throw badFrame('line-open carries data', { kind });
    return { kind: 'line-open', seq, step, inputSeq };
  }
  const op = EMIT_OPS[view.getUint8(1)];
  if (kind !== KIND_EMIT || op === undefined) {
    throw badFrame('unknown kind or op from the machine', { kind, op: view.getUint8(1) });
  }
  if (seq === 0) throw badFrame('an emit has seq 0', { step });
  return {
    kind: 'emit',
    op,
    stream: view.getUint32(4, true),
    seq,
    step,
    inputSeq,
    data: payload.subarray(MACHINE_HEADER_BYTES),
  };
}

/** Writes a payload as the machine does. */
export function encodeMachineFrame(frame: MachineFrame): Uint8Array {
  const data = frame.kind === 'emit' ? frame.data : NO_DATA;
  const payload = new Uint8Array(MACHINE_HEADER_BYTES + data.length);
  const view = new DataView(payload.buffer);
  if (frame.kind === 'emit') {
    view.setUint8(0, KIND_EMIT);
    view.setUint8(1, EMIT_OPS.indexOf(frame.op));
    view.setUint32(4, frame.stream, true);
  } else {
    view.setUint8(0, KIND_LINE_OPEN);
  }
  writeCount(view, 8, frame.seq);
  writeCount(view, 16, frame.step);
  writeCount(view, 24, frame.inputSeq);
  payload.set(data, MACHINE_HEADER_BYTES);
  return payload;
}

/**
 * Reads one payload that came from the world. `data` is a view into `payload`.
 * @throws {RomulusError} ERR_PROTOCOL_PORT_FRAME when it is not a frame of this protocol.
 */
export function decodeWorldFrame(payload: Uint8Array): WorldFrame {
  const view = headerOf(payload, WORLD_HEADER_BYTES, 'from the world');
  const kind = view.getUint8(0);
  const seq = readCount(view, 8, 'seq');
  if (kind === KIND_ACKNOWLEDGE) {
    if (payload.length > WORLD_HEADER_BYTES) throw badFrame('acknowledge carries data', { kind });
    return { kind: 'acknowledge', seq };
  }
  if (kind === KIND_HELLO) {
    if (payload.length > WORLD_HEADER_BYTES) throw badFrame('hello carries data', { kind });
    return { kind: 'hello' };
  }
  const op = INPUT_OPS[view.getUint8(1)];
  if (kind !== KIND_INPUT || op === undefined) {
    throw badFrame('unknown kind or op from the world', { kind, op: view.getUint8(1) });
  }
  if (seq === 0) throw badFrame('an input has seq 0', {});
  const data = payload.subarray(WORLD_HEADER_BYTES);
  if (data.length > INPUT_DATA_BYTES_MAX) {
    throw badFrame('an input is too long', { dataBytes: data.length });
  }
  return { kind: 'input', op, stream: view.getUint32(4, true), seq, data };
}

/** Writes a payload as the world does. */
export function encodeWorldFrame(frame: WorldFrame): Uint8Array {
  const data = frame.kind === 'input' ? frame.data : NO_DATA;
  assert(data.length <= INPUT_DATA_BYTES_MAX, `an input of ${data.length} bytes is too long`);
  const payload = new Uint8Array(WORLD_HEADER_BYTES + data.length);
  const view = new DataView(payload.buffer);
  if (frame.kind === 'input') {
    view.setUint8(0, KIND_INPUT);
    view.setUint8(1, INPUT_OPS.indexOf(frame.op));
    view.setUint32(4, frame.stream, true);
  } else {
    view.setUint8(0, frame.kind === 'hello' ? KIND_HELLO : KIND_ACKNOWLEDGE);
  }
  writeCount(view, 8, frame.kind === 'hello' ? 0 : frame.seq);
  payload.set(data, WORLD_HEADER_BYTES);
  return payload;
}

function headerOf(payload: Uint8Array, headerBytes: number, whence: string): DataView {
  if (payload.length < headerBytes) {
    throw badFrame(`a frame ${whence} is cut short`, { frameBytes: payload.length, headerBytes });
  }
  return new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
}

function readCount(view: DataView, offset: number, name: string): number {
  const value = view.getBigUint64(offset, true);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw badFrame(`${name} is beyond 2^53`, { [name]: value.toString() });
  }
  return Number(value);
}

function writeCount(view: DataView, offset: number, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, `not a count: ${value}`);
  view.setBigUint64(offset, BigInt(value), true);
}

function badFrame(what: string, details: Readonly<Record<string, unknown>>): RomulusError {
  return new RomulusError('ERR_PROTOCOL_PORT_FRAME', `port protocol: ${what}`, {
    remedy: 'Drop the frame; check that both ends are of the same version.',
    details,
  });
}
