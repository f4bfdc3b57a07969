/**
 * Turns a captured checkpoint, or a stretch of the base image, into frames for the link. The order
 * of an epoch's frames is the protocol's: begin, pages, disk, device state, output mark, end.
 */
import { asEpoch, type Generation } from '../base/units.ts';
import { PayloadDigest } from '../codec/checksum.ts';
import type { Compressor } from '../codec/compress.ts';
import { encodedPayloadFacts, encodeFrame } from '../codec/frame.ts';
import { FLAG_LZ4 } from '../codec/kinds.ts';
import { DISK_FRAME_BYTES_MAX, DISK_WRITES_PER_FRAME_MAX } from '../codec/limits.ts';
import { type DiskWrite, encodeMessage } from '../codec/messages.ts';
import type { CheckpointResult } from './capture-types.ts';
import { buffersOf, payloadsOf, type SealedBatch } from './sealed-batch.ts';
import type { QueuedEpoch } from './epoch-queue.ts';

type Parts = Uint8Array[];

/** Leaves room for the table in front of the data. */
const DISK_GROUP_BYTES = DISK_FRAME_BYTES_MAX / 2;

/** Sums over the frames of the base image, for its end message. */
export class BaseSums {
  readonly #digest = new PayloadDigest();
  pages = 0;
  batches = 0;
  diskBytes = 0;
  bytes = 0;

  get digest(): number {
    return this.#digest.value;
  }

  count(frame: Parts): void {
    const { payloadCrc, payloadBytes } = encodedPayloadFacts(frame);
    this.#digest.add(payloadCrc);
    this.bytes += payloadBytes;
  }
}

/** The frame of one page batch. */
export function batchFrame(
  kind: 'pages' | 'baseImage',
  batch: SealedBatch,
  epoch: number,
  generation: Generation,
): Parts {
  return encodeFrame(
    { kind, flags: batch.compressed ? FLAG_LZ4 : 0, generation, epoch: asEpoch(epoch) },
    batch.payload,
    batch.crc ?? undefined,
  );
}

/** Splits writes so that each group fits one `disk` frame. */
function groupWrites(writes: readonly DiskWrite[]): DiskWrite[][] {
  const groups: DiskWrite[][] = [];
  let group: DiskWrite[] = [];
  let bytes = 0;
  for (const write of writes) {
    const weight = 16 + (write.data?.byteLength ?? 0);
    if (
      group.length > 0 &&
      (bytes + weight > DISK_GROUP_BYTES || group.length >= DISK_WRITES_PER_FRAME_MAX)
    ) {
      groups.push(group);
      group = [];
      bytes = 0;
    }
    group.push(write);
    bytes += weight;
  }
  if (group.length > 0) groups.push(group);
  return groups;
}

/** All frames of one epoch. */
export function epochFrames(
  checkpoint: CheckpointResult,
  disk: readonly DiskWrite[],
  options: { generation: Generation; compressor: Compressor; startedAtNs: bigint },
): QueuedEpoch {
  const { generation, compressor, startedAtNs } = options;
  const epoch = asEpoch(checkpoint.epoch);
  const digest = new PayloadDigest();
  let payloadBytesTotal = 0;
  const body: Parts[] = [];
  const add = (frame: Parts): void => {
    const { payloadBytes, payloadCrc } = encodedPayloadFacts(frame);
    digest.add(payloadCrc);
    payloadBytesTotal += payloadBytes;
    body.push(frame);
  };

  let pages = 0;
  for (const batch of checkpoint.batches) {
    pages += batch.pages;
    add(batchFrame('pages', batch, epoch, generation));
  }
  for (const writes of groupWrites(disk))
    add(encodeMessage({ kind: 'disk', epoch, writes }, { generation, compressor }));
  add(
    encodeMessage(
      {
        kind: 'deviceState',
        epoch,
        totalBytes: checkpoint.deviceStateBytes,
        batch: checkpoint.deviceState,
      },
      { generation, compressor },
    ),
  );
  const { framesSent, diskWrites } = checkpoint;
  add(encodeMessage({ kind: 'outputMark', epoch, framesSent, diskWrites }, { generation }));

  const begin = encodeMessage({ kind: 'epochBegin', epoch, startedAtNs, flags: 0 }, { generation });
  const end = encodeMessage(
    {
      kind: 'epochEnd',
      epoch,
      pages,
      batches: checkpoint.batches.length,
      diskWrites: disk.length,
      bytes: payloadBytesTotal,
      digest: digest.value,
    },
    { generation },
  );
  const frames = [begin, ...body, end];
  let bytes = 0;
  for (const frame of frames) for (const part of frame) bytes += part.byteLength;
  const buffers = buffersOf([...payloadsOf(checkpoint.batches), checkpoint.deviceState]);
  return { epoch, frames, bytes, buffers };
}
