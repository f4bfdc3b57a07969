/** Picks out of a machine's own stream what is to be learnt from it, and knows when that is all there. */
import { RomulusError } from '../../../base/errors.ts';
import { STREAM_PAGE_BYTES } from './format.ts';
import type { StreamItem } from './items.ts';

/** Most bytes of blocks' contents that are kept. */
export const CONTENTS_BYTES_MAX = 256 * 1024 * 1024;

/** What a machine's own stream tells. */
export interface Learnt {
  /** The machine type, as the configuration names it; empty when the stream has none. */
  readonly machine: string;
  /** The configuration section, verbatim; empty when the machine sends none. */
  readonly configuration: Uint8Array;
  /** In the order of the stream: the largest first. */
  readonly blocks: readonly { readonly name: string; readonly usedBytes: number }[];
  /** The blocks of `contentsOf`, as they were at some time while it ran. */
  readonly contents: ReadonlyMap<string, Uint8Array>;
}

/** Keeps what is asked for of the items that pass. */
export class StreamCollector {
  readonly #wanted: readonly string[];
  #machine = '';
  #configuration = new Uint8Array(0);
  #blocks: Learnt['blocks'] | null = null;
  readonly #contents = new Map<string, Uint8Array>();
  /** Pages not seen yet, by block. */
  readonly #missing = new Map<string, Set<number>>();

  constructor(wanted: readonly string[]) {
    this.#wanted = wanted;
  }

  get isComplete(): boolean {
    return this.#blocks !== null && this.#missing.size === 0;
  }

  take(item: StreamItem): void {
    switch (item.kind) {
      case 'configuration':
        this.#machine = item.machine;
        this.#configuration = Uint8Array.from(item.verbatim);
        break;
      case 'blocks':
        this.#blocks = item.blocks.map(({ name, usedBytes }) => ({ name, usedBytes }));
        this.#expectContents();
        break;
      case 'page':
        this.#contents.get(item.block)?.set(item.content, item.offset);
        this.#seen(item.block, item.offset);
        break;
      case 'fill':
        this.#contents
          .get(item.block)
          ?.fill(item.value, item.offset, item.offset + STREAM_PAGE_BYTES);
        this.#seen(item.block, item.offset);
        break;
      case 'devices':
      case 'endOfSections':
        if (!this.isComplete) throw endedEarly('its RAM ended');
        break;
      default:
        break;
    }
  }

  learnt(): Learnt {
    return {
      machine: this.#machine,
      configuration: this.#configuration,
      blocks: this.#blocks ?? [],
      contents: this.#contents,
    };
  }

  #seen(block: string, offset: number): void {
    const pages = this.#missing.get(block);
    if (pages === undefined) return;
    pages.delete(offset / STREAM_PAGE_BYTES);
    if (pages.size === 0) this.#missing.delete(block);
  }

  #expectContents(): void {
    let totalBytes = 0;
    for (const name of this.#wanted) {
      const usedBytes = this.#blocks?.find((block) => block.name === name)?.usedBytes;
      if (usedBytes === undefined) throw stateError(`has no RAM block ${name}`);
      totalBytes += usedBytes;
      if (totalBytes > CONTENTS_BYTES_MAX) {
        throw new RomulusError(
          'ERR_LIMIT_GUEST_CONTENTS',
          `the contents of ${totalBytes} bytes of RAM blocks are more than may be kept`,
          { remedy: 'Ask for small blocks only.', details: { bytesMax: CONTENTS_BYTES_MAX } },
        );
      }
      const pageCount = Math.ceil(usedBytes / STREAM_PAGE_BYTES);
      this.#contents.set(name, new Uint8Array(usedBytes));
      this.#missing.set(name, new Set(Array.from({ length: pageCount }, (_, index) => index)));
    }
  }
}

/** The machine is in a state in which nothing can be learnt from it. */
export function stateError(what: string): RomulusError {
  return new RomulusError('ERR_GUEST_STATE', `the machine ${what}`, {
    remedy: 'Wait until that is over (`query-migrate` tells), then try again.',
  });
}

/** The stream ended too soon. */
export function endedEarly(why: string): RomulusError {
  return new RomulusError(
    'ERR_PROTOCOL_MIGRATION_STREAM',
    `the migration stream ended before it told what is needed: ${why}`,
    { remedy: "Look at QEMU's own messages; a machine of less than a megabyte cannot be read." },
  );
}
