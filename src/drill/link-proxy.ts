/**
 * A cable that can be cut: a TCP proxy between two nodes. Cut, it forwards nothing either way and
 * says nothing, as a pulled cable does: no reset, no end, and new connections get no further than
 * the handshake of TCP.
 */
import { connect, createServer, type Server, type Socket } from 'node:net';

interface Pair {
  readonly near: Socket;
  readonly far: Socket;
}

/** One proxied port. */
export class LinkProxy {
  readonly #target: { readonly host: string; readonly port: number };
  readonly #pairs = new Set<Pair>();
  readonly #stranded = new Set<Socket>();
  readonly #server: Server;
  #cut = false;

  constructor(target: { readonly host: string; readonly port: number }) {
    this.#target = target;
    this.#server = createServer({ allowHalfOpen: true }, (near) => this.#handleConnection(near));
  }

  /** Starts listening and returns the port. */
  async listen(): Promise<number> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(0, '127.0.0.1', resolve);
    });
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    return address.port;
  }

  /** From now on nothing passes. */
  cut(): void {
    this.#cut = true;
    for (const { near, far } of this.#pairs) {
      near.unpipe(far);
      far.unpipe(near);
      near.pause();
      far.pause();
    }
  }

  /** New connections pass again; the old ones, having lost bytes, are reset. */
  mend(): void {
    this.#cut = false;
    for (const { near, far } of this.#pairs) {
      near.resetAndDestroy();
      far.resetAndDestroy();
    }
    for (const socket of this.#stranded) socket.resetAndDestroy();
    this.#stranded.clear();
  }

  #handleConnection(near: Socket): void {
    near.on('error', () => near.destroy());
    if (this.#cut) {
      near.pause();
      this.#stranded.add(near);
      near.on('close', () => this.#stranded.delete(near));
      return;
    }
    const far = connect({ ...this.#target, noDelay: true, allowHalfOpen: true });
    const pair: Pair = { near, far };
    this.#pairs.add(pair);
    near.setNoDelay(true);
    // An end that breaks off takes the other with it, unless the cut forbids the news to pass.
    const breakOff = (other: Socket) => (): void => {
      if (this.#cut) return;
      other.destroy();
      this.#pairs.delete(pair);
    };
    far.on('error', () => far.destroy());
    far.on('close', breakOff(near));
    near.on('close', breakOff(far));
    near.pipe(far);
    far.pipe(near);
  }
}
