/**
 * Goal: the echo client notices what a machine that fell back, or a connection that broke, would show.
 * Method: servers on loopback that behave so.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { EchoClient, type EchoOutcome } from '../../../src/drill/clients/echo-client.ts';
import { nowMs } from '../../../src/engine/clock.ts';

/** Answers that are enough. */
const ENOUGH = 8;
/** The time that is given to them, and where they stay out: there it passes. */
const RUN_MS_MAX = 10_000;
const WAIT_IN_VAIN_MS = 3000;
const NUMBER_BYTES = 8;

let server: Server | null = null;
afterEach(() => server?.close());

async function patiently(withinMs: number, test: () => boolean): Promise<void> {
  const deadlineMs = nowMs() + withinMs;
  while (!test() && nowMs() < deadlineMs) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** Runs a client against a server that answers the n-th number of a connection as it is told. */
async function outcomeWith(
  answer: (number: bigint, socket: Socket) => readonly [bigint, bigint] | null,
  withinMs = WAIT_IN_VAIN_MS,
): Promise<EchoOutcome> {
  const listening = createServer((socket) => {
    let rest = Buffer.alloc(0);
    socket.on('error', () => socket.destroy());
    socket.on('data', (data: Buffer) => {
      rest = Buffer.concat([rest, data]);
      for (; rest.byteLength >= NUMBER_BYTES; rest = rest.subarray(NUMBER_BYTES)) {
        const words = answer(rest.readBigUInt64BE(0), socket);
        if (words === null) continue;
        const bytes = Buffer.alloc(2 * NUMBER_BYTES);
        bytes.writeBigUInt64BE(words[0], 0);
        bytes.writeBigUInt64BE(words[1], NUMBER_BYTES);
        socket.write(bytes);
      }
    });
  });
  server = listening;
  await new Promise<void>((resolve) => listening.listen(0, '127.0.0.1', resolve));
  const address = listening.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const client = new EchoClient({ host: '127.0.0.1', port: address.port });
  const fromMs = nowMs();
  await patiently(withinMs, () => client.answered >= ENOUGH);
  client.stop();
  await patiently(withinMs, () => client.allAnswered);
  return client.finish(fromMs, nowMs());
}

describe('the echo client', () => {
  it('has nothing to complain about when every number is answered', async () => {
    const outcome = await outcomeWith((number) => [number, number], RUN_MS_MAX);
    expect(outcome.complaint).toBeNull();
    expect(outcome.sent).toBeGreaterThanOrEqual(ENOUGH);
    expect(outcome.answered).toBe(outcome.sent);
  });

  it('notices a server that forgot what it had answered', async () => {
    const outcome = await outcomeWith((number) => [number, number < 5n ? number : number - 1n]);
    expect(outcome.complaint).toBe('answer 5 was 5, after 4 others');
  });

  it('notices an answer that was left out', async () => {
    const outcome = await outcomeWith((number) => (number === 4n ? null : [number, number]));
    expect(outcome.complaint).toBe('answer 4 was 5, after 5 others');
  });

  it('takes a broken connection for the end, and makes no other', async () => {
    let connections = 0;
    const outcome = await outcomeWith((number, socket) => {
      if (number === 0n) connections += 1;
      if (number === 3n) socket.destroy();
      return [number, number];
    });
    expect(outcome.complaint).toBe('the connection broke');
    expect(connections).toBe(1);
  });
});
