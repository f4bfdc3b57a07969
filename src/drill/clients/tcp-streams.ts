/** TCP connections of the drill's clients. None is ever made again: one that ends is an end for good. */
import { connect, type Socket } from 'node:net';
import type { StreamOpener } from '../kv-load.ts';
import type { StreamHandlers } from '../world.ts';

const TRY_AGAIN_MS = 50;

export interface Target {
  readonly host: string;
  readonly port: number;
}

/** Opens connections to one server. */
export class TcpStreams implements StreamOpener {
  readonly #target: Target;
  readonly #sockets = new Set<Socket>();

  constructor(target: Target) {
    this.#target = target;
  }

  openStream(handlers: StreamHandlers): { write(data: Uint8Array): void } {
    const socket = connect({ ...this.#target, noDelay: true });
    this.#sockets.add(socket);
    socket.on('data', handlers.onData);
    // Whatever the reason, `close` follows.
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      if (this.#sockets.delete(socket)) handlers.onClose();
    });
    return { write: (data) => socket.write(data) };
  }

  /** Hangs up on purpose: nobody is told. */
  close(): void {
    for (const socket of this.#sockets) {
      this.#sockets.delete(socket);
      socket.destroy();
    }
  }
}

/** Waits until somebody listens there; a machine that boots takes seconds. False when nobody came. */
export async function isListening(target: Target, withinMs: number): Promise<boolean> {
  const deadlineMs = performance.now() + withinMs;
  while (performance.now() < deadlineMs) {
    if (await connects(target, deadlineMs - performance.now())) return true;
    await new Promise((resolve) => setTimeout(resolve, TRY_AGAIN_MS));
  }
  return false;
}

function connects(target: Target, withinMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(target);
    const settle = (outcome: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(outcome);
    };
    const timer = setTimeout(() => settle(false), withinMs);
    socket.once('connect', () => settle(true));
    socket.once('error', () => settle(false));
  });
}
