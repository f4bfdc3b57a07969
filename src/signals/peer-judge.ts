/**
 * One side's opinion of the other: turns what the heartbeat thread observes into signals, keeps
 * the detector and the verdict (core), and reports both when something changes. Holds no socket
 * and no timer; time is an argument.
 */
import { FailureDetector, type HeardInterval } from '../core/failure-detector.ts';
import { type Signal, type Verdict, VerdictMaker } from '../core/verdict.ts';
import type { Goodbye } from './heartbeat-types.ts';

/** Of a closed connection, or a port that refuses: two of them are enough. */
const CONNECTION_STRENGTH = 0.5;
/** Of a host that cannot be reached: that is the network's word, not the peer's kernel's. */
const UNREACHABLE_STRENGTH = 0.25;
/** Weaker suspicion by silence than this share of `phiDead` is not worth a signal. */
const SILENCE_STRENGTH_MIN = 0.25;

export interface PeerJudgeOptions {
  /** Now: what was heard on the link before was of another peer, or another life of this one. */
  readonly startedAtMs: number;
  readonly intervalMs: number;
  readonly phiDead: number;
  readonly onVerdict: (verdict: Verdict) => void;
  /** Everything that was weighed except the ordinary signs of life and of silence. */
  readonly onSignal: (signal: Signal) => void;
}

/** Which connection a signal is about. */
export type Channel = 'heartbeat' | 'link';

/** Weighs all that is known of one peer. */
export class PeerJudge {
  readonly #options: PeerJudgeOptions;
  readonly #detector: FailureDetector;
  readonly #maker = new VerdictMaker();
  #lastHeartbeatMs: number | null = null;
  #lastLinkMs: number | null = null;
  /** What was heard on the link before then was of another peer. */
  #judgedFromMs: number;
  /** As the silence was weighed last. */
  #silenceStrength = 0;
  /** The peer said goodbye: what follows is as announced. */
  #departed = false;

  constructor(options: PeerJudgeOptions) {
    this.#options = options;
    this.#judgedFromMs = options.startedAtMs;
    this.#detector = new FailureDetector({ intervalMs: options.intervalMs });
  }

  /** The verdict as it stands. */
  get verdict(): Verdict {
    return this.#maker.current;
  }

  /** For how long no heartbeat came; 0 before the first. */
  silentMs(nowMs: number): number {
    return this.#lastHeartbeatMs === null ? 0 : nowMs - this.#lastHeartbeatMs;
  }

  /** Whether a review could change nothing: it lives, and was heard within that time. */
  isCalm(nowMs: number, withinMs: number): boolean {
    return (
      this.#silenceStrength === 0 &&
      this.#lastHeartbeatMs !== null &&
      this.silentMs(nowMs) <= withinMs &&
      this.verdict.state === 'alive'
    );
  }

  /** A heartbeat, or an answer to one, has come; gives what came between it and the last. */
  heartbeatHeard(atMs: number): HeardInterval | null {
    this.#departed = false;
    this.#lastHeartbeatMs = atMs;
    const heard = this.#detector.heard(atMs);
    this.#weigh(
      { ...about('heartbeat', 'heartbeat', 'life'), strength: -1, atMs, text: 'heartbeat heard' },
      false,
    );
    return heard;
  }

  /** Bytes of the peer came in on the bulk link. */
  linkHeard(atMs: number): void {
    if (this.#departed || atMs <= Math.max(this.#lastLinkMs ?? 0, this.#judgedFromMs)) return;
    this.#lastLinkMs = atMs;
    this.#detector.sign(atMs);
    this.#weigh(
      { ...about('heartbeat', 'link', 'life'), strength: -1, atMs, text: 'link heard' },
      false,
    );
  }

  /** A connection to the peer ended without a goodbye. `how` completes "heartbeat connection ...". */
  connectionClosed(channel: Channel, how: string, atMs: number): void {
    if (this.#departed) return;
    const name = channel === 'heartbeat' ? 'heartbeat connection' : 'link';
    this.#weigh({
      ...about('connection', channel, 'closed'),
      strength: CONNECTION_STRENGTH,
      atMs,
      text: `${name} ${how}`,
    });
  }

  /** A connection to the peer was made. That alone is no life: a kernel accepts for a frozen process. */
  connectionOpened(channel: Channel, atMs: number): void {
    const text = channel === 'heartbeat' ? 'heartbeat connection made' : 'link made';
    this.#weigh({ ...about('connection', channel, 'refused'), strength: 0, atMs, text }, false);
    this.#weigh({ ...about('connection', channel, 'unreachable'), strength: 0, atMs, text }, false);
    this.#weigh({ ...about('connection', channel, 'closed'), strength: 0, atMs, text });
  }

  /** The peer's kernel answered that nobody listens there. */
  redialRefused(atMs: number): void {
    if (this.#departed) return;
    this.#weigh({
      ...about('connection', 'heartbeat', 'refused'),
      strength: CONNECTION_STRENGTH,
      atMs,
      text: 'redial refused',
    });
  }

  /** The network says that the peer's host cannot be reached. */
  redialUnreachable(reason: string, atMs: number): void {
    if (this.#departed) return;
    this.#weigh({
      ...about('connection', 'heartbeat', 'unreachable'),
      strength: UNREACHABLE_STRENGTH,
      atMs,
      text: `redial failed (${reason})`,
    });
  }

  /** The peer said that it leaves. Only the loss of its machine is a reason to take over. */
  goodbye(goodbye: Goodbye, atMs: number): void {
    this.#departed = true;
    this.#weigh({
      ...about('connection', 'heartbeat', 'goodbye'),
      strength: goodbye.reason === 'guest-lost' ? 1 : CONNECTION_STRENGTH,
      atMs,
      text: `it said goodbye (${goodbye.reason}: ${goodbye.text})`,
    });
  }

  /** Something that others observed: a probe, a vote. */
  signal(signal: Signal): void {
    this.#weigh(signal);
  }

  /** Tells the detector how late its owner ran. */
  ticked(expectedAtMs: number, actualAtMs: number): void {
    this.#detector.ticked(expectedAtMs, actualAtMs);
  }

  /** Weighs the silence up to now. To be called after all that waits in sockets was read. */
  review(nowMs: number): void {
    const { phi, discountedMs } = this.#detector.suspicion(nowMs);
    const suspicion = Math.min(1, phi / this.#options.phiDead);
    const strength = this.#departed || suspicion < SILENCE_STRENGTH_MIN ? 0 : suspicion;
    const signal = {
      ...about('heartbeat', 'heartbeat', 'silence'),
      strength,
      atMs: nowMs,
      // Put into words only when it is worth them: this is asked a hundred times a second.
      text: strength === 0 ? 'no silence to speak of' : this.#silenceText(nowMs, phi, discountedMs),
    };
    this.#silenceStrength = strength;
    const verdict = this.#maker.weigh(signal);
    if (verdict === null) return;
    this.#options.onSignal(signal);
    this.#options.onVerdict(verdict);
  }

  /** Judges another peer from now on. */
  forgetPeer(nowMs: number): void {
    this.#detector.forgetPeer();
    this.#maker.forgetPeer(nowMs);
    this.#silenceStrength = 0;
    this.#lastHeartbeatMs = null;
    this.#lastLinkMs = null;
    this.#judgedFromMs = nowMs;
    this.#departed = false;
  }

  #weigh(signal: Signal, report = true): void {
    const verdict = this.#maker.weigh(signal);
    if (report) this.#options.onSignal(signal);
    if (verdict !== null) this.#options.onVerdict(verdict);
  }

  #silenceText(nowMs: number, phi: number, discountedMs: number): string {
    const heartbeatSilentMs = nowMs - (this.#lastHeartbeatMs ?? Number.NEGATIVE_INFINITY);
    const parts = [
      this.#lastHeartbeatMs === null
        ? 'no heartbeat ever'
        : `no heartbeat for ${Math.round(heartbeatSilentMs)} ms`,
      `phi ${phi.toFixed(1)}`,
    ];
    if (this.#lastLinkMs !== null) {
      const linkSilentMs = nowMs - this.#lastLinkMs;
      const asLong = linkSilentMs >= heartbeatSilentMs;
      parts.push(asLong ? 'link silent too' : `link silent for ${Math.round(linkSilentMs)} ms`);
    }
    if (discountedMs >= 1)
      parts.push(`${Math.round(discountedMs)} ms of own standstill not counted`);
    return parts.join(', ');
  }
}

function about(
  source: Signal['source'],
  channel: Channel,
  kind: string,
): Pick<Signal, 'source' | 'channel' | 'kind'> {
  return { source, channel, kind };
}
