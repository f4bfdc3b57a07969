/** What a node says of itself: the same object for `status`, progress lines and, later, metrics. */

export interface Spread {
  readonly last: number;
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

export interface PeerStatus {
  readonly node: string;
  readonly instance: string;
  readonly connected: boolean;
}

export interface HookStatus {
  readonly state: 'running' | 'done' | 'failed';
  /** How it ended, and the last of what it said; empty while it runs. */
  readonly why: string;
}

/** Keys are stable; units are in the names. */
export interface NodeStatus {
  readonly schemaVersion: 1;
  readonly node: string;
  readonly instance: string | null;
  readonly role: 'primary' | 'backup';
  readonly state: string;
  /** Why the node is in that state, in words. */
  readonly why: string;
  readonly guest: string | null;
  readonly generation: number;
  readonly epoch: number;
  readonly ackedEpoch: number;
  readonly appliedEpoch: number;
  readonly releasedEpoch: number;
  readonly intervalMs: number;
  /** 0: waiting output never ends an epoch early. */
  readonly minIntervalMs: number;
  /** Checkpoints taken before the interval's end, because output waited. */
  readonly earlyCheckpoints: number;
  readonly dirtyPages: Spread;
  readonly pauseMs: Spread;
  readonly stopMs: Spread;
  readonly scanMs: Spread;
  readonly copyMs: Spread;
  readonly stateMs: Spread;
  readonly resumeMs: Spread;
  readonly encodeMs: Spread;
  readonly outputDelayMs: Spread;
  readonly commitMs: Spread;
  readonly bytesRaw: number;
  readonly bytesSent: number;
  readonly queueBytes: number;
  readonly epochsSkipped: number;
  /** How the output of the machine's NICs is treated; `none`: it leaves before it is safe. */
  readonly outputHold: 'all' | 'none';
  readonly outputHeldFrames: number;
  readonly outputReleasedFrames: number;
  readonly outputDroppedFrames: number;
  /** The image that is being made for a backup; src/engine/sync-driver.ts. */
  readonly sync: {
    readonly plan: 'full' | 'changed';
    readonly round: number;
    readonly pages: number;
    readonly bytes: number;
    readonly diskBytes: number;
    readonly diskTotalBytes: number;
    readonly memoryBytes: number;
    readonly memoryTotalBytes: number;
    readonly elapsedMs: number;
  } | null;
  /** What becomes of the machine's disks; null while that is not known. */
  readonly diskMode: 'replicate' | 'shared' | 'none' | null;
  /** Disks that are replicated. */
  readonly diskCount: number;
  /** Bytes of disk writes that wait for their epoch. */
  readonly diskWaitingBytes: number;
  readonly peer: PeerStatus | null;
  /** How `--promote-hook` ended after the last promotion here; null before there was one. */
  readonly promoteHook: HookStatus | null;
  readonly tracker: string | null;
  readonly pid: number;
  readonly netPort: number | null;
  readonly linkPort: number | null;
  readonly heartbeatPort: number | null;
  /** Since the last heartbeat of the other node, or answer to one; null: none came yet. */
  readonly heartbeatAgeMs: number | null;
  /** The longest time between two of them, since the spreads were begun anew. */
  readonly heartbeatGapMsMax: number;
  /**
   * Those that came so late after the last that they would make suspect who is not known for it: 74 ms at
   * the default heartbeat. What the node itself stood still meanwhile is not counted.
   */
  readonly heartbeatsLate: number;
}

/** What happens to a node, as it happens. */
export type NodeEvent =
  | {
      readonly event: 'listening';
      readonly linkPort: number | null;
      readonly netPort: number | null;
      readonly heartbeatPort: number | null;
    }
  | {
      readonly event: 'state';
      readonly role: 'primary' | 'backup';
      readonly state: string;
      readonly why: string;
      readonly epoch: number;
      readonly generation: number;
    }
  | {
      readonly event: 'verdict';
      readonly dead: boolean;
      readonly why: string;
      readonly atNs: string;
    }
  | {
      readonly event: 'promoted';
      readonly epoch: number;
      readonly generation: number;
      /** From the verdict to the decision: what the promises still held us back. */
      readonly waitedMs: number;
      readonly promoteMs: number;
      readonly decidedAtNs: string;
      readonly runningAtNs: string;
      readonly why: string;
    }
  | ({ readonly event: 'promoteHook' } & HookStatus)
  | { readonly event: 'fenced'; readonly why: string }
  | {
      readonly event: 'error';
      readonly code: string;
      readonly message: string;
      readonly remedy: string;
    }
  | ({ readonly event: 'progress' } & NodeStatus);
