/**
 * The clients of a machine as a process of their own, on a host of their own: what they were answered
 * is evidence that no node could have touched.
 */
import { unreachable } from '../../base/assert.ts';
import { nowMs } from '../../engine/clock.ts';
import { boostThread } from '../../native/host.ts';
import { answerQuestions } from '../answer-questions.ts';
import { KvLoad, type KvOutcome } from '../kv-load.ts';
import { EchoClient, type EchoOutcome } from './echo-client.ts';
import { PingClient, type PingOutcome } from './ping-client.ts';
import { isListening, TcpStreams } from './tcp-streams.ts';

export const ECHO_PORT = 7;
export const REDIS_PORT = 6379;
/** Longest wait for the guest's servers; it has booted by then. */
const LISTEN_WAIT_MS = 60_000;
/** Longest wait for the last answers: TCP may send again only after seconds. */
const LAST_ANSWER_WAIT_MS = 30_000;
const POLL_MS = 5;
/** Few connections with one command each on the way: every one waits for its answer to be released. */
const REDIS_SHAPE = { clients: 4, pipeline: 1 };

/** What the drill may ask. */
export type ClientsQuestion =
  | { readonly ask: 'begin'; readonly address: string }
  | { readonly ask: 'answeredSince'; readonly fromMs: number }
  | { readonly ask: 'finish'; readonly struckAtMs: number };

/** What came of all clients. */
export interface ClientsOutcome {
  readonly echo: EchoOutcome;
  readonly ping: PingOutcome;
  readonly redis: KvOutcome;
}

/** The answers, by question. */
export interface ClientsAnswers {
  /** Names of servers that nobody listens for. */
  readonly begin: readonly string[];
  /** How often the echo server answered since then. */
  readonly answeredSince: number;
  readonly finish: ClientsOutcome;
}

interface Clients {
  readonly echo: EchoClient;
  readonly ping: PingClient;
  readonly redis: KvLoad;
}

let clients: Clients | null = null;

function theClients(): Clients {
  if (clients === null) throw new Error('the clients did not begin');
  return clients;
}

async function begin(address: string): Promise<readonly string[]> {
  const echo = { host: address, port: ECHO_PORT };
  const redis = { host: address, port: REDIS_PORT };
  const [hasEcho, hasRedis] = await Promise.all(
    [echo, redis].map((target) => isListening(target, LISTEN_WAIT_MS)),
  );
  if (!hasEcho || !hasRedis) return [...(hasEcho ? [] : ['echo']), ...(hasRedis ? [] : ['redis'])];
  clients = {
    echo: new EchoClient(echo),
    ping: new PingClient(address),
    redis: new KvLoad(new TcpStreams(redis), REDIS_SHAPE),
  };
  return [];
}

async function finish(struckAtMs: number): Promise<ClientsOutcome> {
  const { echo, ping, redis } = theClients();
  echo.stop();
  const untilMs = nowMs();
  const pinged = ping.finish(struckAtMs, untilMs);
  const answered = await finishRedis(redis);
  const deadlineMs = nowMs() + LAST_ANSWER_WAIT_MS;
  while (!echo.allAnswered && nowMs() < deadlineMs)
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  return { echo: echo.finish(struckAtMs, untilMs), ping: pinged, redis: answered };
}

/** Answers that stay out are an outcome, too. */
async function finishRedis(redis: KvLoad): Promise<KvOutcome> {
  try {
    return await redis.finish();
  } catch (error) {
    const complaint = error instanceof Error ? error.message : String(error);
    const { outcome } = redis;
    return { ...outcome, complaints: [...outcome.complaints, complaint] };
  }
}

async function answer(question: ClientsQuestion): Promise<ClientsAnswers[keyof ClientsAnswers]> {
  switch (question.ask) {
    case 'begin':
      return await begin(question.address);
    case 'answeredSince':
      return theClients().echo.answeredSince(question.fromMs);
    case 'finish':
      return await finish(question.struckAtMs);
    default:
      return unreachable(question, 'question');
  }
}

// Ahead of the machines where it may: what is measured here is their answers, not our own turn.
boostThread();
answerQuestions(answer);
