import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import type { Link } from '../../src/links/link.ts';
import { dialWs, linkEndKindOf, listenWs, type LinkListener } from '../../src/links/ws.ts';
import { frameOf, linkContract, LinkProbe, present, type LinkFixture } from '../contracts/link.ts';
import type { FrameLinkOptions } from '../../src/links/frame-link.ts';
import type { RomulusError } from '../../src/base/errors.ts';

const HOST = '127.0.0.1';
const URL_OF = (port: number): string => `ws://${HOST}:${port}`;

async function wsPair(options: FrameLinkOptions): Promise<LinkFixture> {
  let primary: Link | undefined;
  const accept = (link: Link): void => {
    primary = link;
  };
  const listener = await listenWs({ ...options, host: HOST, port: 0, onLink: accept });
  const backup = await dialWs({ ...options, url: URL_OF(listener.port) });
  if (primary === undefined) throw new Error('the listener did not see the link');
  const accepted = primary;
  return {
    primary,
    backup,
    // One part: goes out as it is, as a message of its own.
    injectIntoBackup: (bytes) => accepted.send([bytes]),
    cleanUp: () => listener.close(),
  };
}

linkContract('the WebSocket link', wsPair);

async function rejection(promise: Promise<unknown>): Promise<RomulusError> {
  const nothing: unknown = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  return nothing as RomulusError;
}

describe('listenWs', () => {
  const listeners: LinkListener[] = [];
  const links: Link[] = [];
  const listen = async (port = 0): Promise<LinkListener> => {
    const onLink = (link: Link): void => {
      links.push(link);
    };
    const listener = await listenWs({ host: HOST, port, onLink });
    listeners.push(listener);
    return listener;
  };
  afterEach(async () => {
    for (const listener of listeners.splice(0)) await listener.close();
    links.length = 0;
  });

  it('says so when the address is in use', async () => {
    const { port } = await listen();
    const error = await rejection(listenWs({ host: HOST, port, onLink: () => undefined }));
    expect(error).toMatchObject({ code: 'ERR_TRANSPORT_ADDRESS_IN_USE', details: { port } });
    expect(error.remedy).toContain(`${port}`);
  });

  it('says so when the address is not one of this host', async () => {
    const error = await rejection(
      listenWs({ host: '192.0.2.1', port: 0, onLink: () => undefined }),
    );
    expect(error).toMatchObject({ code: 'ERR_TRANSPORT_ADDRESS' });
  });

  it('turns away what is not a link', async () => {
    const { port } = await listen();
    expect((await fetch(`http://${HOST}:${port}/`)).status).toBe(426);
    const statusOf = async (path: string, protocol: string, origin?: string): Promise<string> => {
      const options = origin === undefined ? {} : { origin };
      const ws = new WebSocket(`${URL_OF(port)}${path}`, protocol, options);
      const [error] = (await once(ws, 'error')) as [Error];
      return error.message;
    };
    expect(await statusOf('/elsewhere', 'romulus')).toContain('404');
    expect(await statusOf('/v1/link', 'chat')).toContain('400');
    expect(await statusOf('/v1/link', 'romulus', 'http://evil.example')).toContain('403');
    expect(links).toHaveLength(0);
  });

  it('bounds the number of links, and takes new ones when old ones end', async () => {
    const { port } = await listen();
    const dialled: Link[] = [];
    for (let count = 0; count < 8; count += 1) dialled.push(await dialWs({ url: URL_OF(port) }));
    const error = await rejection(dialWs({ url: URL_OF(port) }));
    expect(error.message).toContain('503');
    const probe = new LinkProbe(present(links[0]));
    dialled[0]?.destroy();
    await probe.end();
    dialled.push(await dialWs({ url: URL_OF(port) }));
    for (const link of dialled) link.destroy();
  });

  it('cuts its links when it closes, and can be closed twice', async () => {
    const listener = await listen();
    const probe = new LinkProbe(await dialWs({ url: URL_OF(listener.port) }));
    await listener.close();
    expect(await probe.end()).toMatchObject({ kind: 'reset' });
    await listener.close();
  });

  it('is not harmed by connections that break before they are links', async () => {
    const { port } = await listen();
    for (const text of ['', 'GET', 'GET /v1/link HTTP/1.1\r\nupgrade: websocket\r\n\r\n']) {
      const socket = connect(port, HOST);
      await once(socket, 'connect');
      socket.write(text);
      socket.resetAndDestroy();
    }
    const link = await dialWs({ url: URL_OF(port) });
    expect(link.isOpen).toBe(true);
    link.destroy();
  });

  it('ends a link whose peer sends text or breaks the WebSocket protocol', async () => {
    const { port } = await listen();
    const ws = new WebSocket(`${URL_OF(port)}/v1/link`, 'romulus');
    await once(ws, 'open');
    const probe = new LinkProbe(present(links[0]));
    ws.send('hello?');
    expect(await probe.end()).toMatchObject({
      kind: 'protocol',
      error: { code: 'ERR_PROTOCOL_WEBSOCKET' },
    });

    const other = new WebSocket(`${URL_OF(port)}/v1/link`, 'romulus');
    let raw: Socket | undefined;
    other.once('upgrade', (response) => {
      raw = response.socket;
    });
    await once(other, 'open');
    const second = new LinkProbe(present(links[1]));
    // A client's frame without a mask.
    raw?.write(Uint8Array.of(0x82, 0x01, 0x00));
    expect(await second.end()).toMatchObject({
      kind: 'protocol',
      error: { code: 'ERR_PROTOCOL_WEBSOCKET' },
    });
    other.terminate();
  });

  it('sees a peer that vanishes in the middle of a frame', async () => {
    const { port } = await listen();
    const backup = await dialWs({ url: URL_OF(port) });
    const probe = new LinkProbe(present(links[0]));
    backup.send([present(frameOf(1, new Uint8Array(1000))[0])]);
    backup.destroy();
    expect(await probe.end()).toMatchObject({ kind: 'reset' });
    expect(probe.frames).toEqual([]);
  });
});

describe('a WebSocket link', () => {
  it('takes a reset for what it is, and delivers what came before it', async () => {
    const server = new WebSocketServer({ host: HOST, port: 0, perMessageDeflate: false });
    await once(server, 'listening');
    server.on('connection', (ws, request) => {
      ws.send(Buffer.concat(frameOf(1, new Uint8Array(100))), () => {
        // Once the other side has answered, it has read the frame too.
        ws.once('message', () => request.socket.resetAndDestroy());
      });
    });
    const link = await dialWs({ url: URL_OF((server.address() as AddressInfo).port) });
    const probe = new LinkProbe(link);
    await probe.framesCome(1);
    link.send(frameOf(2, new Uint8Array(1)));
    expect(await probe.end()).toMatchObject({ kind: 'reset' });
    expect(probe.frames.map((frame) => frame.epoch)).toEqual([1]);
    server.close();
  });
});

describe('dialWs', () => {
  async function withServer<T>(
    onConnection: (socket: Socket) => void,
    use: (port: number) => Promise<T>,
  ): Promise<T> {
    const sockets: Socket[] = [];
    const server = createServer((socket) => {
      sockets.push(socket);
      socket.on('error', () => socket.destroy());
      onConnection(socket);
    });
    server.listen(0, HOST);
    await once(server, 'listening');
    try {
      return await use((server.address() as AddressInfo).port);
    } finally {
      for (const socket of sockets) socket.destroy();
      server.close();
    }
  }

  it('tells a refusal from other failures', async () => {
    const port = await withServer(
      () => undefined,
      (free) => Promise.resolve(free),
    );
    const error = await rejection(dialWs({ url: URL_OF(port) }));
    expect(error).toMatchObject({ code: 'ERR_TRANSPORT_REFUSED' });
    expect(linkEndKindOf(error)).toBe('refused');
  });

  it('bounds its wait for a server that never answers', async () => {
    const error = await withServer(
      () => undefined,
      (port) => rejection(dialWs({ url: URL_OF(port), timeoutMs: 100 })),
    );
    expect(error).toMatchObject({ code: 'ERR_TIMEOUT_DIAL' });
    expect(linkEndKindOf(error)).toBe('error');
  });

  it('knows a server that is something else', async () => {
    const error = await withServer(
      (socket) => socket.end('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n'),
      (port) => rejection(dialWs({ url: URL_OF(port) })),
    );
    expect(error).toMatchObject({ code: 'ERR_PROTOCOL_WEBSOCKET' });
  });

  it('knows a server that breaks off', async () => {
    const error = await withServer(
      (socket) => socket.once('data', () => socket.resetAndDestroy()),
      (port) => rejection(dialWs({ url: URL_OF(port) })),
    );
    expect(linkEndKindOf(error)).toBe('reset');
  });

  it('can be called off', async () => {
    const abort = new AbortController();
    const error = await withServer(
      () => abort.abort(),
      (port) => rejection(dialWs({ url: URL_OF(port), signal: abort.signal })),
    );
    expect(error).toMatchObject({ code: 'ERR_TRANSPORT_DIAL' });
  });
});
