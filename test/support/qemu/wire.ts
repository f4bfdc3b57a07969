/** The other end of a machine's `-netdev stream`: hears its frames, and can say some. */
import { createConnection, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { BoundaryDecoder, toBoundaryFrame } from '../../../src/nets/boundary-frames.ts';

/** The ethertype of the guest's numbered frames (test-guest/programs/frames.c). */
const NUMBERED_TYPE = 0x88b5;
const HEADER_BYTES = 14;
const CONNECT_WAIT_MS = 10_000;
const POLL_MS = 5;
/** So many frames in a row are no accident. */
const NEW_FRAMES = 5;
const SPEAK_WAIT_MS = 60_000;

/** The arguments for QEMU: it listens at the path. */
export function wireNetdev(id: string, path: string): string[] {
  return ['-netdev', `stream,id=${id},server=on,addr.type=unix,addr.path=${path}`];
}

/** The number in an Ethernet frame of the guest's, null for others. */
export function numberIn(frame: Buffer): number | null {
  if (frame.byteLength < HEADER_BYTES + 8 || frame.readUInt16BE(12) !== NUMBERED_TYPE) return null;
  return Number(frame.readBigUInt64LE(HEADER_BYTES));
}

/** What a wire heard. */
export class Wire {
  readonly #socket: Socket;
  /** Numbers of the numbered frames, as they came. */
  readonly numbers: number[] = [];
  bytes = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    const decoder = new BoundaryDecoder();
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      this.bytes += chunk.byteLength;
      for (const frame of decoder.push(chunk)) {
        const number = numberIn(frame.subarray(4));
        if (number !== null) this.numbers.push(number);
      }
    });
  }

  /** Connects to a machine that was started with `wireNetdev`. */
  static async connect(path: string): Promise<Wire> {
    const deadlineMs = performance.now() + CONNECT_WAIT_MS;
    for (;;) {
      const socket = createConnection({ path });
      const failed = await new Promise<Error | null>((resolve) => {
        socket.once('connect', () => resolve(null));
        socket.once('error', resolve);
      });
      if (failed === null) return new Wire(socket);
      if (performance.now() > deadlineMs) throw failed;
      await sleep(POLL_MS);
    }
  }

  /** The last number heard, 0 before the first. */
  get last(): number {
    return this.numbers.at(-1) ?? 0;
  }

  /** Resolves when the guest has said some frames more. */
  async speaks(): Promise<void> {
    const wanted = this.last + NEW_FRAMES;
    const deadlineMs = performance.now() + SPEAK_WAIT_MS;
    while (this.last <= wanted) {
      if (performance.now() > deadlineMs)
        throw new Error(`no frames on the wire after number ${this.last}`);
      await sleep(POLL_MS);
    }
  }

  /** Says an Ethernet frame to the guest. */
  say(frame: Buffer): void {
    this.#socket.write(toBoundaryFrame(frame));
  }

  close(): void {
    this.#socket.destroy();
  }
}
