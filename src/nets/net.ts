/**
 * What the engine needs of a network boundary: frames come from the machine, wait for their
 * epoch's commit, and leave. Two halves stand behind it: an outlet towards the world, and the
 * gate (output-gate.ts) in between, which is the same for every kind of machine.
 */

/** Where released frames go. */
export interface NetOutlet {
  /**
   * Whether a frame written now goes to the kernel at once. While it is false nothing may be
   * written: a runtime that keeps bytes back would send them later, without asking whether we
   * still may.
   */
  readonly ready: boolean;
  /**
   * Hands one frame, length in front, of the machine's NIC `port` (from 0) to everyone outside.
   * Only while `ready`.
   */
  write(frame: Buffer, port: number): void;
  /** The one listener for `ready` having become true again. */
  onReady(listener: () => void): void;
}

/** What a gate has counted; monotonic over its life. */
export interface NetCounters {
  /** Frames received from the machine since its net socket was last connected. */
  readonly framesReceived: number;
  readonly framesHeld: number;
  readonly bytesHeld: number;
  /** Frames that left, passed and released alike. */
  readonly framesReleased: number;
  /** Frames dropped because the gate was closed: a cable without a machine. */
  readonly framesDroppedClosed: number;
  /** Frames dropped because too much was held or waited to be: what a NIC with a full ring does. */
  readonly framesDroppedFull: number;
}
