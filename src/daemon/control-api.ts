/**
 * The control API of a node: HTTP over a unix socket in its state directory. Who may open the
 * socket may do everything; the file's mode is the access control.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { z } from 'zod';
import { RomulusError, toRomulusError } from '../base/errors.ts';
import { INTERVAL_MS_MAX, INTERVAL_MS_MIN } from '../engine/config.ts';
import type { Node } from '../engine/node.ts';
import type { NodeEvent } from '../engine/status.ts';

/** No request of ours is near this; more is not a request of ours. */
const REQUEST_BYTES_MAX = 64 * 1024;
/** Event streams open at once; each costs a socket and a copy of every event. */
const EVENT_STREAMS_MAX = 16;
const EVENT_STREAM_BUFFER_BYTES_MAX = 1024 * 1024;

const adjustRequest = z
  .strictObject({
    intervalMs: z.number().min(INTERVAL_MS_MIN).max(INTERVAL_MS_MAX).optional(),
    minIntervalMs: z.number().min(0).max(INTERVAL_MS_MAX).optional(),
  })
  .refine((changes) => Object.keys(changes).length > 0, 'nothing to change');
const promoteRequest = z.strictObject({ force: z.boolean().default(false) });

/** Where a node with this state directory listens. */
export function controlSocketPath(stateDirectory: string): string {
  return join(stateDirectory, 'control.sock');
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let total = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    total += chunk.byteLength;
    if (total > REQUEST_BYTES_MAX)
      throw new RomulusError('ERR_LIMIT_REQUEST', `request beyond ${REQUEST_BYTES_MAX} bytes`, {
        remedy: 'Send the small JSON object that the API documents.',
      });
    chunks.push(chunk);
  }
  if (total === 0) return {};
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch (cause) {
    throw new RomulusError('ERR_USAGE_REQUEST', 'the request body is not JSON', {
      remedy: 'Send a JSON object.',
      cause,
    });
  }
}

function parse<T>(schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new RomulusError('ERR_USAGE_REQUEST', z.prettifyError(result.error), {
    remedy: 'Correct the named keys.',
  });
}

function respond(response: ServerResponse, status: number, body: unknown): void {
  const text = `${JSON.stringify(body)}\n`;
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
  });
  response.end(text);
}

function streamEvents(node: Node, response: ServerResponse, open: Set<ServerResponse>): void {
  if (open.size >= EVENT_STREAMS_MAX)
    throw new RomulusError('ERR_LIMIT_EVENT_STREAMS', `${EVENT_STREAMS_MAX} listeners already`, {
      remedy: 'Close one of them.',
    });
  response.writeHead(200, { 'content-type': 'application/jsonl' });
  response.flushHeaders();
  open.add(response);
  const unsubscribe = node.onEvent((event: NodeEvent) => {
    response.write(`${JSON.stringify(event)}\n`);
    // A listener that does not read must not cost memory without bound.
    if (response.writableLength > EVENT_STREAM_BUFFER_BYTES_MAX) response.destroy();
  });
  response.on('close', () => {
    open.delete(response);
    unsubscribe();
  });
}

async function dispatch(
  node: Node,
  request: IncomingMessage,
  response: ServerResponse,
  streams: Set<ServerResponse>,
): Promise<void> {
  switch (`${request.method} ${request.url}`) {
    case 'GET /v1/status':
      return respond(response, 200, node.status());
    case 'GET /v1/events':
      return streamEvents(node, response, streams);
    case 'POST /v1/adjust': {
      node.adjust(parse(adjustRequest, await readJson(request)));
      return respond(response, 200, node.status());
    }
    case 'POST /v1/reset-spreads':
      node.resetSpreads();
      return respond(response, 200, node.status());
    case 'POST /v1/promote': {
      const { force } = parse(promoteRequest, await readJson(request));
      return respond(response, 200, await node.promote({ force }));
    }
    case 'POST /v1/scrub':
      return respond(response, 200, await node.scrub());
    default:
      return respond(response, 404, {
        code: 'ERR_USAGE_REQUEST',
        message: `no such request: ${request.method} ${request.url}`,
        remedy: 'See docs/CONTROL-API.md.',
      });
  }
}

/** True when somebody answers at the socket: then it is not a leftover. */
function isAlive(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
}

/**
 * Serves the API until closed.
 * @throws {RomulusError} ERR_CONFIG_ALREADY_RUNNING when a live node holds the state directory.
 */
export async function serveControl(
  node: Node,
  stateDirectory: string,
): Promise<{ close: () => Promise<void> }> {
  mkdirSync(stateDirectory, { recursive: true, mode: 0o750 });
  const path = controlSocketPath(stateDirectory);
  if (await isAlive(path))
    throw new RomulusError(
      'ERR_CONFIG_ALREADY_RUNNING',
      `a node already runs in ${stateDirectory}`,
      {
        remedy: 'Stop it, or give this one another --state-dir.',
        details: { path },
      },
    );
  rmSync(path, { force: true });
  const streams = new Set<ServerResponse>();
  const server: Server = createServer((request, response) => {
    dispatch(node, request, response, streams).catch((error: unknown) => {
      const known = toRomulusError(error);
      if (response.headersSent) response.destroy();
      else respond(response, known.code.startsWith('ERR_USAGE') ? 400 : 409, known.toJSON());
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
  return {
    close: async () => {
      for (const stream of streams) stream.destroy();
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
      rmSync(path, { force: true });
    },
  };
}
