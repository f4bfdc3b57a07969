/**
 * One NBD connection, server side, without the socket: bytes in, actions out.
 *
 * States: client flags -> options -> requests <-> a write's data. Everything is hostile until
 * checked; a length is believed only after it was held against its bound and the disk's size, and
 * memory is taken only then. A breach of the protocol throws and is final; a well-made request that
 * we do not serve is answered with an error. Reads are refused: a mirror's target is never read.
 *
 * What a caller must do: perform the actions in their order. A write is handed over before the reply
 * that acknowledges it.
 */
import { RomulusError } from '../../base/errors.ts';
import {
  CLIENT_FLAGS_BYTES,
  COMMAND,
  COMMAND_FLAG_FUA,
  COMMAND_FLAG_NO_HOLE,
  goReplies,
  HANDSHAKE_FIXED_NEWSTYLE,
  HANDSHAKE_NO_ZEROES,
  NBD_ERROR,
  type NbdRequest,
  OPTION,
  OPTION_BYTES_MAX,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC,
  OPTION_REPLY,
  optionReply,
  readGoName,
  readRequest,
  REQUEST_BYTES_MAX,
  REQUEST_HEADER_BYTES,
  simpleReply,
} from './protocol.ts';

/** Options one client may send: QEMU sends four. */
export const OPTIONS_MAX = 32;

/** What is to be done, in order. */
export type NbdAction =
  | { readonly kind: 'send'; readonly bytes: Buffer }
  | { readonly kind: 'opened'; readonly name: string }
  | { readonly kind: 'write'; readonly offset: number; readonly data: Buffer }
  | { readonly kind: 'zeros'; readonly offset: number; readonly byteCount: number }
  /** The client is done: nothing after it is read. */
  | { readonly kind: 'end' };

/** What becomes of a wish to open an export: its size, or why not. */
export type OpenVerdict = { readonly diskBytes: number } | 'unknown' | 'taken';

type State = 'flags' | 'optionHeader' | 'optionData' | 'request' | 'data' | 'ended';

/** Understands one client. */
export class NbdSession {
  readonly #open: (name: string) => OpenVerdict;
  readonly #allocate: (byteCount: number) => Buffer;
  #state: State = 'flags';
  #wanted: Buffer = Buffer.alloc(CLIENT_FLAGS_BYTES);
  #filled = 0;
  #option = 0;
  #optionsSeen = 0;
  #diskBytes = 0;
  #request: NbdRequest | null = null;

  /**
   * `open` decides whether a client may have an export; called at most once with success. `allocate`
   * gives memory of that size for a write's data, which will be overwritten.
   */
  constructor(
    open: (name: string) => OpenVerdict,
    // Not from the pool: it moves to another thread.
    allocate: (byteCount: number) => Buffer = (byteCount) => Buffer.allocUnsafeSlow(byteCount),
  ) {
    this.#open = open;
    this.#allocate = allocate;
  }

  /** True once an export was opened: requests may follow. */
  get isTransmitting(): boolean {
    return this.#state === 'request' || this.#state === 'data';
  }

  /**
   * Takes the next bytes. Data of writes is copied out of the chunk.
   * @throws {RomulusError} ERR_PROTOCOL_NBD; nothing after it can be trusted.
   */
  push(chunk: Uint8Array, act: (action: NbdAction) => void): void {
    let at = 0;
    while (at < chunk.byteLength && this.#state !== 'ended') {
      const count = Math.min(this.#wanted.byteLength - this.#filled, chunk.byteLength - at);
      this.#wanted.set(chunk.subarray(at, at + count), this.#filled);
      this.#filled += count;
      at += count;
      if (this.#filled === this.#wanted.byteLength) this.#complete(act);
    }
  }

  #complete(act: (action: NbdAction) => void): void {
    const bytes = this.#wanted;
    switch (this.#state) {
      case 'flags':
        this.#takeFlags(bytes);
        break;
      case 'optionHeader':
        this.#takeOptionHeader(bytes, act);
        break;
      case 'optionData':
        this.#takeOption(bytes, act);
        break;
      case 'request':
        this.#takeRequest(bytes, act);
        break;
      case 'data':
        this.#takeData(bytes, act);
        break;
      case 'ended':
        break;
    }
  }

  #want(state: State, buffer: Buffer): void {
    this.#state = state;
    this.#wanted = buffer;
    this.#filled = 0;
  }

  #wantOption(): void {
    this.#want('optionHeader', Buffer.allocUnsafe(OPTION_HEADER_BYTES));
  }

  #wantRequest(): void {
    this.#want('request', Buffer.allocUnsafe(REQUEST_HEADER_BYTES));
  }

  #takeFlags(bytes: Buffer): void {
    const flags = bytes.readUInt32BE(0);
    const known = HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES;
    if ((flags & HANDSHAKE_FIXED_NEWSTYLE) === 0 || (flags & ~known) !== 0)
      this.#fail(`client flags ${flags}`);
    this.#wantOption();
  }

  #takeOptionHeader(bytes: Buffer, act: (action: NbdAction) => void): void {
    if (bytes.readBigUInt64BE(0) !== OPTION_MAGIC) this.#fail('an option without its magic');
    this.#optionsSeen += 1;
    if (this.#optionsSeen > OPTIONS_MAX) this.#fail(`more than ${OPTIONS_MAX} options`);
    this.#option = bytes.readUInt32BE(8);
    const dataBytes = bytes.readUInt32BE(12);
    if (dataBytes > OPTION_BYTES_MAX) this.#fail(`an option of ${dataBytes} bytes`);
    if (dataBytes === 0) this.#takeOption(Buffer.alloc(0), act);
    else this.#want('optionData', Buffer.allocUnsafe(dataBytes));
  }

  #takeOption(data: Buffer, act: (action: NbdAction) => void): void {
    const option = this.#option;
    const reply = (kind: number): void => {
      act({ kind: 'send', bytes: optionReply(option, kind) });
    };
    switch (option) {
      case OPTION.exportName:
        // The one option that cannot be answered with an error.
        this.#fail('the old way to open an export');
        break;
      case OPTION.abort:
        reply(OPTION_REPLY.ack);
        this.#end(act);
        return;
      case OPTION.go: {
        const name = readGoName(data);
        if (name === null) {
          reply(OPTION_REPLY.invalid);
          break;
        }
        const verdict = this.#open(name);
        if (typeof verdict === 'string') {
          reply(verdict === 'unknown' ? OPTION_REPLY.unknown : OPTION_REPLY.policy);
          break;
        }
        this.#diskBytes = verdict.diskBytes;
        act({ kind: 'opened', name });
        act({ kind: 'send', bytes: goReplies(verdict.diskBytes) });
        this.#wantRequest();
        return;
      }
      default:
        reply(OPTION_REPLY.unsupported);
        break;
    }
    this.#wantOption();
  }

  #takeRequest(bytes: Buffer, act: (action: NbdAction) => void): void {
    const request = readRequest(bytes);
    if (request === null) this.#fail('a request without its magic');
    const answer = (error: number): void => {
      act({ kind: 'send', bytes: simpleReply(request.cookie, error) });
    };
    // All lengths fit 32 bits, and a disk's size is a safe integer: the sum is exact as bigint.
    const isInside = request.offset + BigInt(request.length) <= BigInt(this.#diskBytes);
    switch (request.type) {
      case COMMAND.write:
        // Its data follows and cannot be skipped at any price: nonsense ends the connection.
        if (request.length > REQUEST_BYTES_MAX) this.#fail(`a write of ${request.length} bytes`);
        if (!isInside) this.#fail(`a write of ${request.length} bytes at ${request.offset}`);
        if ((request.flags & ~COMMAND_FLAG_FUA) !== 0) this.#fail(`write flags ${request.flags}`);
        if (request.length === 0) {
          answer(NBD_ERROR.invalid);
          break;
        }
        this.#request = request;
        this.#want('data', this.#allocate(request.length));
        return;
      case COMMAND.disconnect:
        this.#end(act);
        return;
      case COMMAND.flush:
        answer(NBD_ERROR.none);
        break;
      case COMMAND.trim:
      case COMMAND.zeros: {
        const known = COMMAND_FLAG_FUA | COMMAND_FLAG_NO_HOLE;
        if (!isInside || request.length === 0 || (request.flags & ~known) !== 0) {
          answer(NBD_ERROR.invalid);
          break;
        }
        act({ kind: 'zeros', offset: Number(request.offset), byteCount: request.length });
        answer(NBD_ERROR.none);
        break;
      }
      case COMMAND.read:
        answer(NBD_ERROR.notPermitted);
        break;
      default:
        answer(NBD_ERROR.invalid);
        break;
    }
    this.#wantRequest();
  }

  #takeData(data: Buffer, act: (action: NbdAction) => void): void {
    const request = this.#request;
    if (request === null) this.#fail('data without a request');
    this.#request = null;
    act({ kind: 'write', offset: Number(request.offset), data });
    act({ kind: 'send', bytes: simpleReply(request.cookie, NBD_ERROR.none) });
    this.#wantRequest();
  }

  #end(act: (action: NbdAction) => void): void {
    this.#state = 'ended';
    act({ kind: 'end' });
  }

  #fail(what: string): never {
    this.#state = 'ended';
    throw new RomulusError('ERR_PROTOCOL_NBD', `an NBD client sent ${what}`, {
      remedy: 'Only the QEMU of the protected machine may connect to this socket.',
    });
  }
}
