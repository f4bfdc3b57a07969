/**
 * The negotiation of one NBD connection, server side, without the socket: bytes in, actions out.
 *
 * States: client flags -> options -> opened or ended. Everything is hostile until checked; a length is
 * believed only after it was held against its bound. A breach of the protocol throws and is final; a
 * well-made option that we do not serve is answered with an error. Requests, which follow once an
 * export was opened, are native code's (native-sim/src/nbd_requests.h).
 *
 * What a caller must do: perform the actions in their order.
 */
import { RomulusError } from '../../base/errors.ts';
import {
  CLIENT_FLAGS_BYTES,
  goReplies,
  HANDSHAKE_FIXED_NEWSTYLE,
  HANDSHAKE_NO_ZEROES,
  OPTION,
  OPTION_BYTES_MAX,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC,
  OPTION_REPLY,
  optionReply,
  readGoName,
} from './protocol.ts';

/** Options one client may send: QEMU sends four. */
export const OPTIONS_MAX = 32;

/** What is to be done, in order. */
export type NbdAction =
  | { readonly kind: 'send'; readonly bytes: Buffer }
  /** The export that was asked for is open; `early` was sent behind the options. Nothing follows. */
  | { readonly kind: 'opened'; readonly early: Uint8Array }
  /** The client is done: nothing after it is read. */
  | { readonly kind: 'end' };

/** What becomes of a wish to open an export: its size, or why not. */
export type OpenVerdict = { readonly diskBytes: number } | 'unknown' | 'taken';

type State = 'flags' | 'optionHeader' | 'optionData' | 'opened' | 'ended';

/** Understands one client. */
export class NbdSession {
  readonly #open: (name: string) => OpenVerdict;
  #state: State = 'flags';
  #wanted: Buffer = Buffer.alloc(CLIENT_FLAGS_BYTES);
  #filled = 0;
  #option = 0;
  #optionsSeen = 0;

  /** `open` decides whether a client may have an export; called at most once with success. */
  constructor(open: (name: string) => OpenVerdict) {
    this.#open = open;
  }

  /**
   * Takes the next bytes.
   * @throws {RomulusError} ERR_PROTOCOL_NBD; nothing after it can be trusted.
   */
  push(chunk: Uint8Array, act: (action: NbdAction) => void): void {
    let at = 0;
    while (at < chunk.byteLength && !this.#isOver) {
      const count = Math.min(this.#wanted.byteLength - this.#filled, chunk.byteLength - at);
      this.#wanted.set(chunk.subarray(at, at + count), this.#filled);
      this.#filled += count;
      at += count;
      if (this.#filled === this.#wanted.byteLength) this.#complete(act);
    }
    if (this.#state !== 'opened') return;
    this.#state = 'ended';
    act({ kind: 'opened', early: chunk.subarray(at) });
  }

  get #isOver(): boolean {
    return this.#state === 'opened' || this.#state === 'ended';
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
      case 'opened':
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
        act({ kind: 'send', bytes: goReplies(verdict.diskBytes) });
        this.#state = 'opened';
        return;
      }
      default:
        reply(OPTION_REPLY.unsupported);
        break;
    }
    this.#wantOption();
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
