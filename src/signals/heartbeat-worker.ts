/**
 * The heartbeat thread: one of the two hearts, the tick by which the peer's silence is judged, and
 * the messages from and to the main thread. It runs beside the main thread so that neither a
 * garbage collection nor a long task there looks like death.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { assert, unreachable } from '../base/assert.ts';
import { toRomulusError } from '../base/errors.ts';
import {
  boostMain,
  boostThread,
  easeThread,
  isolateDescriptors,
  wasCalledUp,
} from '../native/host.ts';
import { BackupHeart } from './backup-heart.ts';
import type { HeartbeatOrder, HeartbeatReport, HeartbeatWorkerData } from './heartbeat-types.ts';
import { monotonicMs, PromiseWords } from './promise-words.ts';
import { PrimaryHeart, startPrimaryHeart } from './primary-heart.ts';
import { Ticker } from './ticker.ts';
import { PriorityKeeper } from './urgency.ts';

/** Silence is judged once an interval, and with very long ones still this often. */
const REVIEW_MS_MAX = 50;
/** A peer that is silent for longer than this many intervals is judged twice as often. */
const OVERDUE_INTERVALS = 1.25;
/** How long the main thread goes ahead of others after a verdict of death: a failover and more. */
const MAIN_BOOST_MS = 1000;
const NS_PER_MS = 1e6;

assert(parentPort !== null, 'the heartbeat thread is started by startHeartbeat only');
const port = parentPort;
const data = workerData as HeartbeatWorkerData;
const words = new PromiseWords(data.words);

let mainBoost: NodeJS.Timeout | null = null;
let keeper: PriorityKeeper | null = null;

function report(message: HeartbeatReport): void {
  if (message.kind === 'verdict' && message.verdict.state === 'dead') boostMainForFailover();
  port.postMessage(message);
}

/** A backup's main thread has a machine to start now, and every millisecond is felt outside. */
function boostMainForFailover(): void {
  if (data.role !== 'backup') return;
  // The host is about to be busy.
  keeper?.urge(monotonicMs());
  if (!boostMain(true)) return;
  if (mainBoost === null) mainBoost = setTimeout(endMainBoost, MAIN_BOOST_MS);
  else mainBoost.refresh();
}

function endMainBoost(): void {
  if (mainBoost === null) return;
  clearTimeout(mainBoost);
  mainBoost = null;
  boostMain(false);
}

async function startHeart(): Promise<PrimaryHeart | BackupHeart> {
  const { endpoint, tuning, generation } = data;
  const common = { endpoint, tuning, generation, words, report };
  if (data.role === 'backup') return new BackupHeart({ ...common, instance: data.instance });
  return await startPrimaryHeart({ ...common, partner: data.partner });
}

/** Beats and reviews share one timer: each time this thread wakes, somebody else does not run. */
function run(heart: PrimaryHeart | BackupHeart): void {
  const { intervalMs } = data.tuning;
  const reviewsPerBeat = Math.ceil(intervalMs / REVIEW_MS_MAX);
  const reviewMs = intervalMs / reviewsPerBeat;
  const overdueMs = OVERDUE_INTERVALS * intervalMs;
  let reviewCount = 0;
  const review = (atMs: number): void => {
    const linkHeardAtNs = words.linkHeardAtNs();
    if (linkHeardAtNs > 0n) heart.judge.linkHeard(Number(linkHeardAtNs) / NS_PER_MS);
    // As of the tick: a standstill since then is only told at the next one.
    heart.judge.review(atMs);
  };
  const ticker = new Ticker(reviewMs, (expectedAtMs, actualAtMs) => {
    reviewCount += 1;
    if (heart instanceof PrimaryHeart && reviewCount % reviewsPerBeat === 0) heart.beat();
    heart.judge.ticked(expectedAtMs, actualAtMs);
    keeper?.ticked(expectedAtMs, actualAtMs);
    if (heart.judge.isCalm(actualAtMs, overdueMs)) return;
    // After a standstill heartbeats wait in the sockets: they are read between the timers and
    // this, so the verdict never rests on what merely was not read yet.
    setImmediate(() => {
      review(actualAtMs);
      if (heart.judge.silentMs(actualAtMs) <= overdueMs) return;
      setTimeout(() => {
        const atMs = monotonicMs();
        setImmediate(() => {
          review(atMs);
        });
      }, reviewMs / 2).unref();
    });
  });
  port.on('message', (order: HeartbeatOrder) => {
    obey(heart, ticker, order);
  });
}

function obey(heart: PrimaryHeart | BackupHeart, ticker: Ticker, order: HeartbeatOrder): void {
  switch (order.kind) {
    case 'setPartner':
      assert(heart instanceof PrimaryHeart, 'only a primary has a partner whose promises count');
      heart.setPartner(order.partner);
      report({ kind: 'partnerSet', requestId: order.requestId });
      return;
    case 'setInstance':
      assert(heart instanceof BackupHeart, 'only a backup answers as an instance');
      heart.setInstance(order.instance);
      return;
    case 'setGeneration':
      heart.setGeneration(order.generation);
      return;
    case 'link':
      if (order.state === 'open') heart.judge.connectionOpened('link', order.atMs);
      else heart.judge.connectionClosed('link', order.text, order.atMs);
      return;
    case 'signal':
      heart.judge.signal(order.signal);
      return;
    case 'stop':
      endMainBoost();
      ticker.stop();
      heart.stop(order.goodbye);
      port.close();
      return;
    default:
      unreachable(order, 'order to the heartbeat thread');
  }
}

try {
  // Before any socket is made: a killed engine's heartbeats must end at once, whatever it shadows.
  const loopDescriptors = isolateDescriptors();
  const priority = boostThread();
  const heart = await startHeart();
  keeper = new PriorityKeeper({
    acts: { boost: () => boostThread() === 'rr', ease: easeThread, wasCalledUp },
    startedAtMs: monotonicMs(),
    isBoosted: priority === 'rr',
  });
  run(heart);
  report({
    kind: 'ready',
    port: heart instanceof PrimaryHeart ? heart.port : 0,
    priority,
    loopDescriptors,
  });
} catch (error) {
  report({ kind: 'failed', error: toRomulusError(error).toJSON() });
  port.close();
}
