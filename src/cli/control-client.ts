/**
 * Client of a node's control API: HTTP over the unix socket in its state directory. Every wait and
 * every answer is bounded, and what goes wrong is told as one typed error with a way out.
 */
import { request } from 'node:http';
import { join } from 'node:path';
import { type ErrorCode, fromErrorJson, RomulusError } from '../base/errors.ts';

/** Longest answer that is accepted from a node. */
export const CONTROL_ANSWER_BYTES_MAX = 1024 * 1024;
/** Longest wait for an answer; a scrub of a large image takes longer than a status. */
export const CONTROL_WAIT_MS = 5000;
export const SCRUB_WAIT_MS = 120_000;
/** `sun_path` holds 108 bytes with its final zero. */
const SOCKET_PATH_BYTES_MAX = 107;

/**
 * Where a node with this state directory listens for commands.
 * @throws {RomulusError} ERR_USAGE_STATE_DIR when the path is too long for a unix socket.
 */
export function controlSocketPath(stateDirectory: string): string {
  const path = join(stateDirectory, 'control.sock');
  if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX)
    throw new RomulusError('ERR_USAGE_STATE_DIR', `--state-dir: "${path}" is too long a path`, {
      remedy: `Choose a directory whose socket path has at most ${SOCKET_PATH_BYTES_MAX} bytes.`,
    });
  return path;
}

function connectError(path: string, cause: NodeJS.ErrnoException): RomulusError {
  const denied = cause.code === 'EACCES' || cause.code === 'EPERM';
  return new RomulusError(
    denied ? 'ERR_HOST_CONTROL_DENIED' : 'ERR_TRANSPORT_NO_NODE',
    denied ? `no permission to use ${path}` : `no node answers at ${path}`,
    {
      remedy: denied
        ? 'Run as the user that the node runs as.'
        : 'Check --state-dir, and that `romulus protect` or `romulus backup` runs with it.',
      cause,
    },
  );
}

function answerOf(path: string, statusCode: number, text: string): unknown {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw new RomulusError('ERR_PROTOCOL_CONTROL', `the answer from ${path} is not JSON`, {
      remedy: 'Check that the socket belongs to a romulus node of this version.',
      cause,
      details: { statusCode, text: text.slice(0, 200) },
    });
  }
  if (statusCode >= 200 && statusCode < 300) return parsed;
  const error = parsed as { code?: unknown; message?: unknown; remedy?: unknown };
  if (typeof error.code === 'string' && typeof error.message === 'string')
    throw fromErrorJson({
      code: error.code as ErrorCode,
      message: error.message,
      remedy: typeof error.remedy === 'string' ? error.remedy : 'See the log of the node.',
    });
  throw new RomulusError('ERR_PROTOCOL_CONTROL', `${path} answered with status ${statusCode}`, {
    remedy: 'See the log of the node.',
    details: { text: text.slice(0, 200) },
  });
}

/**
 * Asks a node one thing and returns its JSON answer.
 * @throws {RomulusError} ERR_TRANSPORT_NO_NODE when nobody listens, ERR_TIMEOUT_CONTROL when no
 *   answer came in time, or the error that the node itself answered with.
 */
export async function callControl(options: {
  readonly stateDirectory: string;
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly body?: Readonly<Record<string, unknown>>;
  readonly waitMs?: number;
}): Promise<unknown> {
  const socketPath = controlSocketPath(options.stateDirectory);
  const waitMs = options.waitMs ?? CONTROL_WAIT_MS;
  const body = options.body === undefined ? null : JSON.stringify(options.body);
  const answer = await new Promise<{ statusCode: number; text: string }>((resolve, reject) => {
    const call = request(
      {
        socketPath,
        method: options.method,
        path: options.path,
        headers:
          body === null
            ? {}
            : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) },
        signal: AbortSignal.timeout(waitMs),
      },
      (response) => {
        const chunks: Buffer[] = [];
        let receivedBytes = 0;
        response.on('data', (chunk: Buffer) => {
          receivedBytes += chunk.byteLength;
          if (receivedBytes <= CONTROL_ANSWER_BYTES_MAX) chunks.push(chunk);
          else
            call.destroy(
              new RomulusError('ERR_LIMIT_CONTROL_ANSWER', 'the node answered without end', {
                remedy: 'Check that the socket belongs to a romulus node of this version.',
              }),
            );
        });
        response.on('error', reject);
        response.on('end', () => {
          resolve({
            statusCode: response.statusCode ?? 0,
            text: Buffer.concat(chunks).toString('utf8'),
          });
        });
      },
    );
    call.on('error', (cause: NodeJS.ErrnoException) => {
      if (cause instanceof RomulusError) reject(cause);
      else if (cause.name === 'AbortError' || cause.name === 'TimeoutError')
        reject(
          new RomulusError('ERR_TIMEOUT_CONTROL', `no answer from ${socketPath} in ${waitMs} ms`, {
            remedy: 'Look at the log of the node: it lives but does not get to answer.',
            cause,
          }),
        );
      else reject(connectError(socketPath, cause));
    });
    call.end(body ?? undefined);
  });
  return answerOf(socketPath, answer.statusCode, answer.text);
}
