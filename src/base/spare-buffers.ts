/**
 * Buffers of one size that go round: taken to be filled, given away with what is in them, and given
 * back when nobody needs that any more. Fresh memory costs a fault for each of its pages.
 */

/** A bounded store of such buffers. */
export class SpareBuffers {
  readonly bytes: number;
  readonly #countMax: number;
  #spares: readonly ArrayBuffer[] = [];

  /** Of `bytes` each; more than `countMax` that wait are left to the collector. */
  constructor(options: { readonly bytes: number; readonly countMax: number }) {
    this.bytes = options.bytes;
    this.#countMax = options.countMax;
  }

  /** Those that wait. */
  get waiting(): readonly ArrayBuffer[] {
    return this.#spares;
  }

  /** One of them, or a new one. What stands in it is nobody's. */
  take(): ArrayBuffer {
    const spare = this.#spares.at(-1);
    if (spare === undefined) return new ArrayBuffer(this.bytes);
    this.#spares = this.#spares.slice(0, -1);
    return spare;
  }

  /** These of those that wait are in use now. */
  taken(buffers: readonly ArrayBuffer[]): void {
    const used = new Set(buffers);
    this.#spares = this.#spares.filter((spare) => !used.has(spare));
  }

  /** Nobody needs these any more. Buffers of another size are left to the collector. */
  giveBack(buffers: readonly ArrayBuffer[]): void {
    const fitting = buffers.filter(({ byteLength }) => byteLength === this.bytes);
    this.#spares = [...this.#spares, ...fitting].slice(0, this.#countMax);
  }
}
