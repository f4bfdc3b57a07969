/**
 * Keeps a waiting QEMU's small RAM blocks (ROMs, ACPI tables, video memory) close to the replicated
 * ones, so that at promotion only the few pages that changed since are left to send: reading and
 * feeding half a megabyte of ROMs took as long as everything else together.
 *
 * The replicated pages lie in memory that the apply thread writes; here they are compared with what
 * was sent last, page by page. A page caught in the middle of a write is seen again as different
 * later, so what QEMU holds after the last `changedPages()` is right whatever came before.
 *
 * It neither knows when to send nor how: it only says which pages.
 */
import { readSync } from 'node:fs';
import { assert } from '../../../base/assert.ts';
import { STREAM_PAGE_BYTES } from '../stream/format.ts';
import type { StreamPage } from '../stream/writer.ts';

/** A small block: its replicated content lies behind `fd`, from the start. */
export interface FedBlock {
  readonly name: string;
  /** As much as is in use, whole pages. */
  readonly usedBytes: number;
  readonly fd: number;
}

interface Fed extends FedBlock {
  /** What the waiting QEMU was sent; zeros at first, which must be sent too. */
  readonly sent: Buffer;
}

/** How much is looked at in one step, so that no step holds its thread up for long. */
export const FEED_STEP_BYTES = 1024 * 1024;

/** Finds the pages of small blocks that differ from what was sent. */
export class SmallBlockFeed {
  readonly #blocks: readonly Fed[];
  readonly #current = Buffer.alloc(FEED_STEP_BYTES);
  #nextBlock = 0;
  #nextOffset = 0;

  constructor(blocks: readonly FedBlock[]) {
    this.#blocks = blocks.map((block) => {
      assert(block.usedBytes % STREAM_PAGE_BYTES === 0, 'small blocks are whole pages');
      return {
        name: block.name,
        usedBytes: block.usedBytes,
        fd: block.fd,
        sent: Buffer.alloc(block.usedBytes),
      };
    });
  }

  /** Every page as it counts as sent: for the first sending, before any `changedPages`. */
  *allPages(): Iterable<StreamPage> {
    for (const { name, usedBytes, sent } of this.#blocks) {
      for (let offset = 0; offset < usedBytes; offset += STREAM_PAGE_BYTES) {
        const content = sent.subarray(offset, offset + STREAM_PAGE_BYTES);
        yield { block: name, offset, content };
      }
    }
  }

  /**
   * All pages that differ; they count as sent from now on. Their contents are valid until the next
   * call.
   */
  changedPages(): StreamPage[] {
    const pages: StreamPage[] = [];
    for (const block of this.#blocks) {
      for (let offset = 0; offset < block.usedBytes; offset += FEED_STEP_BYTES) {
        this.#compare(block, offset, pages);
      }
    }
    return pages;
  }

  /** As `changedPages`, for about the next FEED_STEP_BYTES only, round and round. */
  nextChangedPages(): StreamPage[] {
    const pages: StreamPage[] = [];
    // Each block at most once, or a single small one would be compared over and over.
    for (let rest = FEED_STEP_BYTES, count = this.#blocks.length; rest > 0 && count > 0; ) {
      const block = this.#blocks[this.#nextBlock];
      assert(block !== undefined, 'the next small block is one of them');
      this.#compare(block, this.#nextOffset, pages);
      const comparedBytes = Math.min(FEED_STEP_BYTES, block.usedBytes - this.#nextOffset);
      rest -= comparedBytes;
      this.#nextOffset += comparedBytes;
      if (this.#nextOffset < block.usedBytes) continue;
      this.#nextOffset = 0;
      this.#nextBlock = (this.#nextBlock + 1) % this.#blocks.length;
      count -= 1;
    }
    return pages;
  }

  #compare({ name, usedBytes, fd, sent }: Fed, from: number, pages: StreamPage[]): void {
    const byteCount = Math.min(FEED_STEP_BYTES, usedBytes - from);
    const current = this.#current.subarray(0, byteCount);
    readExactly(fd, current, from);
    if (current.equals(sent.subarray(from, from + byteCount))) return;
    for (let at = 0; at < byteCount; at += STREAM_PAGE_BYTES) {
      const page = current.subarray(at, at + STREAM_PAGE_BYTES);
      const before = sent.subarray(from + at, from + at + STREAM_PAGE_BYTES);
      if (page.equals(before)) continue;
      page.copy(before);
      pages.push({ block: name, offset: from + at, content: before });
    }
  }
}

function readExactly(fd: number, into: Buffer, offset: number): void {
  let filled = 0;
  while (filled < into.byteLength) {
    const bytesRead = readSync(fd, into, filled, into.byteLength - filled, offset + filled);
    assert(bytesRead > 0, 'the memory of a small block is shorter than the block');
    filled += bytesRead;
  }
}
