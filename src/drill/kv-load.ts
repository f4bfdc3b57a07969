/**
 * Clients of the key-value machine, run by the world: they count, and remember what was
 * acknowledged to them. Each INCR that was answered must be in the machine at the end, whichever
 * copy then runs, and none may have been done twice.
 *
 * A key is counted up by several clients at once. As every INCR is done exactly once, the answers
 * for a key are the numbers 1 to n, each once, and n is what the key holds at the end.
 */
import { RomulusError } from '../base/errors.ts';
import { encodeCommand, type Reply, ReplyParser } from './resp.ts';
import type { StreamHandlers } from './world.ts';

export const KV_CLIENTS = 8;
export const KV_KEYS = 5;
/** Commands one client has on the way at once. */
export const KV_PIPELINE = 4;
/** Longest wait for the last answers. */
export const KV_DRAIN_MS = 10_000;

/** What carries the clients' connections: the world of a simulated machine, or TCP. */
export interface StreamOpener {
  openStream(handlers: StreamHandlers): { write(data: Uint8Array): void };
}

/** What the clients saw. */
export interface KvOutcome {
  readonly commandsSent: number;
  readonly commandsAnswered: number;
  readonly incrementsAcknowledged: number;
  /** Of these, how many the machine does not hold; null when it could not be asked. */
  readonly incrementsLost: number | null;
  /** The highest answer for each key that is counted up. */
  readonly counters: Readonly<Record<string, number>>;
  /** Sentences about what was wrong; empty when nothing was. */
  readonly complaints: readonly string[];
}

/** One connection that keeps its replies in the order of its commands. */
class KvClient {
  readonly #stream: ReturnType<StreamOpener['openStream']>;
  readonly #parser = new ReplyParser();
  readonly #waiting: ((reply: Reply) => void)[] = [];
  readonly #onTrouble: (text: string) => void;

  constructor(opener: StreamOpener, onTrouble: (text: string) => void) {
    this.#onTrouble = onTrouble;
    this.#stream = opener.openStream({
      onData: (data) => this.#handleData(data),
      onClose: () => onTrouble('the machine closed a connection'),
    });
  }

  get waitingCount(): number {
    return this.#waiting.length;
  }

  command(words: readonly string[], onReply: (reply: Reply) => void): void {
    this.#waiting.push(onReply);
    this.#stream.write(encodeCommand(words));
  }

  #handleData(data: Buffer): void {
    try {
      for (const reply of this.#parser.push(data)) {
        const onReply = this.#waiting.shift();
        if (onReply === undefined) this.#onTrouble('a reply that nobody asked for');
        else onReply(reply);
      }
    } catch (error) {
      this.#onTrouble(error instanceof Error ? error.message : String(error));
    }
  }
}

function highestOf(answers: ReadonlySet<number>): number {
  let highest = 0;
  for (const value of answers) highest = Math.max(highest, value);
  return highest;
}

/** The load: started, stopped, then asked whether all it was told is true. */
export class KvLoad {
  readonly #clients: KvClient[];
  readonly #answersByKey = new Map<string, Set<number>>();
  readonly #lastSet = new Map<string, string>();
  readonly #complaints: string[] = [];
  #running = true;
  #sent = 0;
  #answered = 0;
  #increments = 0;
  #lost: number | null = null;

  constructor(opener: StreamOpener, shape = { clients: KV_CLIENTS, pipeline: KV_PIPELINE }) {
    const complain = (text: string): void => this.#complain(text);
    this.#clients = Array.from({ length: shape.clients }, () => new KvClient(opener, complain));
    for (const [index, client] of this.#clients.entries())
      for (let slot = 0; slot < shape.pipeline; slot += 1) this.#next(client, index, slot);
  }

  get outcome(): KvOutcome {
    return {
      commandsSent: this.#sent,
      commandsAnswered: this.#answered,
      incrementsAcknowledged: this.#increments,
      incrementsLost: this.#lost,
      counters: Object.fromEntries(
        [...this.#answersByKey].map(([key, answers]) => [key, highestOf(answers)]),
      ),
      complaints: [...this.#complaints],
    };
  }

  /**
   * Ends the load, waits for the last answers and asks the machine for every key.
   * @throws {RomulusError} ERR_TIMEOUT_KV_DRAIN when answers stay out.
   */
  async finish(): Promise<KvOutcome> {
    this.#running = false;
    await this.#drained();
    const [client] = this.#clients;
    if (client === undefined) return this.outcome;
    this.#lost = 0;
    const checks: Promise<void>[] = [];
    for (const [key, answers] of this.#answersByKey)
      checks.push(this.#checkCounter(client, key, answers));
    for (const [key, value] of this.#lastSet) checks.push(this.#checkValue(client, key, value));
    await Promise.all([...checks, this.#drained()]);
    return this.outcome;
  }

  #next(client: KvClient, index: number, turn: number): void {
    if (!this.#running) return;
    const again = (): void => this.#next(client, index, turn + 1);
    if (turn % 8 === 7) this.#set(client, index, turn, again);
    else this.#increment(client, `drill:counter:${(index + turn) % KV_KEYS}`, again);
  }

  #increment(client: KvClient, key: string, then: () => void): void {
    this.#ask(client, ['INCR', key], (reply) => {
      if (reply.kind === 'integer') this.#noteAnswer(key, reply.value);
      else this.#complain(`INCR ${key} was answered with ${JSON.stringify(reply)}`);
      then();
    });
  }

  #set(client: KvClient, index: number, turn: number, then: () => void): void {
    const key = `drill:value:${index}`;
    const value = `${index}/${turn}/${'x'.repeat(turn % 64)}`;
    this.#ask(client, ['SET', key, value], (reply) => {
      if (reply.kind === 'text' && reply.text === 'OK') this.#lastSet.set(key, value);
      else this.#complain(`SET ${key} was answered with ${JSON.stringify(reply)}`);
      then();
    });
  }

  #ask(client: KvClient, words: readonly string[], onReply: (reply: Reply) => void): void {
    this.#sent += 1;
    client.command(words, (reply) => {
      this.#answered += 1;
      onReply(reply);
    });
  }

  #noteAnswer(key: string, value: number): void {
    this.#increments += 1;
    const answers = this.#answersByKey.get(key) ?? new Set<number>();
    this.#answersByKey.set(key, answers);
    if (answers.has(value)) this.#complain(`INCR ${key} was answered with ${value} twice`);
    answers.add(value);
  }

  async #checkCounter(client: KvClient, key: string, answers: Set<number>): Promise<void> {
    const reply = await this.#get(client, key);
    const highest = highestOf(answers);
    this.#lost = (this.#lost ?? 0) + Math.max(0, highest - Number(reply ?? 0));
    if (answers.size !== highest)
      this.#complain(`${key}: ${answers.size} answers up to ${highest}, so some were skipped`);
    if (reply !== String(highest))
      this.#complain(`${key}: acknowledged up to ${highest}, but the machine holds ${reply}`);
  }

  async #checkValue(client: KvClient, key: string, value: string): Promise<void> {
    const reply = await this.#get(client, key);
    if (reply !== value)
      this.#complain(`${key}: acknowledged "${value}", machine holds "${reply}"`);
  }

  #get(client: KvClient, key: string): Promise<string | null> {
    return new Promise((resolve) => {
      this.#ask(client, ['GET', key], (reply) => {
        resolve(reply.kind === 'bulk' ? reply.text : JSON.stringify(reply));
      });
    });
  }

  async #drained(): Promise<void> {
    const deadlineMs = performance.now() + KV_DRAIN_MS;
    while (this.#clients.some((client) => client.waitingCount > 0)) {
      if (performance.now() > deadlineMs)
        throw new RomulusError('ERR_TIMEOUT_KV_DRAIN', 'the key-value machine owes answers', {
          remedy: 'Look at the log of the node that runs the machine.',
          details: { sent: this.#sent, answered: this.#answered },
        });
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  #complain(text: string): void {
    // A broken run repeats itself; the first few sentences tell it all.
    if (this.#complaints.length < 20) this.#complaints.push(text);
  }
}
