/**
 * Who judges a machine with a disk or a card beside its console: clients on a host of their own, from
 * before it is protected until after its copy took over; and at the end its disk, as the guest reads it
 * and as the file is.
 */
import { RomulusError } from '../../base/errors.ts';
import { AskedProcess } from '../asked-process.ts';
import type { Child } from '../children.ts';
import type {
  ClientsAnswers,
  ClientsOutcome,
  ClientsQuestion,
} from '../clients/clients-process.ts';
import { GUEST_ADDRESS } from '../hosts/two-hosts.ts';
import { until } from '../theatre.ts';
import { digestOf, faultsOf } from './drill-disk.ts';
import type { QemuTheatre } from './qemu-theatre.ts';
import { loadRedis } from './redis-load.ts';
import type { ClientsEvidence, DiskEvidence, ServicesEvidence } from './services-checks.ts';

/** Longest wait for the clients to be answered again after a strike; it is judged, not awaited. */
const ANSWER_WAIT_MS = 30_000;
/** Longest wait for each thing that the guest does at its end; a busy host takes its time to read a disk. */
const GUEST_WAIT_MS = 120_000;
/** Longest wait for a replica to have what its primary's disk has, once nobody writes. */
const REPLICA_WAIT_MS = 30_000;
const NS_PER_MS = 1e6;
/** Commands on the way at once: the guest has one slow processor, and others want their turn. */
const BENCHMARK_CLIENTS = 1;
/** More than any drill waits for. */
const BENCHMARK_REQUESTS = 100_000_000;

/** What the guest said to a command. */
interface Answer {
  readonly isDone: boolean;
  readonly lines: readonly string[];
}

/** Of one drill. */
export class Witnesses {
  readonly #theatre: QemuTheatre;
  readonly #clients: AskedProcess<ClientsQuestion, ClientsAnswers> | null;
  #benchmark: Child | null = null;

  constructor(theatre: QemuTheatre) {
    this.#theatre = theatre;
    const { hosts } = theatre.surroundings;
    this.#clients =
      hosts === null
        ? null
        : new AskedProcess(theatre.stage, {
            name: 'clients',
            program: 'clients/clients-process.js',
            launcher: hosts.enter('client'),
          });
  }

  /**
   * Connects every client, for the whole drill, and has redis loaded.
   * @throws {RomulusError} ERR_GUEST_SILENT when the guest's servers do not come up.
   */
  async begin(): Promise<void> {
    const silent = await this.#clients?.ask({ ask: 'begin', address: GUEST_ADDRESS });
    if (silent !== undefined && silent.length > 0)
      throw new RomulusError('ERR_GUEST_SILENT', `nobody listens in the guest: ${silent.join()}`, {
        remedy: "Read the console's lines in the drill's directory.",
      });
    const { hosts } = this.#theatre.surroundings;
    if (hosts === null) return;
    this.#benchmark = this.#theatre.stage.start({
      name: 'redis-benchmark',
      launcher: hosts.enter('client'),
      command: 'redis-benchmark',
      args: `-h ${GUEST_ADDRESS} -t set -c ${BENCHMARK_CLIENTS} -n ${BENCHMARK_REQUESTS} -q`.split(
        ' ',
      ),
      output: 'log',
    });
  }

  /** Waits until the clients were answered after an instant, in vain if need be. */
  async awaitAnswer(afterNs: bigint): Promise<void> {
    const clients = this.#clients;
    if (clients === null) return;
    const fromMs = Number(afterNs) / NS_PER_MS;
    await until('the clients to be answered', ANSWER_WAIT_MS, async () => {
      return (await clients.ask({ ask: 'answeredSince', fromMs })) > 0;
    }).catch(ignoreTimeout);
  }

  /** Ends the load; what the clients were answered from the strike on. */
  async hangUp(struckAtNs: bigint): Promise<ClientsEvidence> {
    const benchmarkEnd = this.#benchmark?.isGone() === true ? await this.#benchmark.gone : null;
    this.#benchmark?.process.kill('SIGTERM');
    const struckAtMs = Number(struckAtNs) / NS_PER_MS;
    const clients = (await this.#clients?.ask({ ask: 'finish', struckAtMs })) ?? null;
    return { clients, benchmarkEnd };
  }

  /** Has the guest write its last, and compares the disks. */
  async examine(
    evidence: ClientsEvidence,
    sides: { readonly survivor: 0 | 1; readonly isFollowed: boolean },
  ): Promise<ServicesEvidence> {
    return { ...evidence, disk: await this.#examineDisk(sides, evidence.clients) };
  }

  async #examineDisk(
    sides: { readonly survivor: 0 | 1; readonly isFollowed: boolean },
    clients: ClientsOutcome | null,
  ): Promise<DiskEvidence | null> {
    const { survivor, isFollowed } = sides;
    const path = this.#theatre.surroundings.diskOf(survivor);
    if (path === null) return null;
    const ask = this.#patientlyOnce(survivor);
    // It was checked already, and would only slow down what follows.
    await ask('stop pattern');
    const blocks = await ask('check disk');
    await ask('end disk');
    if (clients !== null) await ask('end redis-server');
    const unmounted = await ask('unmount');
    const digest = await ask('digest vda');
    const fileDigest = await digestOf(path);
    return {
      blocks: blocks.lines[0] ?? 'no answer',
      unmounted: unmounted.isDone ? null : unmounted.lines.join('; '),
      guestDigest: digest.lines[0] ?? 'no answer',
      fileDigest,
      replicaDigest: isFollowed ? await this.#replicaDigest(survivor, fileDigest) : null,
      faults: await faultsOf(path),
      loaded:
        clients === null
          ? null
          : await loadRedis(this.#theatre.stage, path, Object.keys(clients.redis.counters)),
    };
  }

  /**
   * Has the guest do one thing after the other. That it does not do what it is told is a finding like any
   * other; once it did not answer at all, it is asked no more.
   */
  #patientlyOnce(survivor: 0 | 1): (text: string) => Promise<Answer> {
    let silence: Answer | null = null;
    return async (text) => {
      if (silence !== null) return silence;
      try {
        return {
          isDone: true,
          lines: await this.#theatre.command(survivor, text, GUEST_WAIT_MS),
        };
      } catch (error) {
        if (!(error instanceof RomulusError)) throw error;
        const refusal = { isDone: false, lines: [`BAD ${error.message}`] };
        if (error.code === 'ERR_TIMEOUT_SERIAL') silence = refusal;
        return refusal;
      }
    };
  }

  /** Nobody writes any more, so the replica comes to the same, an epoch later at most. */
  async #replicaDigest(survivor: 0 | 1, wanted: string): Promise<string> {
    const path = this.#theatre.surroundings.diskOf(survivor === 0 ? 1 : 0);
    if (path === null) return 'no replica';
    await until('the replica to be alike', REPLICA_WAIT_MS, async () => {
      return (await digestOf(path)) === wanted;
    }).catch(ignoreTimeout);
    return await digestOf(path);
  }
}

/** What was waited for is looked at again, and judged. */
function ignoreTimeout(error: unknown): void {
  if (!(error instanceof RomulusError) || error.code !== 'ERR_TIMEOUT_DRILL') throw error;
}
