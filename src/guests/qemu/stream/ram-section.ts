/**
 * The data of a RAM section: records that begin with a u64 of offset and flags, up to the record
 * that ends the section's data.
 */
import { assert } from '../../../base/assert.ts';
import type { ByteQueue } from './byte-queue.ts';
import { BLOCK_BYTES_MAX, RAM_FLAG, STREAM_BLOCKS_MAX, STREAM_PAGE_BYTES } from './format.ts';
import type { StreamBlock, StreamItem } from './items.ts';
import { type Reading, readName, streamError } from './reading.ts';

const FLAGS_MASK = BigInt(STREAM_PAGE_BYTES - 1);
/** Flags of ways to send pages that this parser does not read, by what turns them on. */
const FOREIGN_FLAGS: readonly (readonly [number, string])[] = [
  [RAM_FLAG.xbzrle, 'a page as XBZRLE (capability xbzrle)'],
  [RAM_FLAG.compressed, 'a compressed page (capability compress)'],
  [RAM_FLAG.hook, 'a hook (RDMA)'],
];

/** What is known of the RAM between its records and sections. */
export class RamReader {
  readonly #queue: ByteQueue;
  readonly #emit: (item: StreamItem) => void;
  /** Whether the block list gives addresses: the capability x-ignore-shared. */
  hasAddresses = false;
  #usedBytes: Map<string, number> | null = null;
  /** The last named block; "same block" reaches back over the ends of sections. */
  #block = '';

  constructor(queue: ByteQueue, emit: (item: StreamItem) => void) {
    this.#queue = queue;
    this.#emit = emit;
  }

  /** Reads records up to and with the one that ends the section's data. */
  *records(phase: 'start' | 'part' | 'end'): Reading<void> {
    const queue = this.#queue;
    for (;;) {
      yield 8;
      const word = queue.u64();
      const flags = Number(word & FLAGS_MASK);
      const offsetWord = word - BigInt(flags);
      if (flags === RAM_FLAG.endOfSection && offsetWord === 0n) {
        if (this.#usedBytes === null) throw streamError(queue, 'a RAM section without block list');
        return;
      }
      // Says only where pages sent over other channels belong; no page of ours is.
      if (flags === RAM_FLAG.multifdFlush && offsetWord === 0n) continue;
      if (flags === RAM_FLAG.totalBytes) {
        if (phase !== 'start' || this.#usedBytes !== null) {
          throw streamError(queue, 'a second list of RAM blocks');
        }
        yield* this.#blockList(offsetWord);
        continue;
      }
      yield* this.#page(flags, offsetWord);
    }
  }

  *#blockList(totalWord: bigint): Reading<void> {
    const queue = this.#queue;
    if (totalWord > BigInt(BLOCK_BYTES_MAX)) throw streamError(queue, 'an impossible RAM size');
    const totalBytes = Number(totalWord);
    const blocks: StreamBlock[] = [];
    const usedBytesOf = new Map<string, number>();
    for (let listedBytes = 0; listedBytes < totalBytes; ) {
      if (blocks.length === STREAM_BLOCKS_MAX) throw streamError(queue, 'too many RAM blocks');
      const name = yield* readName(queue, 'name of a RAM block');
      yield 8;
      const usedWord = queue.u64();
      if (usedWord === 0n || usedWord > BigInt(totalBytes - listedBytes)) {
        throw streamError(queue, `${usedWord} bytes as the size of RAM block ${name}`);
      }
      if (usedBytesOf.has(name)) throw streamError(queue, `RAM block ${name} twice`);
      let address: bigint | null = null;
      if (this.hasAddresses) {
        yield 8;
        address = queue.u64();
      }
      const usedBytes = Number(usedWord);
      blocks.push({ name, usedBytes, address });
      usedBytesOf.set(name, usedBytes);
      listedBytes += usedBytes;
    }
    this.#usedBytes = usedBytesOf;
    this.#emit({ kind: 'blocks', totalBytes, blocks });
  }

  *#page(flags: number, offsetWord: bigint): Reading<void> {
    const queue = this.#queue;
    for (const [flag, what] of FOREIGN_FLAGS) {
      if ((flags & flag) === 0) continue;
      throw streamError(queue, what, 'Turn the capability off (migrate-set-capabilities).');
    }
    const kind = flags & ~RAM_FLAG.sameBlock;
    if (kind !== RAM_FLAG.page && kind !== RAM_FLAG.fill) {
      throw streamError(queue, `a RAM record with flags 0x${flags.toString(16)}`);
    }
    if (this.#usedBytes === null) throw streamError(queue, 'a page before the list of blocks');
    if ((flags & RAM_FLAG.sameBlock) === 0) {
      this.#block = yield* readName(queue, 'name of a RAM block');
    }
    const usedBytes = this.#usedBytes.get(this.#block);
    if (usedBytes === undefined) {
      throw streamError(queue, `a page of the unlisted RAM block '${this.#block}'`);
    }
    if (offsetWord >= BigInt(usedBytes)) {
      throw streamError(queue, `a page at ${offsetWord}, outside RAM block ${this.#block}`);
    }
    const offset = Number(offsetWord);
    assert(offset % STREAM_PAGE_BYTES === 0, 'the offset of a page is a multiple of its size');
    if (kind === RAM_FLAG.fill) {
      yield 1;
      this.#emit({ kind: 'fill', block: this.#block, offset, value: queue.u8() });
      return;
    }
    yield STREAM_PAGE_BYTES;
    const content = queue.take(STREAM_PAGE_BYTES);
    this.#emit({ kind: 'page', block: this.#block, offset, content });
  }
}
