/**
 * Data sets of changed pages for benches: synthetic ones that isolate a pattern, and epochs of the
 * simulated machine's own workloads, taken from its oracle. All seeded, hence the same everywhere.
 */
import { Prng } from '../../src/base/prng.ts';
import { MIB, PAGE_BYTES } from '../../src/base/units.ts';
import { SimOracle } from '../../src/native/sim-oracle.ts';

/** Pages that changed in one epoch, with their content before and after. */
export interface PageSet {
  readonly name: string;
  readonly indexes: Uint32Array;
  readonly old: Buffer;
  readonly now: Buffer;
}

const PAGES = 4096;
/** Synthetic pages are scattered over this many, as dirty pages of a machine are. */
const SPREAD_PAGES = 65_536;
const MACHINE_BYTES = 64 * MIB;
const WORDS = Buffer.from(
  'the quick brown fox jumps over the lazy dog while the machine writes its next epoch of memory ' +
    'and the backup waits for every byte of it before anything of it is heard outside\n',
);

function fillText(page: Uint8Array, prng: Prng): void {
  for (let at = 0; at < page.length; at += 16) {
    const start = prng.nextBelow(WORDS.length - 16);
    page.set(WORDS.subarray(start, start + Math.min(16, page.length - at)), at);
  }
}

function fillRandom(page: Uint8Array, prng: Prng): void {
  for (let at = 0; at < page.length; at += 1) page[at] = prng.nextUint32() >>> 24;
}

function randomBytes(page: Uint8Array, prng: Prng, count: number): void {
  for (let write = 0; write < count; write += 1) {
    page[prng.nextBelow(PAGE_BYTES)] = prng.nextUint32() >>> 24;
  }
}

/** Synthetic changes of one page of text. */
const SYNTHETIC: Readonly<Record<string, (page: Uint8Array, prng: Prng) => void>> = {
  'sparse words': (page, prng) => {
    for (let words = 1 + prng.nextBelow(2); words > 0; words -= 1) {
      const at = 8 * prng.nextBelow(PAGE_BYTES / 8);
      fillRandom(page.subarray(at, at + 8), prng);
    }
  },
  'a word in each line': (page, prng) => {
    for (let line = 0; line < PAGE_BYTES; line += 64) {
      const at = line + 8 * prng.nextBelow(8);
      fillRandom(page.subarray(at, at + 8), prng);
    }
  },
  '100 random bytes': (page, prng) => randomBytes(page, prng, 100),
  '400 random bytes': (page, prng) => randomBytes(page, prng, 400),
  '2000 random bytes': (page, prng) => randomBytes(page, prng, 2000),
  'half-changed text': (page, prng) => fillText(page.subarray(1024, 3072), prng),
  'random pages': fillRandom,
};

function synthetic(name: string): PageSet {
  const change = SYNTHETIC[name];
  if (change === undefined) throw new RangeError(name);
  const prng = new Prng(1);
  const chosen = new Set<number>();
  while (chosen.size < PAGES) chosen.add(prng.nextBelow(SPREAD_PAGES));
  const old = Buffer.allocUnsafeSlow(PAGES * PAGE_BYTES);
  fillText(old, prng);
  const now = Buffer.allocUnsafeSlow(old.length);
  old.copy(now);
  for (let at = 0; at < now.length; at += PAGE_BYTES) {
    change(now.subarray(at, at + PAGE_BYTES), prng);
  }
  return { name, indexes: Uint32Array.from(chosen).sort(), old, now };
}

/** Requests of a client that writes numbered keys, as redis-benchmark does. */
function kvRequests(prng: Prng, count: number): Buffer {
  let text = '';
  for (let request = 0; request < count; request += 1) {
    const key = `key:${String(prng.nextBelow(20_000)).padStart(12, '0')}`;
    const value = prng.nextUint32().toString(36).repeat(8);
    text += `*3\r\n$3\r\nSET\r\n$${key.length}\r\n${key}\r\n$${value.length}\r\n${value}\r\n`;
  }
  return Buffer.from(text);
}

/** One epoch of a workload of the simulated machine. */
function machineEpoch(
  workload: string,
  options: { warmSteps: number; epochSteps: number; requestsPerStep?: number },
): PageSet {
  const oracle = new SimOracle({
    memoryBytes: MACHINE_BYTES,
    diskBytes: MIB,
    workload,
    seed: 1n,
    beacons: 100,
  });
  try {
    const { warmSteps, epochSteps, requestsPerStep = 0 } = options;
    const end = warmSteps + epochSteps;
    if (requestsPerStep > 0) {
      const prng = new Prng(2);
      oracle.input(1, { op: 'open', stream: 1, seq: 1, data: new Uint8Array() });
      for (let step = 2; step <= end; step += 1) {
        const data = kvRequests(prng, requestsPerStep);
        oracle.input(step, { op: 'data', stream: 1, seq: step, data });
      }
    }
    oracle.runTo(warmSteps);
    const before = oracle.ram.read(0, MACHINE_BYTES);
    oracle.runTo(end);
    const after = oracle.ram.read(0, MACHINE_BYTES);
    const indexes: number[] = [];
    for (let at = 0; at < MACHINE_BYTES; at += PAGE_BYTES) {
      const isSame = before.compare(after, at, at + PAGE_BYTES, at, at + PAGE_BYTES) === 0;
      if (!isSame) indexes.push(at / PAGE_BYTES);
    }
    const pick = (ram: Buffer): Buffer =>
      Buffer.concat(
        indexes.map((page) => ram.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)),
      );
    return {
      name: `machine: ${workload}`,
      indexes: Uint32Array.from(indexes),
      old: pick(before),
      now: pick(after),
    };
  } finally {
    oracle.close();
  }
}

/** Makes the sets one after the other, so that only one is held at a time. */
export function* pageSets(): Generator<PageSet> {
  for (const name of Object.keys(SYNTHETIC)) yield synthetic(name);
  yield machineEpoch('random', { warmSteps: 500_000, epochSteps: 5_000 });
  yield machineEpoch('hotspot', { warmSteps: 500_000, epochSteps: 10_000 });
  yield machineEpoch('stream', { warmSteps: 100_000, epochSteps: 3_000 });
  yield machineEpoch('kv', { warmSteps: 1_500, epochSteps: 100, requestsPerStep: 50 });
}
