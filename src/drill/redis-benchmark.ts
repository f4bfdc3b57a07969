/**
 * The real `redis-benchmark` as the load of a drill: it counts one key up through the gateway, and
 * at the end that key must hold at least as many as were answered to it.
 */
import { createConnection } from 'node:net';
import { RomulusError } from '../base/errors.ts';
import type { Stage } from './children.ts';
import type { KvOutcome } from './kv-load.ts';
import { encodeCommand, type Reply, ReplyParser } from './resp.ts';

/**
 * Requests: at the default epoch length, and 13,000 a second on a host that has time for them, they last about twice
 * as long as the longest run before a strike. What is left then is answered faster, by a copy without a backup.
 */
export const BENCHMARK_REQUESTS = 80_000;
/** The key that `redis-benchmark -t incr` counts when no key space is asked for. */
const BENCHMARK_KEY = 'counter:__rand_int__';
const BENCHMARK_WAIT_MS = 120_000;
const REPLY_WAIT_MS = 10_000;

/** Sends one command to a local port or socket, over a connection of its own; returns the reply. */
export async function askRedis(
  server: number | { readonly path: string },
  words: readonly string[],
): Promise<Reply> {
  const local = typeof server === 'number' ? { host: '127.0.0.1', port: server } : server;
  const socket = createConnection(local);
  const parser = new ReplyParser();
  try {
    return await new Promise<Reply>((resolve, reject) => {
      socket.setTimeout(REPLY_WAIT_MS, () =>
        reject(
          new RomulusError('ERR_TIMEOUT_DRILL', `no answer to ${words.join(' ')}`, {
            remedy: 'Look at the log of the node that runs the machine.',
          }),
        ),
      );
      socket.on('error', reject);
      socket.on('close', () => reject(new Error('the gateway closed the connection')));
      socket.on('data', (data: Buffer) => {
        try {
          const [reply] = parser.push(data);
          if (reply !== undefined) resolve(reply);
        } catch (error) {
          reject(error);
        }
      });
      socket.write(encodeCommand(words));
    });
  } finally {
    socket.destroy();
  }
}

/**
 * Runs it to its end, then asks for the key.
 * @throws {RomulusError} ERR_HOST_REDIS_BENCHMARK when it is not installed or fails.
 */
export async function runRedisBenchmark(
  stage: Stage,
  port: number,
): Promise<KvOutcome & { readonly endedAtNs: bigint }> {
  const child = stage.start({
    name: 'redis-benchmark',
    command: 'redis-benchmark',
    args: `-h 127.0.0.1 -p ${port} -t incr -n ${BENCHMARK_REQUESTS} -c 50 -P 2 -q`.split(' '),
    output: 'log',
  });
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve('still running'), BENCHMARK_WAIT_MS);
  });
  const end = await Promise.race([child.gone, late]);
  clearTimeout(timer);
  const endedAtNs = process.hrtime.bigint();
  if (end !== 'exit code 0')
    throw new RomulusError('ERR_HOST_REDIS_BENCHMARK', `redis-benchmark: ${end}`, {
      remedy: `Install redis-tools, or read ${child.logFile}.`,
    });
  const reply = await askRedis(port, ['GET', BENCHMARK_KEY]);
  const held = reply.kind === 'bulk' ? Number(reply.text) : Number.NaN;
  return {
    commandsSent: BENCHMARK_REQUESTS,
    commandsAnswered: BENCHMARK_REQUESTS,
    incrementsAcknowledged: BENCHMARK_REQUESTS,
    incrementsLost: Number.isNaN(held) ? null : Math.max(0, BENCHMARK_REQUESTS - held),
    counters: { [BENCHMARK_KEY]: BENCHMARK_REQUESTS },
    endedAtNs,
    complaints:
      held === BENCHMARK_REQUESTS
        ? []
        : [
            `${BENCHMARK_REQUESTS} INCRs were acknowledged, the machine holds ${reply.kind === 'bulk' ? reply.text : reply.kind}`,
          ],
  };
}
