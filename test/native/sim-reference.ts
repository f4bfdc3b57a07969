/**
 * A second implementation of the simulated machine's workloads, written from their description in
 * native-sim/README.md and sharing nothing with the C++ program: it is what the oracle is checked
 * against. Readable rather than quick: a few thousand steps a second.
 */

const MASK = (1n << 64n) - 1n;
const GOLDEN = 0x9e3779b97f4a7c15n;
const PAGE_WORDS = 512n;
const STEPS_PER_MILLION = 1_000_000;
const BEACONS_PER_DISK_WRITE = 4;

export interface ReferenceOptions {
  readonly memoryBytes: number;
  readonly diskBytes: number;
  readonly workload: 'idle' | 'counter' | 'random' | 'hotspot' | 'stream';
  readonly seed: bigint;
  readonly beacons: number;
}

/** A beacon frame, as values. */
export interface ReferenceBeacon {
  readonly seq: number;
  readonly step: number;
  readonly hash: bigint;
}

function mix(value: bigint): bigint {
  let z = value & MASK;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return z ^ (z >> 31n);
}

/** Uniform in [0, bound) by the high half of the product. */
function below(random: bigint, bound: bigint): bigint {
  return (random * bound) >> 64n;
}

/** The machine after `step` steps, words by index; what is absent is zero. */
export class SimReference {
  readonly options: ReferenceOptions;
  readonly ram = new Map<bigint, bigint>();
  readonly disk = new Map<bigint, bigint>();
  readonly beacons: ReferenceBeacon[] = [];
  step = 0n;
  hash = 0n;
  #phase = 0;
  #diskWrites = 0n;
  readonly #pages: bigint;

  constructor(options: ReferenceOptions) {
    this.options = options;
    this.#pages = BigInt(options.memoryBytes) / 4096n;
  }

  runTo(step: number): void {
    while (this.step < BigInt(step)) {
      this.step += 1n;
      this.#workload();
      this.#phase += this.options.beacons;
      if (this.#phase >= STEPS_PER_MILLION) {
        this.#phase -= STEPS_PER_MILLION;
        this.#beacon();
      }
    }
  }

  /** RAM or disk as bytes. */
  image(words: ReadonlyMap<bigint, bigint>, bytes: number): Uint8Array {
    const image = new Uint8Array(bytes);
    const view = new DataView(image.buffer);
    for (const [index, word] of words) view.setBigUint64(Number(index) * 8, word, true);
    return image;
  }

  #absorb(value: bigint): void {
    this.hash = mix(this.hash ^ value);
  }

  #touch(index: bigint, salt: bigint): bigint {
    const word = mix((this.ram.get(index) ?? 0n) ^ (salt & MASK));
    this.ram.set(index, word);
    return word;
  }

  #workload(): void {
    const { workload, seed } = this.options;
    const salt = (seed + this.step * GOLDEN) & MASK;
    const random = mix(salt);
    switch (workload) {
      case 'idle':
        this.#absorb(this.step);
        break;
      case 'counter': {
        const index = (this.step % 8n) * (this.#pages / 8n) * PAGE_WORDS;
        const word = ((this.ram.get(index) ?? 0n) + 1n) & MASK;
        this.ram.set(index, word);
        this.#absorb(word);
        break;
      }
      case 'random': {
        const first = below(random, this.#pages) * PAGE_WORDS + (mix(random) % 64n) * 8n;
        for (let i = 0n; i < 8n; i++) this.#absorb(this.#touch(first + i, salt + i));
        break;
      }
      case 'hotspot': {
        const octaves = BigInt(this.#pages.toString(2).length - 1);
        const octave = below(random, octaves);
        const second = mix(random);
        const rank = (1n << octave) - 1n + below(second, 1n << octave);
        const page = (rank * 2654435761n + (seed % this.#pages)) % this.#pages;
        this.#absorb(this.#touch(page * PAGE_WORDS + (mix(second) % PAGE_WORDS), salt));
        break;
      }
      case 'stream': {
        const first = ((this.step - 1n) % this.#pages) * PAGE_WORDS;
        let fold = 0n;
        for (let i = 0n; i < PAGE_WORDS; i++) fold ^= this.#touch(first + i, salt + i);
        this.#absorb(fold);
        break;
      }
    }
  }

  #beacon(): void {
    const seq = this.beacons.length + 1;
    if (seq % BEACONS_PER_DISK_WRITE === 0) this.#writeDisk();
    this.beacons.push({ seq, step: Number(this.step), hash: this.hash });
  }

  #writeDisk(): void {
    this.#diskWrites += 1n;
    const blocks = BigInt(this.options.diskBytes) / 4096n;
    const block = below(mix(this.options.seed ^ this.#diskWrites), blocks);
    const first = block * PAGE_WORDS;
    for (let i = 0n; i < PAGE_WORDS; i++) {
      this.disk.set(first + i, mix((this.disk.get(first + i) ?? 0n) ^ ((this.hash + i) & MASK)));
    }
    this.#absorb(this.disk.get(first) ?? 0n);
  }
}
