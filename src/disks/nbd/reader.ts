/**
 * NBD client that reads: the bytes of an export that QEMU serves, one request at a time.
 *
 * The server is the machine's own QEMU, and its machine is not trusted: lengths, magics, cookies and
 * the size of the export are checked, and every wait has a bound.
 */
import { connect, type Socket } from 'node:net';
import type { RomulusError } from '../../base/errors.ts';
import { type FlushableDisk, nullIfZeros, READ_BYTES_MAX, readError } from '../readable-disk.ts';
import {
  clientGreeting,
  DATA_REPLY_BYTES,
  flushRequest,
  GREETING_BYTES,
  isGreeting,
  OPTION,
  OPTION_REPLY,
  OPTION_REPLY_BYTES,
  readDataReply,
  readExportBytes,
  readOptionReply,
  readRequest,
} from './protocol.ts';

/** How long the server may take for one answer, milliseconds; QEMU reads from storage meanwhile. */
export const ANSWER_TIMEOUT_MS = 3000;
/**
 * How long it may take where nobody waits for it but a copy, milliseconds: to bring all that is in caches to storage,
 * which may be gigabytes, or to read from storage that does just that. The guest runs on meanwhile.
 */
export const STORAGE_TIMEOUT_MS = 600_000;
/** How long it may take to close a connection that was not agreed on, milliseconds. */
const LEAVE_TIMEOUT_MS = 1000;
/** Longest text or list in the reply to an option that is read. */
const OPTION_REPLY_DATA_MAX = 4096;
/** Of what came and nobody asked for, or not yet. */
const UNTAKEN_BYTES_MAX = 2 * READ_BYTES_MAX;
/** Replies to one option: a server tells an export's name, size and block sizes. */
const OPTION_REPLIES_MAX = 16;

export interface NbdReaderOptions {
  /** Path of the server's socket. */
  readonly path: string;
  readonly exportName: string;
  /** What the export must hold. */
  readonly diskBytes: number;
  readonly answerTimeoutMs?: number;
  /** How long it may take to read; as long as for any answer, unless told otherwise. */
  readonly readTimeoutMs?: number;
}

interface Deadline {
  readonly timeoutMs: number;
  readonly atMs: number;
}

/** One disk, opened at its server. */
export class NbdReader implements FlushableDisk {
  readonly #name: string;
  readonly #answerTimeoutMs: number;
  readonly #readTimeoutMs: number;
  readonly #socket: Socket;
  /** What came and was not taken yet. */
  readonly #chunks: Buffer[] = [];
  #chunksBytes = 0;
  #error: Error | null = null;
  #hasEnded = false;
  #cookie = 0n;
  #wake: () => void = () => undefined;

  private constructor({ path, exportName, answerTimeoutMs, readTimeoutMs }: NbdReaderOptions) {
    this.#name = exportName;
    this.#answerTimeoutMs = answerTimeoutMs ?? ANSWER_TIMEOUT_MS;
    this.#readTimeoutMs = readTimeoutMs ?? this.#answerTimeoutMs;
    this.#socket = connect(path);
    this.#socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#chunksBytes += chunk.byteLength;
      if (this.#chunksBytes > UNTAKEN_BYTES_MAX) this.#socket.destroy(new Error('too many bytes'));
      this.#wake();
    });
    this.#socket.on('error', (error) => {
      this.#error = error;
    });
    for (const event of ['end', 'close'])
      this.#socket.on(event, () => {
        this.#hasEnded = true;
        this.#wake();
      });
  }

  /** Whether a server answers at a path. */
  static async isServed(path: string): Promise<boolean> {
    const reader = new NbdReader({ path, exportName: '', diskBytes: 0 });
    try {
      const words = await reader.#exactly(GREETING_BYTES, reader.#deadline(ANSWER_TIMEOUT_MS));
      return isGreeting(words);
    } catch {
      return false;
    } finally {
      await reader.#leave();
    }
  }

  /** @throws {RomulusError} ERR_DISK_READ when it cannot be opened or is of another size. */
  static async open(options: NbdReaderOptions): Promise<NbdReader> {
    const reader = new NbdReader(options);
    try {
      await reader.#negotiate(options);
      return reader;
    } catch (error) {
      await reader.#leave();
      throw error;
    }
  }

  async read(offset: number, byteCount: number): Promise<Buffer | null> {
    const deadline = this.#deadline(this.#readTimeoutMs);
    this.#cookie += 1n;
    this.#socket.write(readRequest(this.#cookie, offset, byteCount));
    await this.#granted(deadline, `at byte ${offset}`);
    return nullIfZeros(await this.#exactly(byteCount, deadline));
  }

  /**
   * Has the server write what it keeps in memory of the disk.
   * @throws {RomulusError} ERR_DISK_READ when it cannot, or not in time.
   */
  async flush(): Promise<void> {
    this.#cookie += 1n;
    this.#socket.write(flushRequest(this.#cookie));
    await this.#granted(this.#deadline(STORAGE_TIMEOUT_MS), 'writing what it keeps');
  }

  /** Ends the connection, and with it whatever waits for an answer. Idempotent. */
  close(): void {
    this.#socket.destroy();
  }

  #deadline(timeoutMs: number): Deadline {
    return { timeoutMs, atMs: performance.now() + timeoutMs };
  }

  /** Awaits the head of the reply to the last request. */
  async #granted(deadline: Deadline, doing: string): Promise<void> {
    const reply = readDataReply(await this.#exactly(DATA_REPLY_BYTES, deadline));
    if (reply?.cookie !== this.#cookie) throw this.#failure('its server answers nonsense');
    if (reply.errno !== 0) throw this.#failure(`error ${reply.errno} ${doing}`);
  }

  /**
   * Lets the server close a connection that is not agreed on yet: a QEMU without the mending of
   * CVE-2024-7409 does not survive it when its server is stopped in the middle of a negotiation.
   */
  async #leave(): Promise<void> {
    this.#socket.end();
    const deadlineMs = performance.now() + LEAVE_TIMEOUT_MS;
    for (let leftMs = LEAVE_TIMEOUT_MS; leftMs > 0 && !this.#hasEnded; ) {
      await this.#change(leftMs);
      leftMs = deadlineMs - performance.now();
    }
    this.close();
  }

  async #negotiate({ exportName, diskBytes }: NbdReaderOptions): Promise<void> {
    const deadline = this.#deadline(this.#answerTimeoutMs);
    if (!isGreeting(await this.#exactly(GREETING_BYTES, deadline)))
      throw this.#failure('its server does not speak NBD');
    this.#socket.write(clientGreeting(exportName));
    let isSizeKnown = false;
    for (let replies = 0; replies < OPTION_REPLIES_MAX; replies += 1) {
      const reply = readOptionReply(await this.#exactly(OPTION_REPLY_BYTES, deadline));
      if (reply?.option !== OPTION.go || reply.dataBytes > OPTION_REPLY_DATA_MAX) break;
      const data = await this.#exactly(reply.dataBytes, deadline);
      if (reply.kind === OPTION_REPLY.ack) {
        if (isSizeKnown) return;
        break;
      }
      if (reply.kind !== OPTION_REPLY.info)
        throw this.#failure(`its server refuses it: ${data.toString() || reply.kind}`);
      const exportBytes = readExportBytes(data);
      if (exportBytes === null) continue;
      if (exportBytes !== BigInt(diskBytes))
        throw this.#failure(`it has ${exportBytes} bytes, the disk ${diskBytes}`);
      isSizeKnown = true;
    }
    throw this.#failure('its server answers nonsense');
  }

  /**
   * The next bytes, in a buffer of their own, so that it can move to another thread.
   * @throws {RomulusError} ERR_DISK_READ when they do not come in time.
   */
  async #exactly(byteCount: number, { timeoutMs, atMs }: Deadline): Promise<Buffer> {
    while (this.#chunksBytes < byteCount) {
      if (this.#hasEnded)
        throw this.#failure(this.#error?.message ?? 'its server closed the connection');
      const leftMs = atMs - performance.now();
      if (leftMs <= 0) throw this.#failure(`no answer within ${timeoutMs} ms`);
      await this.#change(leftMs);
    }
    const data = Buffer.from(new ArrayBuffer(byteCount));
    let filled = 0;
    for (let chunk = this.#chunks[0]; filled < byteCount && chunk !== undefined; ) {
      const taken = chunk.copy(data, filled);
      filled += taken;
      if (taken === chunk.byteLength) this.#chunks.shift();
      else this.#chunks[0] = chunk.subarray(taken);
      chunk = this.#chunks[0];
    }
    this.#chunksBytes -= byteCount;
    return data;
  }

  /** Resolves when something came or ended, or the time is up. */
  #change(withinMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, withinMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #failure(reason: string): RomulusError {
    return readError(this.#name, reason, this.#error ?? undefined);
  }
}
