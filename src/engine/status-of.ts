/** Puts together the status object that both roles fill. */
import type { PromiseWords } from '../signals/promise-words.ts';
import { nowNs } from './clock.ts';
import type { NodeParts } from './node-parts.ts';
import type { NodeStatus, Spread } from './status.ts';

const NOTHING: Spread = { last: 0, p50: 0, p99: 0, max: 0 };

/** The status of a node that measures nothing, to be completed by the role. */
export function blankStatus(parts: NodeParts, role: 'primary' | 'backup'): NodeStatus {
  const { framesHeld, framesReleased, framesDroppedClosed, framesDroppedFull } =
    parts.gate.counters;
  const { delayMs } = parts.gate;
  return {
    schemaVersion: 1,
    node: parts.config.node,
    instance: null,
    role,
    state: '',
    why: '',
    guest: null,
    generation: 0,
    epoch: 0,
    ackedEpoch: 0,
    appliedEpoch: 0,
    releasedEpoch: 0,
    intervalMs: parts.config.intervalMs,
    minIntervalMs: parts.config.minIntervalMs,
    earlyCheckpoints: 0,
    dirtyPages: NOTHING,
    pauseMs: NOTHING,
    stopMs: NOTHING,
    scanMs: NOTHING,
    copyMs: NOTHING,
    stateMs: NOTHING,
    resumeMs: NOTHING,
    encodeMs: NOTHING,
    outputDelayMs: {
      last: delayMs.quantile(0.5),
      p50: delayMs.quantile(0.5),
      p99: delayMs.quantile(0.99),
      max: delayMs.max,
    },
    commitMs: NOTHING,
    bytesRaw: 0,
    bytesSent: 0,
    queueBytes: 0,
    epochsSkipped: 0,
    outputHold: parts.config.netHold,
    outputHeldFrames: framesHeld,
    outputReleasedFrames: framesReleased,
    outputDroppedFrames: framesDroppedClosed + framesDroppedFull,
    sync: null,
    diskMode: null,
    diskCount: 0,
    diskWaitingBytes: 0,
    peer: null,
    promoteHook: parts.promoteHook.status,
    tracker: null,
    pid: process.pid,
    netPort: parts.netPort,
    linkPort: null,
    heartbeatPort: null,
    heartbeatAgeMs: null,
    heartbeatGapMsMax: 0,
    heartbeatsLate: 0,
  };
}

/** What either role knows of the other node's heartbeats. */
export function heartbeatStatus(
  words: PromiseWords,
): Pick<NodeStatus, 'heartbeatAgeMs' | 'heartbeatGapMsMax' | 'heartbeatsLate'> {
  return {
    heartbeatAgeMs: words.beatAgeMs(nowNs()),
    heartbeatGapMsMax: words.beatGapMsMax(),
    heartbeatsLate: words.beatsLate(),
  };
}
