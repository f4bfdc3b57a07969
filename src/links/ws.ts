/**
 * Making WebSocket links: the primary listens, the backup dials. Who may stay is for the engine to
 * decide; here only what is not a link at all is turned away.
 */
import { createServer, STATUS_CODES, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { WebSocket, WebSocketServer } from 'ws';
import { RomulusError } from '../base/errors.ts';
import { useNativeCrc32c } from '../native/native-crc32c.ts';
import type { FrameLinkOptions } from './frame-link.ts';
import type { Link, LinkEndKind } from './link.ts';
import { LINK_PATH, LINK_SUBPROTOCOL, WS_OPTIONS, WsLink } from './ws-link.ts';

// Every payload is checksummed on both sides: at link speed that needs the fast form.
useNativeCrc32c();

/** Links at the same time: one backup, and those that are to be told that they are one too many. */
const LINKS_MAX = 8;
/** Connections that are not links yet. */
const HANDSHAKES_MAX = 8;
/** How long a client may take to become a link. */
const HANDSHAKE_MS = 5000;
const HEADER_BYTES_MAX = 8192;

export interface ListenWsOptions extends FrameLinkOptions {
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  /** Called for each new link. It must set `onMessage`, or close the link. */
  readonly onLink: (link: Link) => void;
}

/** A node's open door. */
export interface LinkListener {
  readonly host: string;
  readonly port: number;
  /** Closes the door and cuts all links that came through it. Idempotent. */
  close(): Promise<void>;
}

/**
 * Opens the primary's door.
 * @throws {RomulusError} ERR_TRANSPORT_ADDRESS_IN_USE, ERR_TRANSPORT_ADDRESS.
 */
export async function listenWs(options: ListenWsOptions): Promise<LinkListener> {
  const http = createServer(
    {
      headersTimeout: HANDSHAKE_MS,
      requestTimeout: HANDSHAKE_MS,
      connectionsCheckingInterval: HANDSHAKE_MS / 5,
      maxHeaderSize: HEADER_BYTES_MAX,
    },
    (_request, response) => {
      response.writeHead(426, { connection: 'close', upgrade: 'websocket' }).end();
    },
  );
  http.maxConnections = LINKS_MAX + HANDSHAKES_MAX;
  const upgrader = new WebSocketServer({ ...WS_OPTIONS, noServer: true, clientTracking: false });
  const links = new Set<Link>();
  http.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
    // Without a listener an early reset would end the process.
    socket.on('error', () => socket.destroy());
    const refusal = links.size >= LINKS_MAX ? 503 : refusalOf(request);
    if (refusal !== undefined) {
      socket.write(`HTTP/1.1 ${refusal} ${STATUS_CODES[refusal]}\r\nconnection: close\r\n\r\n`);
      socket.destroySoon();
      return;
    }
    upgrader.handleUpgrade(request, socket, head, (ws) => {
      const link = new WsLink(ws, socket, options);
      links.add(link);
      link.onClose(() => links.delete(link));
      options.onLink(link);
    });
  });
  const port = await listening(http, options);
  return {
    host: options.host,
    port,
    close: () =>
      new Promise((resolve) => {
        http.close(() => resolve());
        for (const link of links) link.destroy();
        http.closeAllConnections();
      }),
  };
}

function refusalOf(request: IncomingMessage): number | undefined {
  if (request.url !== LINK_PATH) return 404;
  // Only browsers send one: no page that someone happens to read may reach a node.
  if (request.headers.origin !== undefined) return 403;
  if (request.headers['sec-websocket-protocol'] !== LINK_SUBPROTOCOL) return 400;
  return undefined;
}

function listening(server: Server, { host, port }: ListenWsOptions): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => {
      const inUse = cause.code === 'EADDRINUSE';
      reject(
        new RomulusError(
          inUse ? 'ERR_TRANSPORT_ADDRESS_IN_USE' : 'ERR_TRANSPORT_ADDRESS',
          `cannot listen on ${host}:${port}: ${inUse ? 'the address is in use' : cause.message}`,
          {
            remedy: inUse
              ? `Choose another port, or end what listens there (ss -ltnp sport = ${port}).`
              : 'Choose an address of this host, and a port that you may use.',
            cause,
            details: { host, port },
          },
        ),
      );
    });
    server.listen({ host, port }, () => resolve((server.address() as AddressInfo).port));
  });
}

export interface DialWsOptions extends FrameLinkOptions {
  /** `ws://HOST:PORT`. */
  readonly url: string;
  /** How long one attempt may take. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

const DIAL_TIMEOUT_MS = 2000;

/** What a failed attempt to dial says about the other side. */
export function linkEndKindOf(error: RomulusError): LinkEndKind {
  if (error.code === 'ERR_TRANSPORT_REFUSED') return 'refused';
  if (error.code === 'ERR_TRANSPORT_BROKEN') return 'reset';
  return error.code === 'ERR_PROTOCOL_WEBSOCKET' ? 'protocol' : 'error';
}

/**
 * Dials a primary, once.
 * @throws {RomulusError} ERR_TRANSPORT_REFUSED (nobody listens), ERR_TRANSPORT_BROKEN (broke while
 *   dialling), ERR_TIMEOUT_DIAL, ERR_PROTOCOL_WEBSOCKET (something else answers there),
 *   ERR_TRANSPORT_DIAL (no route, no such name, called off).
 */
export function dialWs(options: DialWsOptions): Promise<Link> {
  const { url, signal, timeoutMs = DIAL_TIMEOUT_MS } = options;
  return new Promise((resolve, reject) => {
    const ws = new WebSocket(new URL(LINK_PATH, url), LINK_SUBPROTOCOL, {
      ...WS_OPTIONS,
      handshakeTimeout: timeoutMs,
      followRedirects: false,
    });
    let socket: Socket | undefined;
    const abort = (): void => ws.terminate();
    signal?.addEventListener('abort', abort);
    if (signal?.aborted === true) abort();
    ws.once('upgrade', (response) => {
      socket = response.socket;
    });
    ws.once('open', () => {
      signal?.removeEventListener('abort', abort);
      ws.off('error', failed);
      if (socket !== undefined) resolve(new WsLink(ws, socket, options));
    });
    const failed = (cause: NodeJS.ErrnoException): void => {
      signal?.removeEventListener('abort', abort);
      reject(dialError(url, cause));
    };
    ws.on('error', failed);
  });
}

function dialError(url: string, cause: NodeJS.ErrnoException): RomulusError {
  const error = (code: `ERR_${'TRANSPORT' | 'TIMEOUT' | 'PROTOCOL'}_${string}`, remedy: string) =>
    new RomulusError(code, `cannot reach the primary at ${url}: ${cause.message}`, {
      remedy,
      cause,
      details: { url },
    });
  if (cause.code === 'ECONNREFUSED') {
    return error('ERR_TRANSPORT_REFUSED', 'Start the primary there, or correct the address.');
  }
  if (cause.code === 'ECONNRESET' || cause.code === 'EPIPE' || cause.message === 'socket hang up') {
    return error('ERR_TRANSPORT_BROKEN', 'Nothing: the backup dials again by itself.');
  }
  if (cause.message.includes('timed out')) {
    return error('ERR_TIMEOUT_DIAL', 'Check the network between the nodes.');
  }
  if (cause.code === undefined && !cause.message.includes('before the connection')) {
    return error('ERR_PROTOCOL_WEBSOCKET', "Check that the address is that of a node's link.");
  }
  return error('ERR_TRANSPORT_DIAL', 'Check the address and the route to it.');
}
