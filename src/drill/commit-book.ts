/**
 * Which epoch each step of the machine belongs to, when the other side acknowledged it, and during
 * which stretches output was declared to leave unacknowledged: read from both audit files, asked
 * for every frame that the world heard.
 */
import type { AuditLine } from './evidence.ts';

/** A boundary between two epochs. */
interface Boundary {
  readonly epoch: number;
  /** Steps up to and including this one belong to the epoch, or an earlier one. */
  readonly position: number;
}

/** Output left without acknowledgement, and was declared to. */
interface OpenStretch {
  readonly fromNs: bigint;
  /** Steps beyond this one were held again; infinite while it lasts. */
  readonly throughPosition: number;
}

/** The book of one node as the runner, with the other as its backup. */
export class CommitBook {
  readonly #boundaries: Boundary[] = [];
  readonly #ackedAtNs = new Map<number, bigint>();
  readonly #stretches: OpenStretch[] = [];

  constructor(runner: readonly AuditLine[], backup: readonly AuditLine[]) {
    let openSinceNs: bigint | null = null;
    let holding: bigint | null = null;
    for (const line of runner) {
      if (line.what === 'mark' && line.epoch !== null && line.position !== null) {
        this.#addBoundary(line.epoch, line.position);
        // Held from the boundary of the first epoch that ends after `hold`; what came before it
        // left alone, and was declared to.
        if (holding !== null)
          this.#stretches.push({ fromNs: holding, throughPosition: line.position });
        holding = null;
      }
      if (line.what === 'open') openSinceNs ??= line.atNs;
      if (line.what === 'hold') {
        holding = openSinceNs;
        openSinceNs = null;
      }
    }
    const stillOpenNs = openSinceNs ?? holding;
    if (stillOpenNs !== null)
      this.#stretches.push({ fromNs: stillOpenNs, throughPosition: Number.POSITIVE_INFINITY });
    for (const line of backup)
      if (line.what === 'ack-sent' && line.epoch !== null && !this.#ackedAtNs.has(line.epoch))
        this.#ackedAtNs.set(line.epoch, line.atNs);
  }

  /** The last step of the epoch, or null when it was never marked. */
  positionOf(epoch: number): number | null {
    return this.#boundaries.find((boundary) => boundary.epoch === epoch)?.position ?? null;
  }

  /** The epoch that the step belongs to, or null when none was closed after it. */
  epochOf(step: number): number | null {
    let low = 0;
    let high = this.#boundaries.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#boundaries[middle]?.position ?? 0) >= step) high = middle;
      else low = middle + 1;
    }
    return this.#boundaries[low]?.epoch ?? null;
  }

  /** Whether a frame made at this step was free to be heard at this time. */
  mayBeHeard(step: number, atNs: bigint): boolean {
    const epoch = this.epochOf(step);
    const ackedNs = epoch === null ? undefined : this.#ackedAtNs.get(epoch);
    if (ackedNs !== undefined && ackedNs <= atNs) return true;
    return this.#stretches.some(
      (stretch) => stretch.fromNs <= atNs && step <= stretch.throughPosition,
    );
  }

  #addBoundary(epoch: number, position: number): void {
    const last = this.#boundaries.at(-1);
    // After a return to an older machine the steps begin again below; the newer tenure counts.
    if (last !== undefined && (position < last.position || epoch <= last.epoch)) return;
    this.#boundaries.push({ epoch, position });
  }
}
