/**
 * What travels for an epoch: pages of real machines, captured as the engine does it, encoded as
 * deltas and then LZ4 where it pays; beside it, for the very same pages, no delta at all, LZ4 alone and
 * gzip alone. The device state likewise.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import lz4 from 'lz4';
import { MIB, PAGE_BYTES } from '../src/base/units.ts';
import { Compressor } from '../src/codec/compress.ts';
import { DEVICE_STATE_BLOCK_ID } from '../src/codec/page-batch.ts';
import type { SimWorkload } from '../src/guests/sim/info.ts';
import { attachSim } from '../src/guests/sim/sim-guest.ts';
import { startSim } from '../src/guests/sim/spawn.ts';
import { Capture } from '../src/native/capture.ts';
import { Memory } from '../src/native/memory.ts';
import { Baseline } from '../src/native/page-store.ts';
import { Tracker } from '../src/native/tracker.ts';
import { type BenchResult, type Claim, numberOf, type Row, rounded } from './lib/result.ts';

const MEMORY_BYTES = 64 * MIB;
const INTERVAL_MS = 25;
/** Until the working set was written once: first writes to a page of zeros are no deltas. */
const WARM_MS = 1500;
const LZ4_BLOCK_BYTES = MIB;
/** gzip is slow: it sees the pages of every so many epochs. */
const GZIP_EVERY_EPOCHS = 8;
/** Issue's bound for `hotspot` and `kv`. */
const LZ4_SHARE_MAX = 0.6;
const STEPS_PER_SECOND = 40_000;
const WORKLOADS = ['hotspot', 'kv', 'random', 'stream', 'counter'] as const;

interface Sums {
  epochs: number;
  steps: number;
  rawBytes: number;
  deltaBytes: number;
  sentBytes: number;
  lz4Bytes: number;
  gzipRawBytes: number;
  gzipBytes: number;
  stateBytes: number;
  stateSentBytes: number;
}

function lz4Size(pages: Buffer, scratch: Buffer): number {
  let total = 0;
  for (let at = 0; at < pages.byteLength; at += LZ4_BLOCK_BYTES) {
    const block = pages.subarray(at, at + LZ4_BLOCK_BYTES);
    const bytes = lz4.encodeBlock(block, scratch);
    total += bytes > 0 ? Math.min(bytes, block.byteLength) : block.byteLength;
  }
  return total;
}

function stagedPages(capture: Capture): Buffer {
  return Buffer.concat(
    Array.from(capture.stagedIndexes(), (_, position) => capture.stagedPage(position)),
  );
}

async function measureWorkload(workload: SimWorkload, epochs: number): Promise<Row> {
  const directory = await mkdtemp(join(tmpdir(), 'romulus-bench-'));
  const socketPath = join(directory, 'm.sock');
  const machine = await startSim({
    socketPath,
    memoryBytes: MEMORY_BYTES,
    workload,
    rate: STEPS_PER_SECOND,
    beacons: 1000,
  });
  const kill = (): void => machine.kill('SIGKILL');
  process.once('exit', kill);
  try {
    await sleep(WARM_MS);
    return rowOf(workload, await sumEpochs(socketPath, epochs));
  } finally {
    await machine.stop();
    process.off('exit', kill);
    await rm(directory, { recursive: true });
  }
}

async function sumEpochs(socketPath: string, epochs: number): Promise<Sums> {
  const guest = await attachSim({ socketPath });
  const [block] = guest.blocks;
  if (block === undefined) throw new Error('a machine without RAM');
  const { address, bytes, sharedPath } = block;
  const memory =
    sharedPath === null ? null : Memory.map({ path: sharedPath, bytes, writable: false });
  const tracker = new Tracker({ pid: guest.pid, ranges: [{ address, bytes }], kind: 'auto' });
  const capture = new Capture({ tracker, block: 0, threads: 2, ...(memory && { memory }) });
  const baseline = new Baseline({ pages: bytes / PAGE_BYTES });
  const deviceBaseline = new Baseline({ pages: 64 });
  const compressor = new Compressor();
  const scratch = Buffer.allocUnsafeSlow(lz4.encodeBound(LZ4_BLOCK_BYTES));
  const sums: Sums = {
    epochs: 0,
    steps: 0,
    rawBytes: 0,
    deltaBytes: 0,
    sentBytes: 0,
    lz4Bytes: 0,
    gzipRawBytes: 0,
    gzipBytes: 0,
    stateBytes: 0,
    stateSentBytes: 0,
  };
  let lastPosition = 0;
  try {
    // Epoch 0 is the base image and counts for nothing.
    for (let epoch = 0; epoch <= epochs; epoch += 1) {
      const { position } = await guest.suspend();
      capture.capture({ full: epoch === 0 });
      const state = await guest.saveDeviceState();
      const staged = capture.staged();
      const encoded = baseline.encode(staged, { blockId: 0, epoch, mode: 'delta' });
      const statePages = new Uint8Array(Math.ceil(state.byteLength / PAGE_BYTES) * PAGE_BYTES);
      statePages.set(state);
      const indexes = Uint32Array.from({ length: statePages.length / PAGE_BYTES }, (_, i) => i);
      const stateEncoded = deviceBaseline.encodePages(indexes, statePages, {
        blockId: DEVICE_STATE_BLOCK_ID,
        epoch,
        mode: 'delta',
      });
      if (epoch > 0) {
        const pages = stagedPages(capture);
        sums.epochs += 1;
        sums.steps += position - lastPosition;
        sums.rawBytes += encoded.rawBytes;
        sums.deltaBytes += encoded.encodedBytes;
        for (const batch of encoded.batches)
          sums.sentBytes += (compressor.compress('pages', [batch]) ?? batch).byteLength;
        sums.lz4Bytes += lz4Size(pages, scratch);
        if (epoch % GZIP_EVERY_EPOCHS === 0) {
          sums.gzipRawBytes += pages.byteLength;
          sums.gzipBytes += gzipSync(pages, { level: 1 }).byteLength;
        }
        sums.stateBytes += state.byteLength;
        sums.stateSentBytes += stateEncoded.encodedBytes;
      }
      lastPosition = position;
      // Only now: what is measured here must not make the next epoch longer.
      await guest.resume();
      await sleep(INTERVAL_MS);
    }
  } finally {
    baseline.close();
    deviceBaseline.close();
    capture.close();
    tracker.close();
    memory?.close();
    await guest.detach();
  }
  return sums;
}

function rowOf(workload: string, sums: Sums): Row {
  const percent = (bytes: number, of: number): number => rounded(of === 0 ? 0 : (100 * bytes) / of);
  return {
    workload,
    epochs: sums.epochs,
    stepsPerEpoch: Math.round(sums.steps / sums.epochs),
    pagesPerEpoch: Math.round(sums.rawBytes / PAGE_BYTES / sums.epochs),
    rawKbPerEpoch: rounded(sums.rawBytes / sums.epochs / 1000),
    sentKbPerEpoch: rounded(sums.sentBytes / sums.epochs / 1000),
    deltaPercent: percent(sums.deltaBytes, sums.rawBytes),
    sentPercent: percent(sums.sentBytes, sums.rawBytes),
    lz4OnlyPercent: percent(sums.lz4Bytes, sums.rawBytes),
    gzipPercent: percent(sums.gzipBytes, sums.gzipRawBytes),
    sentToLz4Only: rounded(sums.sentBytes / sums.lz4Bytes),
    deviceStateBytes: Math.round(sums.stateBytes / sums.epochs),
    deviceStateSentBytes: Math.round(sums.stateSentBytes / sums.epochs),
  };
}

/** Captures `epochs` epochs of every workload. */
export async function run(options: { epochs?: number } = {}): Promise<BenchResult> {
  const rows: Row[] = [];
  for (const workload of WORKLOADS)
    rows.push(await measureWorkload(workload, options.epochs ?? 80));
  const claims = ['hotspot', 'kv'].map(
    (workload): Claim => ({
      what: `${workload}: sent bytes to LZ4 of the pages alone`,
      measured: numberOf(
        rows.find((row) => row['workload'] === workload),
        'sentToLz4Only',
      ),
      relation: 'at most',
      bound: LZ4_SHARE_MAX,
      unit: '',
    }),
  );
  return {
    name: 'sent-bytes',
    rows,
    claims,
    notes: [
      `${MEMORY_BYTES / MIB} MiB machines at ${STEPS_PER_SECOND} steps a second, epochs of about ${INTERVAL_MS} ms; the machine stands still while its pages are measured.`,
      'percent: of the dirty pages as they are (no delta is 100). sent: deltas, then LZ4 where it pays.',
      'LZ4 and gzip level 1 see the same pages without a baseline, in blocks of 1 MiB and whole.',
    ],
  };
}
