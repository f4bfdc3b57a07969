/** What a migration stream says, item by item, in the order in which it stands there. */

/** One block of RAM, as the stream lists it. */
export interface StreamBlock {
  readonly name: string;
  readonly usedBytes: number;
  /** Where the guest sees it; only listed with the capability x-ignore-shared. */
  readonly address: bigint | null;
}

/** A subsection of the configuration. */
export type ConfigurationPart =
  | { readonly kind: 'capabilities'; readonly names: readonly string[] }
  | { readonly kind: 'uuid'; readonly bytes: Uint8Array }
  | { readonly kind: 'targetPageBits'; readonly bits: number };

/** What the machine says of itself before anything else. */
export interface ConfigurationItem {
  readonly kind: 'configuration';
  readonly machine: string;
  readonly parts: readonly ConfigurationPart[];
  /** The section exactly as it was sent, its first byte included. */
  readonly verbatim: Uint8Array;
}

/** A page's content; `content` lies in the chunk that was pushed, so copy it to keep it. */
export interface PageItem {
  readonly kind: 'page';
  readonly block: string;
  readonly offset: number;
  readonly content: Uint8Array;
}

/** Everything a `StreamParser` returns. */
export type StreamItem =
  | { readonly kind: 'header'; readonly version: number }
  | ConfigurationItem
  | {
      readonly kind: 'section';
      readonly phase: 'start' | 'part' | 'end';
      readonly id: number;
    }
  | {
      readonly kind: 'blocks';
      readonly totalBytes: number;
      readonly blocks: readonly StreamBlock[];
    }
  | PageItem
  /** A page of which all bytes are the same. */
  | {
      readonly kind: 'fill';
      readonly block: string;
      readonly offset: number;
      readonly value: number;
    }
  | { readonly kind: 'sectionEnd'; readonly id: number }
  | { readonly kind: 'command'; readonly command: number; readonly data: Uint8Array }
  /** The first section that is not RAM begins: nothing after it can be parsed. */
  | { readonly kind: 'devices'; readonly section: string; readonly streamOffset: number }
  | { readonly kind: 'endOfSections' }
  | { readonly kind: 'description'; readonly text: string };
