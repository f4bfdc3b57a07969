/** One message of every kind, for tests that go over all of them. */
import { asEpoch, asGeneration, PAGE_BYTES } from '../../src/base/units.ts';
import type { GuestDescriptor } from '../../src/codec/guest-descriptor.ts';
import type { Message } from '../../src/codec/messages.ts';
import {
  DEVICE_STATE_BLOCK_ID,
  encodePageBatches,
  type PageChange,
} from '../../src/codec/page-batch.ts';

export const GENERATION = asGeneration(7);

export const GUEST: GuestDescriptor = {
  kind: 'sim',
  name: 'machine',
  blocks: [{ id: 0, name: 'ram', bytes: 16 * 1024 * 1024 }],
  disks: [
    { id: 0, name: 'root', bytes: 1024 * 1024 },
    { id: 1, name: 'data', bytes: 2_097_664 },
  ],
  diskMode: 'replicate',
  profile: { workload: 'counter', seed: 1 },
};

function pageWith(bytes: Readonly<Record<number, number>>): Uint8Array {
  const page = new Uint8Array(PAGE_BYTES);
  for (const [at, value] of Object.entries(bytes)) page[Number(at)] = value;
  return page;
}

function onlyBatch(changes: readonly PageChange[], blockId: number): Uint8Array {
  const [batch, more] = encodePageBatches(changes, { blockId, mode: 'delta' });
  if (batch === undefined || more !== undefined) throw new Error('a sample is one batch');
  return batch;
}

const ZEROS = new Uint8Array(PAGE_BYTES);

/**
 * The page batch of the samples, against pages that held: 3 all ones, 5 and 6 zeros. Page 3 becomes
 * zeros, page 5 gets two runs, page 6 many scattered bytes, which travel as a mask.
 */
export function samplePageBatch(): Uint8Array {
  const scattered = Object.fromEntries(
    Array.from({ length: 24 }, (_, index) => [index * 7, index + 1]),
  );
  return onlyBatch(
    [
      { pageIndex: 3, now: ZEROS, old: new Uint8Array(PAGE_BYTES).fill(0xff) },
      { pageIndex: 5, now: pageWith({ 8: 0xaa, 9: 0xbb, 300: 0xcc }), old: ZEROS },
      { pageIndex: 6, now: pageWith(scattered), old: ZEROS },
    ],
    0,
  );
}

/** A device state of 3000 bytes, all zeros before, whose third byte has become 7. */
function sampleDeviceState(): Uint8Array {
  return onlyBatch([{ pageIndex: 0, now: pageWith({ 2: 7 }), old: ZEROS }], DEVICE_STATE_BLOCK_ID);
}

/** A sample of each kind; `satisfies` keeps the list complete. */
export const SAMPLES = {
  hello: {
    kind: 'hello',
    protocolVersion: 1,
    node: 'b',
    instance: 'b#4f2a',
    guest: GUEST,
    capabilities: ['lz4'],
    lastApplied: { instance: 'b#4f2a', epoch: asEpoch(41) },
  },
  welcome: {
    kind: 'welcome',
    node: 'a',
    instance: 'a#90c1',
    guest: GUEST,
    plan: 'resume',
    fromEpoch: asEpoch(42),
    heartbeatPort: 7071,
    heartbeatIntervalMs: 10,
    promiseMs: 40,
  },
  ready: { kind: 'ready', instance: 'b#4f2a' },
  baseImage: { kind: 'baseImage', batch: samplePageBatch() },
  baseDisk: {
    kind: 'baseDisk',
    write: { disk: 0, offset: 4096, lengthBytes: 3, data: Uint8Array.of(1, 2, 3) },
  },
  baseEnd: {
    kind: 'baseEnd',
    epoch: asEpoch(42),
    pages: 4096,
    batches: 16,
    diskBytes: 1_048_576,
    digest: 0xdead_beef,
  },
  epochBegin: {
    kind: 'epochBegin',
    epoch: asEpoch(42),
    startedAtNs: 9_007_199_254_740_993n,
    flags: 0,
  },
  pages: { kind: 'pages', epoch: asEpoch(42), batch: samplePageBatch() },
  disk: {
    kind: 'disk',
    epoch: asEpoch(42),
    writes: [
      { disk: 0, offset: 512, lengthBytes: 4, data: Uint8Array.of(9, 8, 7, 6) },
      { disk: 1, offset: 65_536, lengthBytes: 1_048_576, data: null },
      { disk: 0, offset: 516, lengthBytes: 1, data: Uint8Array.of(5) },
    ],
  },
  deviceState: {
    kind: 'deviceState',
    epoch: asEpoch(42),
    totalBytes: 3000,
    batch: sampleDeviceState(),
  },
  outputMark: { kind: 'outputMark', epoch: asEpoch(42), framesSent: 1234, diskWrites: 3 },
  epochEnd: {
    kind: 'epochEnd',
    epoch: asEpoch(42),
    pages: 2,
    batches: 1,
    diskWrites: 3,
    bytes: 137,
    digest: 0x0102_0304,
  },
  ack: { kind: 'ack', epoch: asEpoch(42), instance: 'b#4f2a', promiseUs: 40_000 },
  applied: { kind: 'applied', epoch: asEpoch(42), instance: 'b#4f2a' },
  heartbeat: { kind: 'heartbeat', seq: 99, sentAtNs: 123_456_789_012_345n },
  heartbeatReply: {
    kind: 'heartbeatReply',
    seq: 99,
    sentAtNs: 123_456_789_012_345n,
    promiseUs: 40_000,
    instance: 'b#4f2a',
  },
  paired: { kind: 'paired', generation: asGeneration(8), instance: 'b#4f2a' },
  scrubRequest: { kind: 'scrubRequest', epoch: asEpoch(50) },
  scrubReply: { kind: 'scrubReply', epoch: asEpoch(50), digest: '00ff00ff00ff00ff' },
  machinePaused: { kind: 'machinePaused', epoch: asEpoch(51) },
  goodbye: { kind: 'goodbye', reason: 'shutdown', text: 'asked to stop' },
  error: {
    kind: 'error',
    code: 'ERR_PROTOCOL_BACKUP_PRESENT',
    message: 'this guest has a backup already',
    remedy: 'Stop the other backup first.',
  },
} satisfies { [Kind in Message['kind']]: Extract<Message, { kind: Kind }> };

export const SAMPLE_LIST: readonly Message[] = Object.values(SAMPLES);
