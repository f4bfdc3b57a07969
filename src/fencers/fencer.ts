/** What the engine needs of a fence: the certainty that the other side cannot write any more. */

/** What is to be fenced, and for whom. */
export interface FenceRequest {
  /** Name of the machine. */
  readonly guest: string;
  /** Generation under which its copy is about to run here. */
  readonly generation: number;
  /** Name of the node that ran it. */
  readonly peer: string;
}

/** A way to fence. */
export interface Fencer {
  /**
   * Resolves when the other side cannot write any more. May be called again.
   * @throws {RomulusError} ERR_FENCED_FENCE, ERR_TIMEOUT_FENCE: it is not known whether it still can.
   */
  fence(request: FenceRequest): Promise<void>;
}
